package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
)

// dropbear, which many small devices have, gives a command no process group of
// its own. Even so nothing is left of a pipeline that was stopped, and what a
// command prints and returns is its own.
func TestDropbearDevice(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("not root: dropbear reads the keys of a user of its own")
		return
	}
	userKey, hostKey := newKey(t), newKey(t)
	port := startDropbear(t, hostKey, userKey)
	f := newFrontend(t, "")
	for _, name := range []string{"probed", "declared"} {
		e := entry{"name": name, "mode": "direct", "user": string(logins[0]), "host": "127.0.0.1", "port": port}
		if name == "declared" {
			e["login_shell"] = "posix"
		}
		f.add(t, e, userKey, fmt.Sprintf("[127.0.0.1]:%d %s", port, hostKey.public))
	}
	c := f.stdio(t)
	for _, name := range []string{"probed", "declared"} {
		run := c.run(t, name, "printf 'it'\\''s %s\\n' here; ls /nonexistent")
		run.exited(t, 2)
		if run.Stdout != "it's here\n" || run.Stderr == "" {
			t.Errorf("%s: stdout %q, stderr %q", name, run.Stdout, run.Stderr)
		}
		m := newMarked(t)
		run = c.run(t, name, fmt.Sprintf("echo begun; sleep %[1]s | cat | sleep %[1]s", m.number), args{"timeout_s": 1})
		left := m.pids(t)
		if run.Outcome != "timed_out" || run.RemoteState != "stopped" || run.Stdout != "begun\n" || len(left) > 0 {
			t.Errorf("%s: outcome %q, remote_state %q, stdout %q, %v left", name, run.Outcome, run.RemoteState, run.Stdout, left)
		}
	}
}

// startDropbear starts a server that lets the key in as the unprivileged user.
func startDropbear(t *testing.T, hostKey, authorized key) (port int) {
	t.Helper()
	u, err := user.Lookup(string(logins[0]))
	if err != nil {
		t.Fatal(err)
	}
	dir := mkdir(t, u.HomeDir, ".ssh")
	keys := filepath.Join(dir, "authorized_keys")
	write(t, keys, lines(authorized.public), 0o600)
	t.Cleanup(func() { _ = os.Remove(keys) })
	output(t, "chown", "-R", string(logins[0])+":", dir)
	converted := filepath.Join(t.TempDir(), "host")
	output(t, "dropbearconvert", "openssh", "dropbear", hostKey.path, converted)
	port = freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	startCmd(t, exec.Command("dropbear", "-F", "-E", "-s", "-r", converted, "-P", converted+".pid", "-p", address))
	eventually(t, soon, "dropbear listens", func() error {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			err = nc.Close()
		}
		return err
	})
	return port
}
