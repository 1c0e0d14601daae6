// Package remote runs commands over an SSH connection that it is given. It
// knows neither names nor tunnels.
//
// It promises to say only what was seen: whether the command ran, how it
// ended, and whether it is still running. It sends a command once; whatever
// happens, it never sends it again. Output is kept within bounds, head and
// tail, and hashed whole.
package remote

import (
	"context"
	"errors"
	"io"
	"regexp"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// lingerAfterExit is how long output may still come once the command has
	// exited: a process that it left behind may hold its pipes for ever.
	lingerAfterExit = 500 * time.Millisecond
	// progressInterval is how often the newest output is reported.
	progressInterval = time.Second
)

// Run runs c over client until it ends or ctx does. A ctx that ends stops the
// command: TERM, a grace, KILL, and the exit awaited. If cause says timeout,
// the outcome is TimedOut, else Cancelled.
func Run(ctx context.Context, client *ssh.Client, c Command) Result {
	r := &run{
		client: client, command: c, exit: make(chan exit, 1), stderr: newCapture(c.MaxOutput, c.spiller("stderr")),
		stdout: newMarkerFilter(newCapture(c.MaxOutput, c.spiller("stdout")), c.Posix),
	}
	result := r.run(ctx)
	result.Stdout, result.Stderr = r.stdout.dst, r.stderr
	return result
}

func (c Command) done() {
	if c.Done != nil {
		c.Done()
	}
}

func (c Command) spiller(stream string) func() io.WriteCloser {
	if c.Spill == nil {
		return nil
	}
	return func() io.WriteCloser { return c.Spill(stream) }
}

type run struct {
	client  *ssh.Client
	command Command
	stdout  *markerFilter
	stderr  *Capture
	channel ssh.Channel
	exit    chan exit // the exit status or signal, if the device sends one
}

// signalName is what RFC 4254 section 6.10 allows, private names included.
var signalName = regexp.MustCompile(`^[A-Za-z0-9@.-]{1,32}$`)

// exit is how the command ended, as the device says (RFC 4254 section 6.10).
type exit struct {
	code   int
	signal string
}

func (r *run) run(ctx context.Context) Result {
	permitted := r.askPermit()
	opened, err := r.openPatiently(ctx)
	if refused := <-permitted; refused != nil {
		if err == nil {
			go ssh.DiscardRequests(opened) // ends with the channel
			_ = r.channel.Close()
		}
		r.command.done()
		return Result{Outcome: NotConnected, Executed: No, State: StateUnknown, Err: refused}
	}
	if err != nil {
		r.command.done()
		return r.notSent(ctx, err)
	}
	// The goroutines that serve the channel end when it does, which every
	// way out of here sees to, at the latest with the connection.
	defer func() { _ = r.channel.Close() }()
	accepted := make(chan error, 1)
	ended := make(chan struct{}) // the device closed the channel, or the connection ended
	drained := make(chan struct{})
	go r.serveRequests(opened, ended)
	go r.copyOutput(drained)
	go func() { accepted <- r.exec() }()
	progress := time.NewTicker(progressInterval)
	defer progress.Stop()
	for {
		select {
		case err := <-accepted:
			if err != nil {
				return r.notAccepted(err)
			}
			accepted = nil
		case x := <-r.exit:
			return r.endedBy(x, r.awaitOutput(ctx, drained))
		case <-ended:
			select {
			case x := <-r.exit:
				return r.endedBy(x, r.awaitOutput(ctx, drained))
			default:
			}
			<-drained // what has come is all there, as nothing more does
			if accepted != nil {
				if err := <-accepted; err != nil { // nor does an answer that has not come yet
					return r.notAccepted(err)
				}
			}
			return r.lost()
		case <-ctx.Done():
			if r.command.Abandon {
				return Result{Outcome: stopOutcome(ctx), Executed: Maybe, State: StateMayBeRunning}
			}
			return r.stop(ctx, accepted != nil, ended, drained)
		case <-progress.C:
			r.report()
		}
	}
}

// askPermit asks for the permit, in parallel to what takes a round trip.
func (r *run) askPermit() <-chan error {
	permitted := make(chan error, 1)
	if r.command.Permit == nil {
		permitted <- nil
		return permitted
	}
	go func() { permitted <- r.command.Permit() }() // waited for by run
	return permitted
}

// An sshd that has just closed a channel may count it for a moment more, and
// refuse one that would be within its MaxSessions.
const (
	openTries = 6
	openPause = 10 * time.Millisecond // doubled after each try
)

// openPatiently opens the session channel. Nothing has run yet, so trying
// again is safe.
func (r *run) openPatiently(ctx context.Context) (<-chan *ssh.Request, error) {
	for try := 0; ; try++ {
		reqs, err := r.open(ctx)
		if _, refused := errors.AsType[*ssh.OpenChannelError](err); !refused || try+1 == openTries {
			return reqs, err
		}
		select {
		case <-time.After(openPause << try):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// open opens the session channel. A late one is closed.
func (r *run) open(ctx context.Context) (<-chan *ssh.Request, error) {
	type opened struct {
		channel ssh.Channel
		reqs    <-chan *ssh.Request
		err     error
	}
	result := make(chan opened)
	go func() { // ends with the connection at the latest, whose owner waits for it
		ch, reqs, err := r.client.OpenChannel("session", nil)
		select {
		case result <- opened{ch, reqs, err}:
		case <-ctx.Done():
			if err == nil {
				go ssh.DiscardRequests(reqs)
				_ = ch.Close()
			}
		}
	}()
	select {
	case o := <-result:
		r.channel = o.channel
		return o.reqs, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// exec asks for the command, waits for the answer, and sends stdin.
func (r *run) exec() error {
	text := r.command.Text
	if r.command.Posix {
		text = r.stdout.mark.before(text)
	}
	if r.command.Setsid {
		text = inSession(text)
	}
	if r.command.Quote != nil {
		text = r.command.Quote(text)
	}
	ok, err := r.channel.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{text}))
	if err != nil {
		return err
	}
	if !ok {
		return ErrRefused
	}
	go func() { // ends with the channel
		if _, err := r.channel.Write(r.command.Stdin); err == nil {
			_ = r.channel.CloseWrite()
		}
	}()
	return nil
}

// ErrRefused is in Result.Err of a command that the device did not accept.
var ErrRefused = errors.New("the device refused to run a command")

func (r *run) serveRequests(reqs <-chan *ssh.Request, ended chan<- struct{}) {
	defer r.command.done()
	defer close(ended)
	for req := range reqs {
		var x exit
		switch req.Type {
		case "exit-status":
			var msg struct{ Status uint32 }
			if ssh.Unmarshal(req.Payload, &msg) != nil {
				continue
			}
			x.code = int(msg.Status)
		case "exit-signal":
			var msg struct {
				Signal     string
				CoreDumped bool
				Message    string
				Language   string
			}
			if ssh.Unmarshal(req.Payload, &msg) != nil {
				continue
			}
			x.signal = "unknown"
			if signalName.MatchString(msg.Signal) { // else it is nothing to show to anybody
				x.signal = msg.Signal
			}
		default:
			if req.WantReply {
				_ = req.Reply(false, nil)
			}
			continue
		}
		select {
		case r.exit <- x:
		default: // the first one counts
		}
	}
}

// copyOutput reads both streams to their ends.
func (r *run) copyOutput(drained chan<- struct{}) {
	defer close(drained)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(r.stderr, r.channel.Stderr())
	}()
	_, _ = io.Copy(r.stdout, r.channel)
	r.stdout.end()
	<-done
}

// awaitOutput waits for what the command wrote before it exited: sshd tells of
// the exit as soon as it sees it, before it has read the last of the output.
// whole is false if the connection was lost before all of that came.
func (r *run) awaitOutput(ctx context.Context, drained <-chan struct{}) (whole bool) {
	timer := time.NewTimer(lingerAfterExit)
	defer timer.Stop()
	for before := r.total(); ; {
		select {
		case <-drained:
			return r.command.Lost == nil || !r.command.Lost()
		case <-ctx.Done():
			return true // what was left behind goes on writing
		case <-timer.C:
		}
		// Silence is that of a process that was left behind with the pipe, or
		// that of a line that stalls. Only the first one answers.
		if r.total() == before && !r.answers(ctx) {
			return false
		}
		now := r.total()
		if now == before {
			return true
		}
		before = now
		timer.Reset(lingerAfterExit)
	}
}

// answers says whether the device answers on the connection, which it does
// after all that it sent before.
func (r *run) answers(ctx context.Context) bool {
	answer := make(chan error, 1)
	go func() { // ends with the connection at the latest
		_, _, err := r.client.SendRequest("keepalive@openssh.com", true, nil)
		answer <- err
	}()
	select {
	case err := <-answer:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

func (r *run) total() int64 { return r.stdout.dst.Total() + r.stderr.Total() }

func (r *run) report() {
	if r.command.Progress == nil {
		return
	}
	if line := r.newest(); line != "" {
		r.command.Progress(line)
	}
}

func (r *run) newest() string {
	if line := r.stdout.dst.newLine(); line != "" {
		return line
	}
	return r.stderr.newLine()
}
