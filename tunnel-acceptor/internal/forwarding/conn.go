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
	lastRead atomic.Int64           // Unix nanoseconds
	refused  atomic.Int64           // channels that the peer tried to open
	offered  atomic.Pointer[string] // fingerprint of the key offered last
	loggedIn atomic.Bool
	session  atomic.Pointer[session]
	closed   chan struct{} // closed when we close

	// Guarded by gate.mu.
	source   *source
	place    bool          // it holds one of the places before the login
	turn     chan struct{} // closed when it gets one; nil unless it waits
	admitted bool

	mu      sync.Mutex // guards all below
	ended   bool
	grant   *devicekey.Grant
	timer   *time.Timer // closes it after the login grace; later, while it holds no forward
	reason  string      // why we closed it, "" if the peer did
	failure refusal     // of the newest attempt to log in
}

// graceExceeded is why a connection that did not log in was closed.
const graceExceeded = "it did not log in within the grace time"

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{Conn: nc, server: s, opened: time.Now(), closed: make(chan struct{})}
	if addr, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := addr.AddrPort()
		c.remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	c.lastRead.Store(c.opened.UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(s.cfg.LoginGrace, func() { c.close(graceExceeded) })
	return c
}

func connOf(ctx gliderssh.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn) // set by ConnCallback before all else
	return c
}

func (c *conn) Read(p []byte) (int, error) {
	if c.loggedIn.Load() {
		return c.read(p)
	}
	gate := c.server.gate
	silence := time.AfterFunc(c.server.delays.silentStartup, func() { gate.yield(c) })
	n, err := c.read(p)
	silence.Stop()
	if n > 0 && !gate.enter(c) {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) read(p []byte) (int, error) {
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

// login marks the end of authentication: the grace time is over, and the
// session must soon hold a forward.
func (c *conn) login(grant *devicekey.Grant) error {
	if err := c.server.gate.admit(c, grant.Device); err != nil {
		return err
	}
	c.loggedIn.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grant = grant
	c.timer.Stop()
	c.timer = time.AfterFunc(c.server.delays.unboundAfterLogin, func() { c.close("it held no forward") })
	return nil
}

// fail notes why an attempt to log in failed. A better reason than notProved
// stays.
func (c *conn) fail(f refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure.reason == "" || f.reason != notProved {
		c.failure = f
	}
}

// bound says whether the session holds a forward, and if not, how long it may
// go on without.
func (c *conn) bound(holds bool, patience time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
	case holds:
		c.timer.Stop()
	default:
		c.timer.Reset(patience)
	}
}

// begin says whether a handler may start: after the connection's end none
// may, and the server waits for those that run. The caller calls done.
func (c *conn) begin() (done func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, false
	}
	c.server.background.Add(1) // serveConn, which set ended, is counted until then
	return c.server.background.Done, true
}

// begun makes n the connection's session, unless it has ended meanwhile: then
// nobody would end n.
func (c *conn) begun(n *session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.session.Store(n)
	return true
}

// close ends the connection from our side. The first reason given is kept.
func (c *conn) close(reason string) {
	c.mu.Lock()
	if c.reason == "" {
		c.reason = reason
		close(c.closed)
	}
	c.mu.Unlock()
	_ = c.Close()
}

// end gives back all that the connection held. It is called once, when its
// serving goroutine ends; otherwise is the reason if we did not close it.
func (c *conn) end(otherwise string) {
	c.close(otherwise)
	c.mu.Lock()
	c.ended = true
	c.timer.Stop()
	reason, grant, failure := c.reason, c.grant, c.failure
	c.mu.Unlock()
	s := c.server
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if grant == nil {
		c.endRefused(reason, failure)
		return
	}
	s.gate.depart(c, grant.Device, 0)
	if session := c.session.Load(); session != nil {
		session.end(reason)
	}
	_ = s.cfg.Record(Event{
		Name: "session_closed", Device: grant.Device, Fingerprint: grant.Fingerprint, Remote: c.remote.String(),
		Reason: reason, BytesIn: c.in.Load(), BytesOut: c.out.Load(), Duration: time.Since(c.opened),
	})
}

// endRefused ends a connection that never logged in.
func (c *conn) endRefused(reason string, failure refusal) {
	penalty := penaltyNoAuth
	switch {
	case failure.reason != "":
		penalty = penaltyAuthFailed
	case reason == graceExceeded:
		penalty = penaltyGrace
		failure.reason = reason
	case reason == shutDown:
		penalty = 0
		failure.reason = reason
	default:
		failure.reason = "it ended without a login"
	}
	failure.source = sourceOf(c.remote.Addr())
	c.server.gate.depart(c, "", penalty)
	offered := ""
	if fingerprint := c.offered.Load(); fingerprint != nil {
		offered = *fingerprint
	}
	c.server.refusals.count(failure, offered)
}
