package files

import (
	"strings"
	"unicode"
)

// Kind is what a caller decides by.
type Kind int

// The kinds of failure.
const (
	// Failed is what the device's SFTP server reports without saying why.
	Failed Kind = iota
	// Denied: Judge's word, or the device's own permissions.
	Denied
	// NotPermitted: Permit's word.
	NotPermitted
	NotFound
	AlreadyExists
	// Precondition: something is not as the caller expected, or changed meanwhile.
	Precondition
	// Unavailable: the device has no SFTP server, or one that cannot do this.
	Unavailable
	ChannelRefused
	ConnectionLost
	// LimitExceeded: more than is taken, or more than fits on the device.
	LimitExceeded
	Invalid
	Cancelled
	TimedOut
	// Busy: another transfer of the same file is under way.
	Busy
	// Local: the gateway's own disk failed.
	Local
)

// Error says what went wrong with one file.
type Error struct {
	Kind  Kind
	Doing string // such as "opening"
	Path  string // on the device, or below the transfer directory; "" for none
	Err   error
	// Kept is how many bytes of an interrupted transfer are kept, to be
	// continued by the next one.
	Kept int64
	// Policy: it is Judge that denied, not the device.
	Policy bool
	// Gateway: it is about the file on the gateway.
	Gateway bool
}

func (e *Error) Error() string {
	where := e.Doing
	if e.Path != "" {
		where += " " + printable(e.Path)
	}
	return where + ": " + e.Err.Error()
}

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// printable makes text that a peer chose safe for a log, a terminal and a
// model, and bounds it.
func printable(text string) string {
	const limit = 300
	if len(text) > limit {
		text = text[:limit] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
