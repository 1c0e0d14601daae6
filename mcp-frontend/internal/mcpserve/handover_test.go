package mcpserve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// The process that handed its streams over learns how the conversation ended,
// and nothing of it is left: no file descriptor, no changed mode.
func TestHandOver(t *testing.T) {
	for name, open := range streamKinds {
		t.Run(name, func(t *testing.T) {
			before := openFiles(t)
			t.Run("", func(t *testing.T) {
				s := newServer(t, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
				address, stop := serveUnix(t, s)
				for range 20 {
					a := attach(t, address, open(t))
					w := a.wire()
					w.mustGreet(t, `{}`)
					w.mustSend(t, call("1", "quick", ""))
					if m := w.mustRecv(t); m.text() != "done" {
						t.Fatalf("got %+v", m)
					}
					wantBlocking(t, a.stdin, a.stdout)
					w.hangUp(t)
					if !next(t, a.ended) {
						t.Error("InputEnded: got false, want true after the client's end of file")
					}
					w.wantEOF(t)
				}
				last := attach(t, address, open(t))
				last.wire().wantOnlyPong(t)
				stop()
				if next(t, last.ended) {
					t.Error("InputEnded: got true, want false when the server stops")
				}
				last.wire().wantEOF(t)
			})
			wantNoMoreOpenFiles(t, before)
		})
	}
}

func wantBlocking(t *testing.T, files ...*os.File) {
	t.Helper()
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var flags int
		controlErr := raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0) })
		if err := errors.Join(controlErr, err); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("flags %#x, %v: want blocking mode as before", flags, err)
		}
	}
}

// wantNoMoreOpenFiles waits for the listener of a stopped Serve, whose close may
// still be under way.
func wantNoMoreOpenFiles(t *testing.T, before int) {
	t.Helper()
	deadline := time.After(patience)
	for openFiles(t) > before {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatalf("%d open files, %d before", openFiles(t), before)
		}
	}
}

// openFiles counts this process's file descriptors. The tests of this package
// run one after the other.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// When the process that handed its streams over is killed, its conversation ends
// as if the client had gone, and the client hears no more.
func TestHandOverThenKilled(t *testing.T) {
	for name, open := range streamKinds {
		t.Run(name, func(t *testing.T) {
			began, causes := make(chan string, 1), make(chan error, 1)
			address, _ := serveUnix(t, newServer(t, mcpserve.Config{EOFGrace: 10 * time.Millisecond, MCP: newMCP(tools{"wait": untilCancelled(began, causes)})}))
			a := attach(t, address, open(t))
			w := a.wire()
			w.mustSend(t, call("1", "wait", ""))
			next(t, began)
			if err := a.control.Close(); err != nil {
				t.Fatal(err)
			}
			if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrDisconnected) {
				t.Errorf("cause: got %v, want ErrDisconnected", cause)
			}
			w.wantEOF(t)
		})
	}
}

// Whatever else comes with the first bytes is closed, and its sender too; others
// do not notice.
func TestHandOverRefused(t *testing.T) {
	const line = "\x00\n"
	s := newServer(t, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
	address, _ := serveUnix(t, s)
	bystander := dial(t, address)
	bystander.wantOnlyPong(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w := osPipe(t)
	blocking := streamKinds["pipes"](t)
	before := openFiles(t)

	for name, test := range map[string]struct {
		said  string
		files []*os.File
	}{
		"one":             {line, []*os.File{r}},
		"three":           {line, []*os.File{r, w, w}},
		"hundred":         {line, append(slices.Repeat([]*os.File{r}, 99), w)},
		"a file":          {line, []*os.File{r, file}},
		"a device":        {line, []*os.File{null, w}},
		"a blocking pipe": {line, []*os.File{blocking.stdin, blocking.stdout}},
		"with a message":  {`{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n", []*os.File{r, w}},
		"with half":       {line[:1], []*os.File{r, w}},
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, address)
			var fds []int
			for _, f := range test.files {
				fds = append(fds, int(f.Fd()))
			}
			if _, _, err := client.Conn.(*net.UnixConn).WriteMsgUnix([]byte(test.said), unix.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(client)
			if len(got) > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("got %q, %v, want the end", got, err)
			}
			_ = client.Close()
		})
	}
	bystander.wantOnlyPong(t)
	wantNoMoreOpenFiles(t, before)
}

// What looks like a handover and brings nothing is a message like any other.
func TestHandOverOfNothing(t *testing.T) {
	w := connect(t, mcpserve.Config{})
	w.mustSend(t, "\x00")
	if m := w.mustRecv(t); m.Error == nil || m.Error.Code != -32700 {
		t.Errorf("got %+v, want a parse error", m.Error)
	}
	w.wantOnlyPong(t)
}

// What cannot be handed over leaves the connection as it was.
func TestHandOverNeedsPipes(t *testing.T) {
	address, _ := serveUnix(t, newServer(t, mcpserve.Config{}))
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, w := osPipe(t)
	for name, test := range map[string]struct {
		in  io.Reader
		out io.Writer
	}{
		"no file":     {bytes.NewReader(nil), w},
		"input file":  {file, w},
		"output file": {r, file},
	} {
		w := dial(t, address)
		if taken, err := mcpserve.HandOver(w.Conn, test.in, test.out); taken || err != nil {
			t.Errorf("%s: taken %v, %v, want neither", name, taken, err)
		}
		w.wantOnlyPong(t)
	}
}

// A server that knows no handover, or has no room, takes nothing: the client can
// still be served by carrying its bytes.
func TestHandOverToAnOlderServer(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, mcpserve.Config{})
	served := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			err = s.ServeConn(context.WithoutCancel(t.Context()), conn, conn, mcpserve.Peer{})
			_ = conn.Close()
		}
		served <- err
	}()
	full, _ := serveUnix(t, newServer(t, mcpserve.Config{MaxConns: 1}))
	dial(t, full).wantOnlyPong(t)

	for name, address := range map[string]string{"older": ln.Addr().String(), "full": full} {
		client := streamKinds["pipes"](t)
		if _, err := fmt.Fprintln(client.clientIn, "unread"); err != nil {
			t.Fatal(err)
		}
		conn := dial(t, address)
		if taken, err := mcpserve.HandOver(conn.Conn, client.stdin, client.stdout); taken || !errors.Is(err, mcpserve.ErrNotTaken) {
			t.Errorf("%s: taken %v, %v, want ErrNotTaken", name, taken, err)
		}
		_ = conn.Close()
		unread := make([]byte, len("unread\n"))
		if _, err := io.ReadFull(client.stdin, unread); err != nil || string(unread) != "unread\n" {
			t.Errorf("%s: left %q, %v", name, unread, err)
		}
	}
	if err := next(t, served); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	_ = ln.Close()
}

// A client that has not said anything yet does not hold up a stop.
func TestStopWithSilentClient(t *testing.T) {
	address, stop := serveUnix(t, newServer(t, mcpserve.Config{}))
	silent, other := dial(t, address), dial(t, address)
	other.wantOnlyPong(t) // the silent one was accepted before it
	stop()
	silent.wantEOF(t)
}
