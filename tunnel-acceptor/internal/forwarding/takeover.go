package forwarding

import (
	"slices"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// conflictTakeovers within conflictWindow, from incumbents that were alive,
// mean that two machines share a key; the incumbent then stays for a window.
const (
	conflictTakeovers = 3
	conflictWindow    = time.Minute
)

// takeovers deals with devices that ask for a port which an older session of
// theirs still holds. The newcomer is active at once; this sees to the rest.
type takeovers struct {
	window time.Duration

	mu     sync.Mutex
	recent map[registry.Key][]time.Time // of live incumbents, within the window; at most conflictTakeovers each
}

// denied says whether the slot's incumbent stays for now.
func (o *takeovers) denied(key registry.Key) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.freshLocked(key)) >= conflictTakeovers
}

func (o *takeovers) freshLocked(key registry.Key) []time.Time {
	times := o.recent[key]
	for len(times) > 0 && time.Since(times[0]) > o.window {
		times = times[1:]
	}
	if len(times) == 0 {
		delete(o.recent, key)
		return nil
	}
	o.recent[key] = times
	return times
}

// sweep forgets what is older than the window.
func (o *takeovers) sweep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range o.recent {
		o.freshLocked(key)
	}
}

// takeOver looks after the tunnel that t replaced.
func (o *takeovers) takeOver(t *tunnel, generation uint64, replaced *registry.Attachment) {
	old, ok := replaced.Owner.(*tunnel)
	if !ok || old.session == t.session {
		return
	}
	event := t.session.event("takeover")
	event.Port, event.TunnelID, event.Generation = t.key.Port, t.id, generation
	event.Reason = "replaces " + old.id + " from " + old.session.conn.remote.String()
	_ = t.session.server.cfg.Record(event)
	old.session.start(func() {
		if !old.session.answers(t.session.server.delays.incumbent) {
			old.session.conn.close("a new session of the device took over; this one did not answer")
			return
		}
		o.noteAlive(t, old)
		old.session.drain(old)
	})
}

// noteAlive counts a takeover from an incumbent that answered.
func (o *takeovers) noteAlive(t, old *tunnel) {
	o.mu.Lock()
	now := time.Now()
	times := append(o.freshLocked(t.key), now)
	conflict := len(times) >= conflictTakeovers
	if conflict {
		times = slices.Repeat([]time.Time{now}, conflictTakeovers) // a whole window from now
	}
	o.recent[t.key] = times
	o.mu.Unlock()
	if !conflict {
		return
	}
	event := t.session.event("identity_conflict")
	event.Port = t.key.Port
	event.Reason = "two machines share this key: " + t.session.conn.remote.String() + " and " + old.session.conn.remote.String()
	_ = t.session.server.cfg.Record(event)
}

// drain ends a tunnel that was replaced, once its streams have ended, and with
// it the session if it holds no other.
func (s *session) drain(old *tunnel) {
	limit := time.NewTimer(s.server.delays.drain)
	defer limit.Stop()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for old.streams.Load() > 0 {
		select {
		case <-poll.C:
			continue
		case <-limit.C:
		case <-s.ctx.Done():
			return
		}
		break
	}
	s.mu.Lock()
	if s.tunnels[old.key.Port] == old {
		delete(s.tunnels, old.key.Port)
	}
	left := len(s.tunnels)
	s.mu.Unlock()
	if left == 0 {
		s.conn.close("a new session of the device took over")
	}
}
