package sshpool

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Code names a failure in the words of the contract.
type Code string

// The failures on the way to a device.
const (
	DeviceNotFound  Code = "DEVICE_NOT_FOUND"
	TunnelDown      Code = "TUNNEL_DOWN"
	AcceptorDown    Code = "ACCEPTOR_DOWN"
	DialFailed      Code = "DIAL_FAILED"
	HostKeyUnknown  Code = "HOST_KEY_UNKNOWN"
	HostKeyMismatch Code = "HOST_KEY_MISMATCH"
	AuthFailed      Code = "AUTH_FAILED"
	BackingOff      Code = "BACKING_OFF"
	KeyUnusable     Code = "KEY_UNUSABLE"
	ConnectionLost  Code = "CONNECTION_LOST"
	Cancelled       Code = "CANCELLED"
	Busy            Code = "BUSY"
)

// The stages of the way to a device.
const (
	StageConfig   = "config"
	StageAcceptor = "acceptor"
	StageTunnel   = "tunnel"
	StageDial     = "dial"
	StageHostKey  = "host_key"
	StageAuth     = "auth"
)

// Error says why a device could not be reached. Nothing has run on it.
type Error struct {
	Code  Code
	Stage string
	// Err is what happened.
	Err error
	// Hint is what to do next, for whom FixBy names: "model" or "operator".
	Hint  string
	FixBy string
	// RetryAfter is when the same call may succeed; 0 with Retriable means now.
	Retriable  bool
	RetryAfter time.Duration
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Code, e.Err) }

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// printable makes text that a peer chose safe for a log, a terminal and a
// model, and bounds it.
func printable(text string) string {
	const limit = 200
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

// transient says whether trying to connect again soon may help by itself.
func (e *Error) transient() bool { return e.Code == DialFailed }

// counts says whether the failure is one of connecting to the device. A
// tunnel that is down or a key that is missing was no attempt.
func (e *Error) counts() bool { return e.Code == DialFailed || e.Code == AuthFailed }
