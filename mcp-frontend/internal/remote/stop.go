package remote

import (
	"context"
	"regexp"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// termGrace is how long a command has to end after TERM, and killGrace
	// after KILL.
	termGrace = 2 * time.Second
	killGrace = 5 * time.Second
	// goneInterval is how often the device is asked whether all has ended.
	goneInterval = 100 * time.Millisecond
	// askTimeout bounds one such question, and stopTimeout all of it.
	askTimeout  = 3 * time.Second
	stopTimeout = 15 * time.Second
	// askTries is how often it is asked that was not answered.
	askTries = 3
)

// stop ends a command whose ctx has ended, and says what was seen of its end.
// Closing the channel would leave it running. It takes a signal, sent on the
// channel (RFC 4254 section 6.9) and, where the shell's pid is known, to its
// process group from a second channel: see marker.
func (r *run) stop(ctx context.Context, unanswered bool, ended, drained <-chan struct{}) Result {
	result := Result{Outcome: stopOutcome(ctx), Executed: Yes, State: StateMayBeRunning}
	if unanswered {
		result.Executed = Maybe
	}
	if r.command.Stopping != nil {
		r.command.Stopping()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	group := r.group(ctx)
	for _, step := range []struct {
		signal ssh.Signal
		grace  time.Duration
	}{{ssh.SIGTERM, termGrace}, {ssh.SIGKILL, killGrace}} {
		if r.signalAndWait(ctx, step.signal, step.grace, group, ended, &result) {
			result.State = StateStopped
			break
		}
	}
	r.awaitOutput(ctx, drained)
	return result
}

// signalAndWait sends a signal and says whether everything was seen to end
// within grace.
func (r *run) signalAndWait(ctx context.Context, s ssh.Signal, grace time.Duration, group int, ended <-chan struct{}, result *Result) (stopped bool) {
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	r.signal(s)
	if group != 0 {
		r.ask(ctx, killGroup(string(s), group))
	}
	poll := time.NewTicker(goneInterval)
	defer poll.Stop()
	for {
		if group != 0 && r.gone(ctx, group) {
			r.noteExit(result, goneInterval)
			return true
		}
		select {
		case x := <-r.exit:
			result.noteExit(x)
		case <-ended:
			if group == 0 {
				return false // its shell has ended; what it started may not have
			}
			ended = nil
		case <-poll.C:
		case <-deadline.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// noteExit waits a moment for the exit status of what has ended.
func (r *run) noteExit(result *Result, patience time.Duration) {
	if result.ExitCode != nil || result.Signal != "" {
		return
	}
	select {
	case x := <-r.exit:
		result.noteExit(x)
	case <-time.After(patience):
	}
}

func (result *Result) noteExit(x exit) {
	result.Executed = Yes
	if result.Signal = x.signal; x.signal == "" {
		result.ExitCode = &x.code
	}
}

// group finds the process group of the command, 0 if it is not known. Its
// shell leads the group, also where another login shell has become sh.
func (r *run) group(ctx context.Context) int {
	pid := r.stdout.await(ctx, termGrace) // a command that has just begun may not have said it yet
	if pid != 0 && r.ask(ctx, killGroup("0", pid)) == groupAlive {
		return pid
	}
	return 0
}

func (r *run) gone(ctx context.Context, group int) bool {
	return r.ask(ctx, killGroup("0", group)) == groupGone
}

// What kill(1) says of a process group.
type groupState int

const (
	groupUnknown groupState = iota
	groupAlive
	groupGone
)

// ask runs a kill command on the spare channel.
func (r *run) ask(ctx context.Context, kill string) groupState {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if r.command.Spare != nil {
		release, err := r.command.Spare(ctx)
		if err != nil {
			return groupUnknown
		}
		defer release()
	}
	if r.command.Quote != nil {
		kill = r.command.Quote(kill)
	}
	answer := Run(ctx, r.client, Command{Text: kill, MaxOutput: 1 << 10, Abandon: true})
	// dropbear may close a channel before it has learnt how its command ended.
	for try := 1; answer.Outcome != Exited && try < askTries && ctx.Err() == nil; try++ {
		answer = Run(ctx, r.client, Command{Text: kill, MaxOutput: 1 << 10, Abandon: true})
	}
	switch {
	case answer.Outcome == Exited && *answer.ExitCode == 0:
		return groupAlive
	case noSuchProcess.Match(answer.Stderr.Bytes()):
		return groupGone
	}
	return groupUnknown // it may be another user's, by sudo, which we may not signal
}

// noSuchProcess is how dash, bash, busybox, zsh and csh all say ESRCH.
var noSuchProcess = regexp.MustCompile(`(?i)no such process`)

// signal sends a signal without waiting for anything: a connection that hangs
// must not hold us.
func (r *run) signal(s ssh.Signal) {
	go func() { // ends with the connection at the latest
		_, _ = r.channel.SendRequest("signal", false, ssh.Marshal(struct{ Signal string }{string(s)}))
	}()
}
