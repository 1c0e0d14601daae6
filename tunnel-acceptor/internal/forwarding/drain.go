package forwarding

import "time"

// shutDown is why the drain closes connections.
const shutDown = "the acceptor shut down"

// drain lets open streams finish and closes what is left.
func (s *Server) drain() {
	s.mu.Lock()
	s.draining = true // a connection that was accepted last closes itself
	s.mu.Unlock()
	s.cfg.Registry.Drain()
	_ = s.cfg.Record(Event{Name: "drain_started"})
	deadline := time.NewTimer(s.cfg.DrainTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for s.closeIdle() > 0 {
		select {
		case <-poll.C:
			continue
		case <-deadline.C:
		}
		break
	}
	for _, c := range s.connections() {
		c.close(shutDown)
	}
}

// closeIdle closes every connection without an open stream and says how many
// remain.
func (s *Server) closeIdle() (busy int) {
	for _, c := range s.connections() {
		if session := c.session.Load(); session != nil && session.streams.Load() > 0 {
			busy++
			continue
		}
		c.close(shutDown)
	}
	return busy
}
