package forwarding

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

// session is one logged-in connection of a device. It begins with the first
// request: before that there is nothing to keep alive or to take away.
type session struct {
	server  *Server
	conn    *conn
	ssh     *ssh.ServerConn
	id      identity
	ctx     context.Context // ends with the connection
	streams atomic.Int64    // open through all tunnels
	rtt     atomic.Int64    // of the newest keepalive, nanoseconds
	asking  atomic.Bool     // a keepalive is on its way

	// Counted by gliderlabs' one goroutine per connection that handles requests.
	requests int // for forwards
	proofs   int // of host keys

	mu      sync.Mutex // guards all below; the registry's lock comes after it
	ended   bool
	tunnels map[uint16]*tunnel
	alive   *time.Timer
	expiry  *time.Timer // nil if the grant never expires
}

// sessionOf returns the connection's session, making it at its first request.
// gliderlabs handles the requests of one connection one after the other, and
// the caller has called begin.
func (s *Server) sessionOf(ctx gliderssh.Context, c *conn) *session {
	if session := c.session.Load(); session != nil {
		return session
	}
	sc, _ := ctx.Value(gliderssh.ContextKeyConn).(*ssh.ServerConn)
	if sc == nil {
		return nil
	}
	id, ok := identityOf(sc)
	if !ok {
		return nil
	}
	n := &session{server: s, conn: c, ssh: sc, id: id, ctx: ctx, tunnels: make(map[uint16]*tunnel)}
	n.mu.Lock()
	n.alive = time.AfterFunc(jittered(s.cfg.AliveInterval), func() { n.start(n.checkAlive) })
	if !id.grant.Expires.IsZero() {
		n.expiry = time.AfterFunc(time.Until(id.grant.Expires), func() {
			n.start(func() { n.revoke("its key expired") })
		})
	}
	n.mu.Unlock()
	if !c.begun(n) {
		n.end("")
		return nil
	}
	n.recheck(s.keys.Load()) // SetKeys may have passed between the login and now
	n.start(n.announceHostKeys)
	return n
}

// event returns an event about this session.
func (s *session) event(name string) Event {
	return Event{
		Name: name, Device: s.id.grant.Device, Fingerprint: s.id.grant.Fingerprint, Remote: s.conn.remote.String(),
	}
}

// recheck closes the session if set no longer grants what it was granted.
func (s *session) recheck(set *devicekey.Set) {
	grant, err := set.Authorize(s.id.key, s.conn.remote.Addr(), time.Now())
	if err != nil || grant.Device != s.id.grant.Device {
		s.revoke("its key is no longer granted")
		return
	}
	// What a session may ask for later is its grant's too: it logs in again and
	// gets the new one.
	if !slices.Equal(grant.Ports, s.id.grant.Ports) {
		s.revoke("the ports of its key have changed")
		return
	}
	if !grant.Expires.Equal(s.id.grant.Expires) {
		s.revoke("its key's expiry has changed")
	}
}

func (s *session) revoke(reason string) {
	event := s.event("session_revoked")
	event.Reason = reason
	_ = s.server.cfg.Record(event)
	s.conn.close(reason)
}

func (s *session) held() []*tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	tunnels := make([]*tunnel, 0, len(s.tunnels))
	for _, t := range s.tunnels {
		tunnels = append(tunnels, t)
	}
	return tunnels
}

// end detaches what the session held.
func (s *session) end(reason string) {
	s.mu.Lock()
	s.ended = true
	s.alive.Stop()
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.mu.Unlock()
	for _, t := range s.held() {
		s.server.cfg.Registry.Detach(t.attachment, reason)
	}
}

// start runs f in a goroutine that the server waits for. A session that has
// ended starts nothing.
func (s *session) start(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.server.background.Go(func() {
		defer s.server.recoverConn(s.conn, "session")
		f()
	})
}
