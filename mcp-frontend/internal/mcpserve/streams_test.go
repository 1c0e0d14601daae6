package mcpserve_test

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// dialFunc connects a client to the server on a unix socket.
type dialFunc = func(tb testing.TB, address string) *wire

// overEach runs a test with a client on the socket itself, and with clients
// whose streams are handed over.
func overEach(t *testing.T, test func(t *testing.T, dial dialFunc)) {
	t.Helper()
	t.Run("socket", func(t *testing.T) { test(t, dial) })
	for name, open := range streamKinds {
		t.Run("handed over "+name, func(t *testing.T) {
			test(t, func(tb testing.TB, address string) *wire {
				tb.Helper()
				return attach(tb, address, open(tb)).wire()
			})
		})
	}
}

// streams are the standard streams of a process that a client started, which are
// in blocking mode, and the client's ends of them.
type streams struct{ stdin, stdout, clientIn, clientOut *os.File }

// streamKinds are what clients start servers with: pipes, as most do, a socket
// for each (Node.js), one for both (sshd).
var streamKinds = map[string]func(testing.TB) streams{
	"pipes": func(tb testing.TB) streams {
		tb.Helper()
		stdin, clientIn := endsOf(tb, openPipe)
		stdout, clientOut := endsOf(tb, func() (client, own int, err error) {
			own, client, err = openPipe()
			return client, own, err
		})
		return streams{stdin, stdout, clientIn, clientOut}
	},
	"sockets": func(tb testing.TB) streams {
		tb.Helper()
		stdin, clientIn := endsOf(tb, openSockets)
		stdout, clientOut := endsOf(tb, openSockets)
		return streams{stdin, stdout, clientIn, clientOut}
	},
	"one socket": func(tb testing.TB) streams {
		tb.Helper()
		both, client := endsOf(tb, openSockets)
		return streams{both, both, client, client}
	},
}

func openPipe() (read, write int, err error) {
	var fds [2]int
	err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	return fds[0], fds[1], err
}

func openSockets() (one, other int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return fds[0], fds[1], err
}

// endsOf gives only the client's end deadlines, and so non-blocking mode.
func endsOf(tb testing.TB, open func() (own, client int, err error)) (own, client *os.File) {
	tb.Helper()
	ownFD, clientFD, err := open()
	if err == nil {
		err = unix.SetNonblock(clientFD, true)
	}
	if err != nil {
		tb.Fatal(err)
	}
	own, client = os.NewFile(uintptr(ownFD), "own"), os.NewFile(uintptr(clientFD), "client")
	tb.Cleanup(func() { _, _ = own.Close(), client.Close() })
	return own, client
}

// attached is what `mcp-frontend attach` is, and the client that started it.
type attached struct {
	streams
	control net.Conn
	ended   chan bool // what InputEnded said, once
}

// attach hands the streams over, and closes them when the conversation has ended.
func attach(tb testing.TB, address string, s streams) *attached {
	tb.Helper()
	a := &attached{streams: s, control: dial(tb, address), ended: make(chan bool, 1)}
	if taken, err := mcpserve.HandOver(a.control.(*wire).Conn, s.stdin, s.stdout); !taken {
		tb.Fatalf("the server did not take the streams: %v", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		a.ended <- mcpserve.InputEnded(a.control)
		_, _, _ = a.control.Close(), s.stdin.Close(), s.stdout.Close()
	}()
	tb.Cleanup(func() {
		_ = a.control.Close()
		<-over
	})
	return a
}

func (a *attached) wire() *wire { return newWire(clientConn{streams: a.streams}) }

// clientConn is the client's side of its pipes or sockets.
type clientConn struct {
	net.Conn // nil: nothing else is called
	streams
}

func (c clientConn) Read(p []byte) (int, error)         { return c.clientOut.Read(p) }
func (c clientConn) Write(p []byte) (int, error)        { return c.clientIn.Write(p) }
func (c clientConn) SetReadDeadline(t time.Time) error  { return c.clientOut.SetReadDeadline(t) }
func (c clientConn) SetWriteDeadline(t time.Time) error { return c.clientIn.SetWriteDeadline(t) }
func (c clientConn) Close() error                       { return errors.Join(c.CloseWrite(), c.clientOut.Close()) }

func (c clientConn) CloseWrite() error {
	if c.clientIn != c.clientOut {
		return c.clientIn.Close()
	}
	return unix.Shutdown(int(c.clientIn.Fd()), unix.SHUT_WR)
}
