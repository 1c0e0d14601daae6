package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const listCall = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"ssh_list_devices","arguments":{}}}` + "\n"

// However a client starts attach, it is answered, and attach ends with the
// client: on pipes and sockets, which the daemon takes over, and on files, whose
// bytes attach carries. The daemon keeps nothing of any of them.
func TestAttachStreams(t *testing.T) {
	t.Parallel()
	f := newFrontend(t, "")
	daemon := f.serve(t)
	bystander := f.attach(t)
	bystander.devices(t)
	before := openFiles(t, daemon)

	for name, start := range map[string]func(*testing.T, *exec.Cmd) (attached *process, to, from *os.File){
		"pipes":   onPipes,
		"sockets": onSockets,
		"socket":  onOneSocket,
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				attached, to, from := start(t, f.command("attach"))
				wantAnswer(t, to, from)
				eventually(t, soon, "the daemon has the client's streams", func() error {
					if now := openFiles(t, daemon); now != before+3 { // and the socket
						return fmt.Errorf("%d open files, %d before", now, before)
					}
					return nil
				})
				hangUp(t, to)
				if code := attached.wait(t, soon); code != 0 {
					t.Errorf("attach ended with %d after the client's end of file", code)
				}
				if rest, err := io.ReadAll(from); len(rest) > 0 || err != nil {
					t.Errorf("after the answer: %q, %v, want the end", rest, err)
				}
			}
			for range 5 {
				attached, to, from := start(t, f.command("attach"))
				wantAnswer(t, to, from)
				attached.signal(t, syscall.SIGKILL)
				if rest, err := io.ReadAll(from); len(rest) > 0 || err != nil {
					t.Errorf("attach is killed: %q, %v, want the end", rest, err)
				}
			}
		})
	}
	t.Run("files", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "calls")
		write(t, path, listCall, 0o600)
		calls, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer calls.Close()
		cmd := f.command("attach")
		cmd.Stdin = calls
		done := runCmd(t, cmd)
		if done.code != 0 || !strings.Contains(done.stdout, `"id":7,"result"`) {
			t.Errorf("attach ended with %d and %q", done.code, done.stdout)
		}
	})
	bystander.devices(t)
	eventually(t, soon, "the daemon has closed what attach handed over", func() error {
		if now := openFiles(t, daemon); now != before {
			return fmt.Errorf("%d open files, %d before", now, before)
		}
		return nil
	})
}

// A daemon that is killed takes its clients' conversations with it: attach says so.
func TestAttachDaemonKilled(t *testing.T) {
	t.Parallel()
	f := newFrontend(t, "")
	daemon := f.serve(t)
	attached, to, from := onPipes(t, f.command("attach"))
	wantAnswer(t, to, from)
	daemon.stop(t, syscall.SIGKILL)
	if code := attached.wait(t, soon); code != 1 {
		t.Errorf("attach ended with %d, want 1", code)
	}
	if said := read(t, attached.stderr); strings.Count(said, "\n") != 1 || !strings.Contains(said, "the daemon on") {
		t.Errorf("attach said %q, want one line", said)
	}
	if rest, err := io.ReadAll(from); len(rest) > 0 || err != nil {
		t.Errorf("after the daemon's end: %q, %v, want the end", rest, err)
	}
}

// attach that is told to stop ends well, and its client's run with it.
func TestAttachStopped(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	f.serve(t)
	attached, to, from := onPipes(t, f.command("attach"))
	m := newMarked(t)
	if _, err := fmt.Fprintf(to, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":"sleep %s"}}}`+"\n", directDevice, m.number); err != nil {
		t.Fatal(err)
	}
	m.running(t)
	if code := attached.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("attach ended with %d, want 0", code)
	}
	m.gone(t)
	if rest, err := io.ReadAll(from); len(rest) > 0 || err != nil {
		t.Errorf("after attach's end: %q, %v, want the end", rest, err)
	}
}

func wantAnswer(t *testing.T, to, from *os.File) {
	t.Helper()
	if _, err := io.WriteString(to, listCall); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(from).ReadString('\n')
	if err != nil || !strings.HasPrefix(answer, `{"jsonrpc":"2.0","id":7,"result"`) {
		t.Fatalf("got %q, %v", answer, err)
	}
}

// hangUp is a client's end of file.
func hangUp(t *testing.T, to *os.File) {
	t.Helper()
	err := syscall.Shutdown(int(to.Fd()), syscall.SHUT_WR)
	if errors.Is(err, syscall.ENOTSOCK) {
		err = to.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// onPipes starts cmd as most MCP clients do, and returns their ends.
func onPipes(t *testing.T, cmd *exec.Cmd) (attached *process, to, from *os.File) {
	t.Helper()
	stdin, to := pipe(t)
	from, stdout := pipe(t)
	return startOn(t, cmd, stdin, stdout), closedAtEnd(t, to), closedAtEnd(t, from)
}

// onSockets starts cmd as clients made with Node.js do.
func onSockets(t *testing.T, cmd *exec.Cmd) (attached *process, to, from *os.File) {
	t.Helper()
	stdin, to := socketPair(t)
	stdout, from := socketPair(t)
	return startOn(t, cmd, stdin, stdout), closedAtEnd(t, to), closedAtEnd(t, from)
}

// onOneSocket starts cmd as sshd does.
func onOneSocket(t *testing.T, cmd *exec.Cmd) (attached *process, to, from *os.File) {
	t.Helper()
	both, client := socketPair(t)
	return startOn(t, cmd, both, both), closedAtEnd(t, client), client
}

// startOn starts cmd on streams that it alone has then.
func startOn(t *testing.T, cmd *exec.Cmd, stdin, stdout *os.File) *process {
	t.Helper()
	// startCmd has a file for stdout, so a shell puts the stream there and becomes the program.
	piped := exec.Command("sh", append([]string{"-c", `exec "$0" "$@" >&3 3>&-`}, cmd.Args...)...)
	piped.Stdin, piped.ExtraFiles, piped.Dir = stdin, []*os.File{stdout}, cmd.Dir
	p := startCmd(t, piped)
	_, _ = stdin.Close(), stdout.Close()
	return p
}

func closedAtEnd(t *testing.T, f *os.File) *os.File {
	t.Helper()
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
}

// openFiles counts a process's file descriptors.
func openFiles(t *testing.T, p *process) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
