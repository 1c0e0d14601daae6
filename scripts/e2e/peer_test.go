package e2e

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The local sockets check who connects, whatever the file modes allow.
func TestForeignUserIsRefused(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("not root: nobody else to connect as")
		return
	}
	g := newGateway(t)
	g.openTunnel(t)
	g.frontend.serve(t)
	open := map[string]os.FileMode{
		g.acceptor.runDir: 0o755,
		filepath.Join(g.acceptor.runDir, "control.sock"): 0o666,
		filepath.Join(g.acceptor.runDir, "dial.sock"):    0o666,
		filepath.Dir(g.acceptor.runDir):                  0o755,
		g.frontend.mcpSocket:                             0o666,
	}
	for path, mode := range open { // as a careless operator would
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })

	t.Run("control.sock", func(t *testing.T) {
		done := runCmd(t, asForeignUser(t, acceptorProgram(), "list", "--json", "--run-dir", g.acceptor.runDir))
		if done.code != 1 || strings.Contains(done.stdout, tunnelDevice) || done.stderr == "" {
			t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and a reason", done.code, done.stdout, done.stderr)
		}
		noStackTrace(t, done.stderr)
	})
	t.Run("dial.sock", func(t *testing.T) {
		f := newFrontend(t, g.acceptor.runDir)
		f.addTunnel(t, tunnelDevice, tunnelPort, g.behind, logins[0], g.userKey)
		done := runCmd(t, asForeignUser(t, frontendProgram(), "trust", tunnelDevice, "--acceptor-dir", g.acceptor.runDir,
			"--connections", readableByOthers(t, f.connections), "--known-hosts", readableByOthers(t, f.knownHosts)))
		if done.code != 1 || done.stdout != "" {
			t.Errorf("exit code %d, stdout %q, stderr %q; want 1", done.code, done.stdout, done.stderr)
		}
		noStackTrace(t, done.stderr)
	})
	t.Run("mcp.sock", func(t *testing.T) {
		attach := asForeignUser(t, frontendProgram(), "attach", "--mcp-socket", g.frontend.mcpSocket)
		attach.Stdin = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}` + "\n")
		if done := runCmd(t, attach); strings.Contains(done.stdout, "ssh_run") {
			t.Errorf("another user was served: exit code %d, stdout %q", done.code, done.stdout)
		}
	})

	// They still serve their own user.
	eventually(t, soon, "the device works", func() error { return errorOf(g.frontend.attach(t).works(t, tunnelDevice)) })
}

// A further uid that is named may use the acceptor's sockets.
func TestAllowedUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("not root: nobody else to connect as")
		return
	}
	foreign, err := user.Lookup(string(logins[0]))
	if err != nil {
		t.Fatal(err)
	}
	a := newAcceptor(t)
	a.extra = []string{"--allow-uid", foreign.Uid}
	a.start(t)
	for path, mode := range map[string]os.FileMode{a.runDir: 0o755, filepath.Join(a.runDir, "control.sock"): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if done := runCmd(t, asForeignUser(t, acceptorProgram(), "list", "--json", "--run-dir", a.runDir)); done.code != 0 {
		t.Errorf("exit code %d: %s", done.code, done.stderr)
	}
}

// asForeignUser runs a copy of the program, which lies where everybody can
// run it, as the unprivileged user.
func asForeignUser(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	foreign, err := user.Lookup(string(logins[0]))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(readableByOthers(t, program), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: number(t, foreign.Uid), Gid: number(t, foreign.Gid)}}
	return cmd
}

// readableByOthers copies a file to where its name is short and everybody may read and run it.
func readableByOthers(t *testing.T, path string) string {
	t.Helper()
	to := filepath.Join(shortDir(t), filepath.Base(path))
	// By another process: a program that we are writing cannot be started while
	// a child that another test forked meanwhile still has the file open.
	output(t, "install", "-m", "755", path, to)
	return to
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}
