package remote

import (
	"context"
	"errors"
	"io"

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
	// Err says what went wrong with the connection; nil otherwise.
	Err error
	// Refused: the device gave no channel or did not accept the command.
	Refused bool
}

func (r *run) endedBy(x exit, state State) Result {
	if x.signal != "" {
		return Result{Outcome: Signaled, Executed: Yes, State: state, Signal: x.signal}
	}
	return Result{Outcome: Exited, Executed: Yes, State: state, ExitCode: &x.code}
}

// notSent is the result when no channel was had.
func (r *run) notSent(ctx context.Context, err error) Result {
	result := Result{Outcome: NotConnected, Executed: No, State: StateUnknown, Err: err}
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
	if errors.Is(err, errRefused) {
		return Result{Outcome: NotConnected, Executed: No, State: StateUnknown, Err: err, Refused: true}
	}
	return Result{Outcome: ConnectionLost, Executed: Maybe, State: StateMayBeRunning, Err: err}
}

// lost is the result when the channel ended without an exit status.
func (r *run) lost(unanswered bool) Result {
	executed := Yes
	if unanswered {
		executed = Maybe
	}
	return Result{
		Outcome: ConnectionLost, Executed: executed, State: StateMayBeRunning,
		Err: errors.New("the connection ended before the command's exit status came"),
	}
}

func stopOutcome(ctx context.Context) Outcome {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return TimedOut
	}
	return Cancelled
}
