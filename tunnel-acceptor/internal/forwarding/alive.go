package forwarding

import (
	"math/rand/v2"
	"time"
)

// keepalive is OpenSSH's request for a sign of life. Peers answer it with
// success or failure; either will do, as will any other byte.
const keepalive = "keepalive@openssh.com"

// checkAlive runs once per interval. What counts is
// when the last byte came in: our own writes into a black hole are no life.
func (s *session) checkAlive() {
	interval := s.server.cfg.AliveInterval
	dead := interval * time.Duration(s.server.cfg.AliveCount)
	silent := s.conn.silentFor()
	if silent >= dead {
		event := s.event("keepalive_lost")
		event.Duration = silent
		_ = s.server.cfg.Record(event)
		s.conn.close("the device stopped answering")
		return
	}
	if silent >= interval*3/4 {
		s.start(s.askForLife)
	}
	for _, t := range s.held() {
		s.server.cfg.Registry.SetSuspect(t.attachment, silent >= interval*3/2)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.alive.Reset(min(jittered(interval), max(dead-silent, time.Millisecond)))
	}
}

// jittered spreads a fleet that came back at one moment: d give or take 10 %.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()*0.2-0.1)*float64(d))
}

// askForLife sends a keepalive and waits for its answer, which may be for as
// long as the connection lives: x/crypto has no other bound (golang/go#21423).
func (s *session) askForLife() {
	if !s.asking.CompareAndSwap(false, true) {
		return
	}
	defer s.asking.Store(false)
	sent := time.Now()
	if _, _, err := s.ssh.SendRequest(keepalive, true, nil); err == nil {
		s.rtt.Store(int64(time.Since(sent)))
	}
}

// answers asks for a sign of life and says whether one came within patience:
// any byte, as somebody else's question may be on its way already.
func (s *session) answers(patience time.Duration) bool {
	before := s.conn.lastRead.Load()
	s.start(s.askForLife)
	limit := time.NewTimer(patience)
	defer limit.Stop()
	poll := time.NewTicker(patience / 100)
	defer poll.Stop()
	for s.conn.lastRead.Load() == before {
		select {
		case <-poll.C:
		case <-limit.C:
			return false
		case <-s.ctx.Done():
			return false
		}
	}
	return true
}
