package mcptools

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

type diagnoseArgs struct {
	Device string `json:"device"`
}

// diagnosis is what ssh_diagnose answers.
type diagnosis struct {
	Device       string  `json:"device"`
	OK           bool    `json:"ok"`
	Stages       []stage `json:"stages"`
	FirstFailure string  `json:"first_failure"`
	Hint         string  `json:"hint"`
	FixBy        string  `json:"fix_by"`
}

type stage struct {
	Stage   string `json:"stage"`
	Status  string `json:"status"` // ok, failed or skipped
	MS      int64  `json:"ms"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// The stages of the way to a device's programs, in order.
const (
	stageExec = "exec"
	stageSFTP = "sftp"
)

var stages = []string{
	sshpool.StageConfig, sshpool.StageAcceptor, sshpool.StageTunnel, sshpool.StageDial,
	sshpool.StageHostKey, sshpool.StageAuth, stageExec, stageSFTP,
}

// tryTimeout bounds the stages exec and sftp each.
const tryTimeout = 8 * time.Second

// diagnose makes a fresh attempt, and says how far it came.
func (t *tools) diagnose(ctx context.Context, args diagnoseArgs) result {
	about := t.record(ctx, "tool_called")
	about.Tool, about.Device = "ssh_diagnose", clip(args.Device)
	if _, err := t.cfg.Pool.Device(args.Device); err != nil {
		about.Reason = string(sshpool.DeviceNotFound)
		if err := t.note(about, "tool_called"); err != nil {
			return failure(auditUnavailable(err))
		}
		return failure(connectError(err))
	}
	done, e := t.turns.take(ctx, args.Device)
	if e != nil {
		about.Reason = clip(e.Code + ": " + e.Message)
		if err := t.note(about, "tool_called"); err != nil {
			return failure(auditUnavailable(err))
		}
		return failure(*e)
	}
	defer done()
	if err := t.note(about, "diagnose_started"); err != nil {
		return failure(auditUnavailable(err))
	}
	began := time.Now()
	attempt, err := t.cfg.Pool.Diagnose(ctx, args.Device)
	if err != nil { // it was removed just now
		return failure(connectError(err))
	}
	d := diagnosis{Device: args.Device}
	for _, step := range attempt.Steps {
		d.passed(step.Stage, step.Took, connectFailure(step.Failure))
	}
	if attempt.Client != nil {
		d.tryPrograms(ctx, attempt.Client)
		_ = attempt.Client.Close()
		_ = attempt.Client.Wait()
	}
	d.finish()
	about.TunnelID, about.DurationMS, about.Outcome = attempt.TunnelID, time.Since(began).Milliseconds(), "ok"
	if !d.OK {
		about.Outcome = "failed"
		at := d.Stages[slices.Index(stages, d.FirstFailure)]
		about.Reason = clip(d.FirstFailure + ": " + at.Code + ": " + at.Message)
	}
	if err := t.note(about, "diagnose_finished"); err != nil {
		t.cfg.Log.Error("a finished diagnosis could not be recorded", "device", args.Device, "error", err)
	}
	return result{value: d}
}

func connectFailure(e *sshpool.Error) *toolError {
	if e == nil {
		return nil
	}
	shown := connectError(e)
	return &shown
}

// tryPrograms runs a command and opens SFTP, each on its own: accounts for
// files only have no shell, and small devices no SFTP.
func (d *diagnosis) tryPrograms(ctx context.Context, client *ssh.Client) {
	for _, program := range []struct {
		stage string
		try   func(context.Context, *ssh.Client) error
		why   func(error) *toolError
	}{{stageExec, remote.TryExec, execFailure}, {stageSFTP, remote.TrySFTP, sftpFailure}} {
		began := time.Now()
		trying, cancel := context.WithTimeout(ctx, tryTimeout)
		err := program.try(trying, client)
		cancel()
		var e *toolError
		if err != nil {
			e = program.why(err)
		}
		d.passed(program.stage, time.Since(began), e)
	}
}

func execFailure(err error) *toolError {
	e := &toolError{
		Code: "CONNECTION_LOST", Message: "no command can be run: " + clean(err.Error()), FixBy: byOperator,
		Hint: "the login works, but no command: ask the operator to look at the login user's shell and at the log of the device's sshd",
	}
	switch {
	case errors.Is(err, remote.ErrAnswer):
		e.Code = "UNSUPPORTED_SHELL"
	case errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Message = "TIMEOUT", fmt.Sprintf("a command that does nothing took longer than %s", tryTimeout)
		e.Hint = "the login works, but no command ends: ask the operator whether the device is overloaded, or its start-up files hang"
	case isRefusal(err):
		e.Code = "CHANNEL_REFUSED"
	}
	return e
}

func sftpFailure(err error) *toolError {
	e := &toolError{
		Code: "SFTP_UNAVAILABLE", Message: clean(err.Error()), FixBy: byOperator,
		Hint: "only file transfer does not work; what needs no files can go on. The operator can add sshd's line Subsystem sftp internal-sftp, or install sftp-server",
	}
	if errors.Is(err, context.DeadlineExceeded) {
		e.Message = fmt.Sprintf("the SFTP subsystem did not answer within %s", tryTimeout)
	}
	return e
}

func isRefusal(err error) bool {
	var refused *ssh.OpenChannelError
	return errors.As(err, &refused) || errors.Is(err, remote.ErrRefused)
}

// passed notes a stage. The first one that failed says what to do.
func (d *diagnosis) passed(name string, took time.Duration, e *toolError) {
	s := stage{Stage: name, Status: "ok", MS: took.Milliseconds()}
	if e != nil {
		s.Status, s.Code, s.Message = "failed", e.Code, e.Message
	}
	d.Stages = append(d.Stages, s)
	if e != nil && d.FirstFailure == "" {
		d.FirstFailure, d.Hint, d.FixBy = name, e.Hint, e.FixBy
	}
}

// finish adds the stages that were not tried.
func (d *diagnosis) finish() {
	all := make([]stage, 0, len(stages))
	for _, name := range stages {
		s := stage{Stage: name, Status: "skipped"}
		if i := slices.IndexFunc(d.Stages, func(s stage) bool { return s.Stage == name }); i >= 0 {
			s = d.Stages[i]
		}
		all = append(all, s)
	}
	d.Stages = all
	d.OK = d.FirstFailure == ""
	if d.OK {
		d.Hint = "every stage works: go on"
	}
}

// A device is diagnosed by one caller at a time, and no more often than this:
// each diagnosis is a login, and too many failed ones lock the gateway out of
// devices with fail2ban and the like.
const (
	maxDiagnoses = 3
	diagnosesIn  = 30 * time.Second
)

// turns is when each device was diagnosed.
type turns struct {
	mu       sync.Mutex // guards all below
	byDevice map[string]*turn
}

type turn struct {
	taken chan struct{} // holds one element while a diagnosis runs
	began []time.Time   // the newest, at most maxDiagnoses; only by who has the turn
}

// take waits for the device's turn. Call done.
func (t *turns) take(ctx context.Context, device string) (done func(), e *toolError) {
	t.mu.Lock()
	if t.byDevice == nil {
		t.byDevice = make(map[string]*turn)
	}
	its := t.byDevice[device] // as many as connections.json has had names
	if its == nil {
		its = &turn{taken: make(chan struct{}, 1)}
		t.byDevice[device] = its
	}
	t.mu.Unlock()
	select {
	case its.taken <- struct{}{}:
	case <-ctx.Done():
		return nil, &toolError{Code: "CANCELLED", Message: "the call was cancelled", Stage: "gateway", Retriable: true, Hint: "nothing was tried", FixBy: byModel}
	}
	done = func() { <-its.taken }
	if len(its.began) == maxDiagnoses {
		if wait := time.Until(its.began[0].Add(diagnosesIn)); wait > 0 {
			done()
			return nil, &toolError{
				Code: "BUSY", Stage: "gateway", Retriable: true, RetryAfterS: seconds(wait), FixBy: byModel,
				Message: fmt.Sprintf("this device was diagnosed %d times within %s", maxDiagnoses, diagnosesIn),
				Hint:    "the last diagnosis says what to do; ask again after retry_after_s, or once something was changed",
			}
		}
		its.began = its.began[1:]
	}
	its.began = append(its.began, time.Now())
	return done, nil
}
