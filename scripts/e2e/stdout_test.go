package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stdout belongs to MCP. Here the protocol is spoken by hand, because the SDK
// would hide a stray line.
func TestStdoutCarriesOnlyMCP(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	f.add(t, directEntry("broken", startSSHD(t, userKey), logins[0]), newKey(t)) // logs a failure
	f.serve(t)

	for _, command := range []string{"stdio", "attach"} {
		t.Run(command, func(t *testing.T) {
			w := startWire(t, f.command(command))
			w.send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"by hand","version":"1"}}}`)
			w.answer(1)
			w.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			w.send(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
			listed := w.answer(2)
			for _, tool := range []string{"ssh_list_devices", "ssh_run"} {
				if !strings.Contains(string(listed["result"]), `"`+tool+`"`) {
					t.Errorf("tools/list has no %s", tool)
				}
			}
			for i, device := range []string{directDevice, "broken", "nowhere"} {
				w.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":"uname -a"}}}`, 10+i, device))
				if a := w.answer(10 + i); a["result"] == nil {
					t.Errorf("%s: %s", device, a["error"])
				}
			}

			// What is no request is answered with an error, and ends nothing.
			w.send(`this is no JSON`)
			w.send(`{"jsonrpc":"2.0","id":20,"method":"no/such/method"}`)
			if a := w.answer(20); a["error"] == nil {
				t.Errorf("an unknown method was answered with %s", a["result"])
			}
			w.send(`{"jsonrpc":"2.0","id":21,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":"edge-vm-1","command":"true"}}}`)
			if a := w.answer(21); a["result"] == nil {
				t.Errorf("after bad lines: %s", a["error"])
			}
			w.close()
		})
	}
}

// The daemon's clients come by its socket: its stdout stays empty.
func TestDaemonsWriteNothingToStdout(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	daemon := g.frontend.serve(t)
	c := g.frontend.attach(t)
	c.mustWork(t, directDevice)
	eventually(t, soon, "the tunnel device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	daemon.signal(t, syscall.SIGHUP)
	g.acceptor.signal(t, syscall.SIGHUP)
	c.mustWork(t, directDevice)
	if code := daemon.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("mcp-frontend serve ended with %d", code)
	}
	if code := g.acceptor.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("tunnel-acceptor serve ended with %d", code)
	}
	for _, p := range []*process{daemon, g.acceptor.process} {
		if out := read(t, p.stdout); out != "" {
			t.Errorf("%v wrote to stdout: %q", p.cmd.Args, out)
		}
		noStackTrace(t, read(t, p.stderr))
		for line := range strings.Lines(read(t, p.stderr)) {
			if !json.Valid([]byte(line)) {
				t.Errorf("with --log-format json %s logged %q", p.name, line)
			}
		}
	}
}

// wire speaks JSON-RPC by hand and takes every line of stdout for a message.
type wire struct {
	t      *testing.T
	server *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string
}

func startWire(t *testing.T, server *exec.Cmd) *wire {
	t.Helper()
	stdin, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill() }) // nothing to kill after close
	w := &wire{t: t, server: server, stdin: stdin, lines: make(chan string, 1000)}
	go func() {
		defer close(w.lines)
		scanner := bufio.NewScanner(stdout)
		scanner.Buffer(nil, 16<<20)
		for scanner.Scan() {
			w.lines <- scanner.Text()
		}
	}()
	return w
}

func (w *wire) send(line string) {
	w.t.Helper()
	if _, err := io.WriteString(w.stdin, line+"\n"); err != nil {
		w.t.Fatal(err)
	}
}

// answer reads up to the response with this id.
func (w *wire) answer(id int) map[string]json.RawMessage {
	w.t.Helper()
	late := time.After(2 * soon)
	for {
		select {
		case line, more := <-w.lines:
			if !more {
				w.t.Fatalf("stdout ended before the answer to %d", id)
			}
			message := w.message(line)
			if string(message["id"]) == fmt.Sprint(id) && message["method"] == nil {
				return message
			}
		case <-late:
			w.t.Fatalf("no answer to %d", id)
		}
	}
}

// message checks that a line is a JSON-RPC message.
func (w *wire) message(line string) map[string]json.RawMessage {
	w.t.Helper()
	var message map[string]json.RawMessage
	if err := json.Unmarshal([]byte(line), &message); err != nil || string(message["jsonrpc"]) != `"2.0"` {
		w.t.Errorf("a line of stdout is no MCP message: %q", line)
	}
	return message
}

// close ends stdin: the server must end with 0 and say nothing more that is no message.
func (w *wire) close() {
	w.t.Helper()
	if err := w.stdin.Close(); err != nil {
		w.t.Error(err)
	}
	for line := range w.lines {
		w.message(line)
	}
	if err := w.server.Wait(); err != nil {
		w.t.Errorf("at the end of its stdin %v ended with: %v", w.server.Args, err)
	}
}
