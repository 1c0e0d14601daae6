package sshdtest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between a client and a server, and breaks what they have.
type Proxy struct {
	Host string
	Port uint16

	see      See
	accepted atomic.Int64
	held     atomic.Bool

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// See holds what sees each piece before it is passed on, and cuts the
// connection by returning false. nil passes all.
type See struct{ ToServer, ToClient func(piece []byte) bool }

// NewProxy starts a proxy to address. It ends with the test.
func NewProxy(tb testing.TB, address string, see See) *Proxy {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr) //nolint:errcheck,forcetypeassert // of a TCP listener
	p := &Proxy{see: see, Host: "127.0.0.1", Port: uint16(addr.Port)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			serving.Go(func() { p.serve(client, address) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		p.Cut()
		serving.Wait()
	})
	return p
}

func (p *Proxy) serve(client net.Conn, address string) {
	defer func() { _ = client.Close() }()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.carry(server, client, p.see.ToServer)
	}()
	p.carry(client, server, p.see.ToClient)
	<-done
}

func (p *Proxy) carry(to, from net.Conn, see func([]byte) bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if p.held.Load() {
			if err != nil {
				return
			}
			continue // swallowed
		}
		if n > 0 && see != nil && !see(piece[:n]) {
			return
		}
		if _, writeErr := to.Write(piece[:n]); writeErr != nil || err != nil {
			return
		}
	}
}

// Accepted is how many connections there have been.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Swallow makes the proxy take everything and pass nothing on, until told
// otherwise.
func (p *Proxy) Swallow(on bool) { p.held.Store(on) }

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
