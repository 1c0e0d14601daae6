package main

import (
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcptools"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// maxSessionsPerMinute bounds the conversations that are recorded one by one.
// More only come from a client that connects in a loop: they are counted, so
// that they cannot push older records out. What they do is recorded as ever.
const maxSessionsPerMinute = 60

// sessions records the beginning and the end of each client's conversation.
type sessions struct {
	record func(audit.Record) (uint64, error)

	mu      sync.Mutex // guards all below
	minute  time.Time  // when the current one began
	began   int        // in it
	skipped int64      // of them, not recorded
}

// start records that a conversation began; what it returns records its end. A
// conversation that was only counted has no end on record either.
func (s *sessions) start(c mcpserve.Caller) func(mcpserve.Ending) {
	if !s.admit(time.Now()) {
		return nil
	}
	caller := auditCaller(c)
	r := audit.Record{Event: "session_started", Session: caller.Session, PeerUID: caller.PeerUID, Client: caller.Client()}
	if _, err := s.record(r); err != nil {
		return nil // the operator has been told, and nothing that matters will be done
	}
	return func(e mcpserve.Ending) {
		r.Event, r.Reason, r.Count, r.DurationMS = "session_ended", e.Reason, e.Requests, e.Duration.Milliseconds()
		_, _ = s.record(r)
	}
}

// admit says whether one more conversation may be recorded by itself. It
// records how many before were not.
func (s *sessions) admit(now time.Time) bool {
	s.mu.Lock()
	var skipped int64
	if now.Sub(s.minute) >= time.Minute {
		skipped, s.minute, s.began, s.skipped = s.skipped, now, 0, 0
	}
	s.began++
	admitted := s.began <= maxSessionsPerMinute
	if !admitted {
		s.skipped++
	}
	s.mu.Unlock()
	s.note(skipped)
	return admitted
}

// flush records what is counted and not recorded yet.
func (s *sessions) flush() {
	s.mu.Lock()
	skipped := s.skipped
	s.skipped = 0
	s.mu.Unlock()
	s.note(skipped)
}

func (s *sessions) note(skipped int64) {
	if skipped > 0 {
		_, _ = s.record(audit.Record{Event: "sessions_started", Count: skipped, Reason: "more than are recorded one by one within a minute"})
	}
}

func auditCaller(c mcpserve.Caller) mcptools.Caller {
	caller := mcptools.Caller{
		Session: c.Session, ClientName: c.ClientName, ClientVersion: c.ClientVersion, Elicitation: c.Elicitation, Modern: c.Modern,
	}
	if c.HasPeerUID {
		caller.PeerUID = &c.PeerUID
	}
	return caller
}
