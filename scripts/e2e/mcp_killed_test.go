package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eofGrace is how long runs may go on after their client's end, and
// afterwards is what it may take then to stop them, generously.
const (
	eofGrace   = 2 * time.Second
	afterwards = 3 * time.Second
)

// A client that is killed ends its conversation: its run goes on for the grace
// and is then stopped on the device, and none of our processes stays.
func TestClientKilled(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	daemon := f.serve(t)
	bystander := f.attach(t)

	for _, test := range []struct {
		name    string
		command string
		kill    func(mcpClient) *process // the process to kill
	}{
		{"the client of attach", "attach", func(c mcpClient) *process { return c.client }},
		{"attach itself", "attach", func(c mcpClient) *process { return c.server }},
		{"the client of stdio", "stdio", func(c mcpClient) *process { return c.client }},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, served := f, daemon
			if test.command == "stdio" { // two processes may not write one audit trail
				f, served = newFrontend(t, ""), nil
				f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
			}
			m := newMarked(t)
			call := `{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":"sleep %s"}}}` + "\n"
			calls := fmt.Sprintf(call, 1, directDevice, m.number) +
				fmt.Sprintf(call, 2, directDevice, "1") // answered within the grace, to nobody
			c := startClient(t, f.command(test.command), calls)
			m.running(t)

			killed := time.Now()
			test.kill(c).signal(t, syscall.SIGKILL)
			eventually(t, eofGrace+afterwards, "the run is stopped on the device", func() error {
				if pids := m.pids(t); len(pids) > 0 {
					return fmt.Errorf("left on the device: %v", pids)
				}
				return nil
			})
			t.Logf("the run was gone after %v", time.Since(killed))
			c.server.wait(t, soon)
			if served != nil {
				if left := childrenOf(t, served.cmd.Process.Pid); len(left) > 0 {
					t.Errorf("the daemon has the children %v", left)
				}
				bystander.mustWork(t, directDevice)
			}
			eventually(t, soon, "the trail tells how the run ended", func() error {
				for _, r := range readAudit(t, f.auditLog) {
					if strings.Contains(r.Command, m.number) && r.Outcome == "cancelled" {
						return nil
					}
				}
				return errors.New("no record of a cancelled run")
			})
		})
	}
}

// mcpClient is an MCP client that can be killed: a process that alone holds the
// other ends of the pipes of the server that it talks to.
type mcpClient struct {
	client *process
	server *process
}

// startClient starts both. The client says its lines and then only waits.
func startClient(t *testing.T, server *exec.Cmd, say string) mcpClient {
	t.Helper()
	serverIn, toServer := pipe(t)
	fromServer, serverOut := pipe(t)
	stays, held := pipe(t)
	t.Cleanup(func() { _ = held.Close() })
	said := filepath.Join(t.TempDir(), "said")
	write(t, said, say, 0o600)

	// startCmd has files for stdout, so a shell puts the pipe there and becomes the program.
	client := exec.Command("sh", "-c", `exec cat "$0" - >&3 3>&-`, said)
	client.Stdin, client.ExtraFiles = stays, []*os.File{toServer, fromServer}
	piped := exec.Command("sh", append([]string{"-c", `exec "$0" "$@" >&3 3>&-`}, server.Args...)...)
	piped.Stdin, piped.ExtraFiles, piped.Dir = serverIn, []*os.File{serverOut}, server.Dir
	c := mcpClient{client: startCmd(t, client), server: startCmd(t, piped)}
	for _, file := range []*os.File{serverIn, toServer, fromServer, serverOut, stays} {
		_ = file.Close() // the two processes have their own
	}
	return c
}

func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return read, write
}
