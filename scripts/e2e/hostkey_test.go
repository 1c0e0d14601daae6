package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// On its first start the acceptor makes itself a host key, and keeps it.
func TestAcceptorMakesHostKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runDir := filepath.Join(shortDir(t), "run")
	begin := func() *acceptor {
		// Everything at its default but what would leave this directory or need a fixed port.
		cmd := exec.Command(acceptorProgram(), "serve", "--listen", "127.0.0.1:0", "--run-dir", runDir, "--log-format", "json")
		cmd.Dir = dir
		a := &acceptor{process: startCmd(t, cmd), runDir: runDir}
		a.port = portOf(t, loopbackAddress(t, a.waitReady(t)))
		return a
	}
	scan := func(a *acceptor) string {
		out := string(output(t, "ssh-keyscan", "-t", "ed25519", "-p", strings.TrimPrefix(a.address(), "127.0.0.1:"), "127.0.0.1"))
		_, public, found := strings.Cut(strings.TrimSpace(out), " ")
		if !found {
			t.Fatalf("ssh-keyscan: %q", out)
		}
		return public
	}

	first := begin()
	path := filepath.Join(dir, "data", "acceptor", "ssh_host_ed25519_key")
	if got := perm(t, path); got != 0o600 {
		t.Errorf("%s has the mode %o, want 600", path, got)
	}
	public := scan(first)
	if own := loadKey(t, path).public; own != public {
		t.Errorf("the acceptor shows %s, the file holds %s", public, own)
	}
	if code := first.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the first acceptor ended with %d", code)
	}
	if again := scan(begin()); again != public {
		t.Errorf("after a restart the host key is %s, was %s", again, public)
	}
}

// The two sockets are the frontend's way in, for its own uid only.
func TestSocketModes(t *testing.T) {
	t.Parallel()
	a := startAcceptor(t)
	f := newFrontend(t, a.runDir)
	f.serve(t)
	for path, want := range map[string]uint32{
		a.runDir:                                0o750,
		filepath.Join(a.runDir, "control.sock"): 0o660,
		filepath.Join(a.runDir, "dial.sock"):    0o660,
		f.mcpSocket:                             0o600,
	} {
		if got := uint32(perm(t, path)); got != want {
			t.Errorf("%s has the mode %o, want %o", path, got, want)
		}
	}
}
