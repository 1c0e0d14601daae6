package remote

import (
	"context"
	"errors"
	"io"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// Outcome is how a run ended.
type Outcome string

// The outcomes of a run that was sent to a device.
const (
	Exited         Outcome = "exited"
	Signaled       Outcome = "signaled"
	TimedOut       Outcome = "timed_out"
	Cancelled      Outcome = "cancelled"
	NotConnected   Outcome = "not_connected"
	ConnectionLost Outcome = "connection_lost"
)

// Executed says whether the command has run.
type Executed string

// What is known of the execution: the exec request was not sent or was
// refused, it was sent and the answer was not seen, or it was accepted.
const (
	No    Executed = "no"
	Maybe Executed = "maybe"
	Yes   Executed = "yes"
)

// State is where the command stands on the device now.
type State string

// What is known of the command's process: it ended by itself, it ended after
// we stopped it, its end was not seen, or it never began.
const (
	StateExited       State = "exited"
	StateStopped      State = "stopped"
	StateMayBeRunning State = "may_be_running"
	StateUnknown      State = "unknown"
)

// Command is what to run.
type Command struct {
	// Text goes to the login shell.
	Text string
	// Posix says that a POSIX shell reads Text: then the whole process group
	// of the command can be stopped.
	Posix bool
	// Setsid starts Text by setsid(1), where commands have no process group of
	// their own: see ProbeSetsid. Only with Posix, and without Quote.
	Setsid bool
	// Quote puts POSIX text into the quoting of another login shell; nil where
	// the login shell is POSIX itself, or Text goes as it is.
	Quote func(posix string) string
	// Stdin is sent and closed; nil closes it at once.
	Stdin []byte
	// MaxOutput is how many bytes of each stream are kept.
	MaxOutput int
	// Spill opens a place for a whole stream ("stdout" or "stderr") that is
	// longer than MaxOutput; it may return nil. nil for none.
	Spill func(stream string) io.WriteCloser
	// Spare waits for a channel that the run may use beside its own, to stop
	// itself; nil: there is always one. Call release.
	Spare func(ctx context.Context) (release func(), err error)
	// Lost says whether the connection has ended; nil: it is not known. It is
	// asked once the channel has ended, to tell its end from the connection's.
	Lost func() bool
	// Stopping is called when the run is about to be stopped; nil for none.
	Stopping func()
	// Abandon: when ctx ends, the command is left alone. For what is harmless
	// and short, or is meant to go on.
	Abandon bool
	// Permit is asked while the channel is being opened. Nothing is sent unless
	// it returns nil; its error becomes the result's. nil permits.
	Permit func() error
	// Done is called once, when the channel has closed or none was had. That
	// may be after Run has returned: the device counts the channel until then.
	Done func()
	// Progress is given the newest line of output, at most once a second; nil
	// for none. Called from one goroutine.
	Progress func(line string)
}

// Result is what was seen.
type Result struct {
	Outcome  Outcome
	Executed Executed
	State    State
	ExitCode *int   // if it exited
	Signal   string // if a signal ended it, without "SIG"
	Stdout   *Capture
	Stderr   *Capture
	// Err says what went wrong with the connection; nil otherwise. What it quotes
	// of the device is short and printable. With a State
	// of StateExited the exit was seen, and the last output may be missing.
	Err error
	// Refused: the device gave no channel or did not accept the command.
	Refused bool
}

// endedBy is the result of a command that ended by itself, and whose output
// is whole or was cut short by the loss of the connection.
func (r *run) endedBy(x exit, whole bool) Result {
	result := Result{Outcome: Exited, Executed: Yes, State: StateExited}
	if x.signal != "" {
		result.Outcome = Signaled
	}
	result.noteExit(x)
	if !whole {
		result.Outcome = ConnectionLost
		result.Err = errors.New("it ended while the command's last output was on its way")
	}
	return result
}

// notSent is the result when no channel was had.
func (r *run) notSent(ctx context.Context, err error) Result {
	result := Result{Outcome: NotConnected, Executed: No, State: StateUnknown, Err: brief(err)}
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &refused):
		result.Refused = true
	case ctx.Err() != nil:
		result.Outcome, result.Err = stopOutcome(ctx), nil
	default:
		result.Outcome = ConnectionLost
	}
	return result
}

// notAccepted is the result when the command was refused, or the connection
// went while we waited for the answer.
func (r *run) notAccepted(err error) Result {
	if errors.Is(err, ErrRefused) {
		return Result{Outcome: NotConnected, Executed: No, State: StateUnknown, Err: err, Refused: true}
	}
	return Result{Outcome: ConnectionLost, Executed: Maybe, State: StateMayBeRunning, Err: brief(err)}
}

// lost is the result when the channel ended without an exit status.
func (r *run) lost() Result {
	return Result{
		Outcome: ConnectionLost, Executed: Yes, State: StateMayBeRunning,
		Err: errors.New("the connection ended before the command's exit status came"),
	}
}

func stopOutcome(ctx context.Context) Outcome {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return TimedOut
	}
	return Cancelled
}

// brief makes an error fit to be shown that may quote what a device said: an
// agent reads it, and a refusal's text may be as long as a packet.
func brief(err error) error {
	const limit = 200
	text := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, err.Error())
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return errors.New(text)
}
