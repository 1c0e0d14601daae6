package forwarding

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	gliderssh "github.com/gliderlabs/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

const (
	// silentStartup is how long a connection that says nothing keeps its place
	// before the login: others wait for it.
	silentStartup = 2 * time.Second
	// unboundAfterLogin and unboundAfterRefusal are how long a session may hold
	// no forward. A client without ExitOnForwardFailure would stay for ever and
	// never try again.
	unboundAfterLogin   = 30 * time.Second
	unboundAfterRefusal = 5 * time.Second
)

// connKey finds the conn in gliderlabs' context.
type connKey struct{}

// conn is a device's connection below SSH. It counts bytes, notes signs of
// life, and owns the deadlines: those that gliderlabs sets are ignored, as it
// would lift the login grace and let our own writes count as life.
type conn struct {
	net.Conn
	server   *Server
	remote   netip.AddrPort
	opened   time.Time
	in, out  atomic.Uint64
	lastRead atomic.Int64 // Unix nanoseconds
	refused  atomic.Int64 // channels that the peer tried to open
	session  atomic.Pointer[session]

	leavePlace func() // gives the place before the login back; once
	silence    *time.Timer

	mu      sync.Mutex // guards all below
	grant   *devicekey.Grant
	unbound *time.Timer // closes a session that holds no forward; nil before the login
	reason  string      // why we closed it, "" if the peer did
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{Conn: nc, server: s, opened: time.Now()}
	c.leavePlace = sync.OnceFunc(func() { <-s.places })
	if addr, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := addr.AddrPort()
		c.remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	c.lastRead.Store(c.opened.UnixNano())
	_ = nc.SetDeadline(c.opened.Add(s.cfg.LoginGrace))
	c.silence = time.AfterFunc(silentStartup, func() {
		if c.in.Load() == 0 {
			c.leavePlace()
		}
	})
	return c
}

func connOf(ctx gliderssh.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn) // set by ConnCallback before all else
	return c
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.in.Add(uint64(n))
		c.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(uint64(max(n, 0)))
	return n, err
}

// SetDeadline and its kin do nothing: see conn.
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// silentFor is how long nothing has come from the device.
func (c *conn) silentFor() time.Duration {
	return time.Since(time.Unix(0, c.lastRead.Load()))
}

// login marks the end of authentication: the deadline is lifted, the place
// is free, and the session must soon hold a forward.
func (c *conn) login(grant *devicekey.Grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grant != nil {
		return
	}
	c.grant = grant
	c.server.loggedIn.Add(1)
	c.leavePlace()
	_ = c.Conn.SetDeadline(time.Time{})
	c.unbound = time.AfterFunc(unboundAfterLogin, func() { c.close("it held no forward") })
}

// bound says whether the session holds a forward, and if not, how long it may
// go on without.
func (c *conn) bound(holds bool, patience time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unbound == nil {
		return
	}
	if holds {
		c.unbound.Stop()
		return
	}
	c.unbound.Reset(patience)
}

// close ends the connection from our side. The first reason given is kept.
func (c *conn) close(reason string) {
	c.mu.Lock()
	if c.reason == "" {
		c.reason = reason
	}
	c.mu.Unlock()
	_ = c.Conn.Close()
}

// end gives back all that the connection held. It is called once, when its
// serving goroutine ends; otherwise is the reason if we did not close it.
func (c *conn) end(otherwise string) {
	_ = c.Conn.Close()
	c.silence.Stop()
	c.leavePlace()
	c.mu.Lock()
	if c.reason == "" {
		c.reason = otherwise
	}
	reason, grant := c.reason, c.grant
	if c.unbound != nil {
		c.unbound.Stop()
	}
	c.mu.Unlock()
	if session := c.session.Load(); session != nil {
		session.end(reason)
	}
	s := c.server
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if grant == nil {
		return
	}
	s.loggedIn.Add(-1)
	_ = s.cfg.Record(Event{
		Name: "session_closed", Device: grant.Device, Fingerprint: grant.Fingerprint, Remote: c.remote.String(),
		Reason: reason, BytesIn: c.in.Load(), BytesOut: c.out.Load(), Duration: time.Since(c.opened),
	})
}
