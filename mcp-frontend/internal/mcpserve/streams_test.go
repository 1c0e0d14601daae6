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
	for name, make := range streamKinds {
		t.Run("handed over "+name, func(t *testing.T) {
			test(t, func(tb testing.TB, address string) *wire { return attach(tb, address, make(tb)).wire() })
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
		stdin, clientIn := filePair(tb, func(fds []int) error { return unix.Pipe2(fds, unix.O_CLOEXEC) })
		clientOut, stdout := filePair(tb, func(fds []int) error { return unix.Pipe2(fds, unix.O_CLOEXEC) })
		return clientsEnds(tb, streams{stdin, stdout, clientIn, clientOut})
	},
	"sockets": func(tb testing.TB) streams {
		stdin, clientIn := filePair(tb, socketPair)
		stdout, clientOut := filePair(tb, socketPair)
		return clientsEnds(tb, streams{stdin, stdout, clientIn, clientOut})
	},
	"one socket": func(tb testing.TB) streams {
		both, client := filePair(tb, socketPair)
		return clientsEnds(tb, streams{both, both, client, client})
	},
}

func socketPair(fds []int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	copy(fds, pair[:])
	return err
}

func filePair(tb testing.TB, open func([]int) error) (a, b *os.File) {
	tb.Helper()
	fds := make([]int, 2)
	if err := open(fds); err != nil {
		tb.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	tb.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// clientsEnds gives the client's ends deadlines.
func clientsEnds(tb testing.TB, s streams) streams {
	tb.Helper()
	again := func(f *os.File) *os.File {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.SetNonblock(fd, true), f.Close())
		}
		if err != nil {
			tb.Fatal(err)
		}
		pollable := os.NewFile(uintptr(fd), "client")
		tb.Cleanup(func() { _ = pollable.Close() })
		return pollable
	}
	if s.clientIn == s.clientOut {
		s.clientIn = again(s.clientIn)
		s.clientOut = s.clientIn
		return s
	}
	s.clientIn, s.clientOut = again(s.clientIn), again(s.clientOut)
	return s
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
