package forwarding

import (
	"strings"
	"time"
	"unicode"
)

// Event is something that the audit keeps. Fields that say nothing are zero.
type Event struct {
	// Name is one of login, login_refused (Count of them in a minute, from the
	// address or network Remote), session_closed, session_revoked,
	// forward_granted, forward_denied, forward_cancelled, takeover,
	// identity_conflict, channel_refused, keepalive_lost, drain_started and
	// drain_finished.
	Name        string
	Device      string
	TunnelID    string
	Generation  uint64
	Port        uint16
	Remote      string
	Fingerprint string
	Reason      string
	Count       int64
	BytesIn     uint64
	BytesOut    uint64
	Duration    time.Duration
}

// printable makes peer-controlled text safe for a log or a terminal, and
// bounds it.
func printable(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
