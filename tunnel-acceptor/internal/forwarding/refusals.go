package forwarding

import (
	"log/slog"
	"net/netip"
	"sync"
)

// maxRefusals bounds the kinds of refusal that are told apart in one minute,
// and so what a stranger with many addresses can add to the audit.
const maxRefusals = 64

// refusal is why a connection was not let in. device is who it proved to be,
// "" if it proved nothing.
type refusal struct {
	source netip.Prefix
	device string
	reason string
}

// refusals counts logins that failed. A stranger can make as many as the
// network carries, so the audit gets one record per minute of each kind, not
// one of each.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex // guards counts
	counts map[refusal]int64
}

// count notes one refusal. offered is the fingerprint of the key that the
// client offered last, "" for none: the operator who set up the device
// compares it with the line that is meant for it.
func (r *refusals) count(kind refusal, offered string) {
	r.mu.Lock()
	if len(r.counts) >= maxRefusals && r.counts[kind] == 0 {
		kind = refusal{reason: "others, from too many sources to tell apart"}
	}
	r.counts[kind]++
	first := r.counts[kind] == 1
	r.mu.Unlock()
	if first { // the operator who sets up a device does not want to wait for the minute's end
		r.log.Info("login refused", "source", kind.sourceText(), "device", kind.device, "reason", kind.reason, "offered", offered)
	}
}

// take returns the counts and begins anew.
func (r *refusals) take() map[refusal]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts
	r.counts = make(map[refusal]int64)
	return counts
}

func (f refusal) sourceText() string {
	switch {
	case !f.source.IsValid():
		return ""
	case f.source.IsSingleIP():
		return f.source.Addr().String()
	}
	return f.source.String()
}

// recordRefusals writes the refusals that were counted since the last time.
func (s *Server) recordRefusals() {
	for kind, n := range s.refusals.take() {
		_ = s.cfg.Record(Event{
			Name: "login_refused", Device: kind.device, Remote: kind.sourceText(), Reason: kind.reason, Count: n,
		})
	}
}
