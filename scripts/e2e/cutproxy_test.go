package e2e

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// cutKind is how a connection ends.
type cutKind string

// A reset, an orderly end of both directions, and a line that carries nothing
// any more without a word.
const (
	cutReset cutKind = "reset"
	cutEnd   cutKind = "end"
	cutDark  cutKind = "dark"
)

// cut is where a proxy breaks a connection: once so many bytes have passed to
// the device, or from it. At the byte itself: the last piece is divided.
type cut struct {
	kind       cutKind
	fromDevice bool
	after      int64
}

// cutProxy stands between the frontend and a device's sshd. It breaks the first
// connection that is made through it, and carries all others.
type cutProxy struct {
	port       int
	up, down   atomic.Int64 // bytes that have passed to the device and from it
	happened   atomic.Bool  // the cut
	accepted   atomic.Int64
	address    string
	ln         net.Listener
	connecting sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// startCutProxy starts a proxy to address; nil cuts nothing.
func startCutProxy(t *testing.T, address string, c *cut) *cutProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("a TCP listener on %v", ln.Addr())
	}
	p := &cutProxy{port: addr.Port, address: address, ln: ln, conns: map[net.Conn]bool{}}
	p.connecting.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			mine := c
			if p.accepted.Add(1) > 1 {
				mine = nil
			}
			p.connecting.Go(func() { p.carry(client, mine) })
		}
	})
	t.Cleanup(p.close)
	return p
}

// close ends all connections and waits for what carries them.
func (p *cutProxy) close() {
	_ = p.ln.Close()
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.connecting.Wait()
}

// hold notes a connection, so that close finds it; false: it came too late.
func (p *cutProxy) hold(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return false
	}
	p.conns[conn] = true
	return true
}

func (p *cutProxy) drop(conn net.Conn) {
	_ = conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

func (p *cutProxy) carry(client net.Conn, c *cut) {
	defer p.drop(client)
	device, err := net.Dial("tcp", p.address)
	if err != nil {
		return
	}
	defer p.drop(device)
	if !p.hold(client) || !p.hold(device) {
		return
	}
	b := &breaker{proxy: p, cut: c, client: client, device: device}
	var both sync.WaitGroup
	both.Go(func() { b.pass(device, client, &p.up, false) })
	both.Go(func() { b.pass(client, device, &p.down, true) })
	both.Wait()
}

// breaker carries one connection until its cut, if it has one.
type breaker struct {
	proxy          *cutProxy
	cut            *cut
	client, device net.Conn
	broken         atomic.Bool
}

// pass carries one direction. After the cut what still comes is read and
// thrown away, until its sender gives up: then the other side is told.
func (b *breaker) pass(to, from net.Conn, passed *atomic.Int64, fromDevice bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	counted := b.cut != nil && b.cut.fromDevice == fromDevice
	piece := make([]byte, 32<<10)
	for {
		most := int64(len(piece))
		if counted && !b.broken.Load() {
			if most = min(most, b.cut.after-passed.Load()); most <= 0 {
				b.breakNow()
				most = int64(len(piece))
			}
		}
		n, err := from.Read(piece[:most])
		if n > 0 && !b.broken.Load() {
			if _, err := to.Write(piece[:n]); err != nil {
				return
			}
			passed.Add(int64(n))
		}
		if errors.Is(err, io.EOF) && !b.broken.Load() {
			if half, ok := to.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

func (b *breaker) breakNow() {
	b.broken.Store(true)
	b.proxy.happened.Store(true)
	for _, conn := range []net.Conn{b.client, b.device} {
		tcp, ok := conn.(*net.TCPConn)
		switch {
		case !ok:
		case b.cut.kind == cutReset:
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		case b.cut.kind == cutEnd:
			_ = tcp.CloseWrite()
		}
	}
}
