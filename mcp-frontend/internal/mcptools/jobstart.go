package mcptools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

type jobStartArgs struct {
	Device      string `json:"device"`
	Command     string `json:"command"`
	Cwd         string `json:"cwd"`
	MaxRuntimeS int    `json:"max_runtime_s"`
	Name        string `json:"name"`
	ApprovalID  string `json:"approval_id"`
}

// aJob is a job on its way to the device.
type aJob struct {
	order
	job jobs.Job
}

func (t *tools) startJob(ctx context.Context, args jobStartArgs) result {
	a := t.newJob(ctx, args)
	if _, err := t.cfg.Pool.Device(args.Device); err != nil {
		return a.refused("job_failed", connectError(err))
	}
	if e := a.bound(args.MaxRuntimeS); e != nil {
		return a.refused("job_denied", *e)
	}
	denied := a.judge()
	if a.verdict.Decision == policy.Approve {
		var question *mcp.CallToolResult
		if question, denied = a.approve(ctx, args.ApprovalID); question != nil {
			return result{question: question}
		}
		defer a.forgo()
		if denied == nil {
			denied = a.redeem() // now, as a job may wait in the queue for longer than a yes counts
		}
	}
	if denied != nil {
		return a.refused("job_denied", *denied)
	}
	a.job.Text = a.text
	waiting, cancel := context.WithTimeout(ctx, maxConnect)
	defer cancel()
	job, err := t.cfg.Jobs.Submit(waiting, a.job, a.send)
	if unsent, ok := errors.AsType[*unsentError](err); ok {
		return a.refused("job_failed", unsent.toolError)
	}
	switch {
	case errors.Is(err, jobs.ErrFull):
		return a.refused("job_denied", toolError{
			Code: "LIMIT_EXCEEDED", Message: err.Error(), Stage: "policy", FixBy: byModel,
			Hint: "nothing has run; wait for a job to end, or stop one", NextTool: "ssh_job_list",
		})
	case err != nil:
		return a.refused("job_failed", t.internal("keeping a job", err))
	}
	r := newJobResult(job)
	if job.State == jobs.Queued {
		a.note("job_queued")
		r.Reason = fmt.Sprintf("%d jobs run on this device; it is sent when one ends", jobs.MaxRunning)
	}
	if job.State == jobs.Running && job.Detached && !job.Seen {
		r.State = string(jobs.Unreachable)
		r.Error = &toolError{
			Code: "CONNECTION_LOST", Message: "the connection was lost while the job was being started", Stage: "exec", FixBy: byModel,
			Hint: "do not start it again: ssh_job_get says whether it began, as soon as the device can be reached", NextTool: "ssh_job_get",
		}
	}
	return result{value: r, isError: r.Error != nil}
}

func (t *tools) newJob(ctx context.Context, args jobStartArgs) *aJob {
	a := &aJob{order: t.newOrder(ctx, "ssh_job_start", (*policy.Policy).Command, args.Device, args.Command, args.Cwd), job: jobs.New(args.Device)}
	a.job.Name, a.job.Command, a.job.Cwd = args.Name, args.Command, args.Cwd
	a.record.RunID = a.job.ID
	return a
}

// bound settles how long the job may run.
func (a *aJob) bound(seconds int) *toolError {
	longest := a.tools.cfg.Limits(a.device).MaxTimeout
	a.job.MaxRuntime = time.Duration(seconds) * time.Second
	if seconds == 0 {
		a.job.MaxRuntime = jobs.DefaultRuntime
		if longest > 0 {
			a.job.MaxRuntime = min(a.job.MaxRuntime, longest)
		}
	}
	if longest > 0 && a.job.MaxRuntime > longest {
		return limitExceeded(fmt.Sprintf("max_runtime_s may be at most %d on this device", int(longest.Seconds())))
	}
	return nil
}

// refused answers a job that was not started, and records why.
func (a *aJob) refused(event string, e toolError) result {
	record := a.record
	record.Event, record.Outcome, record.Executed = event, "denied", string(remote.No)
	if event == "job_failed" {
		record.Outcome = string(remote.NotConnected)
	}
	record.Reason, record.DurationMS = clip(e.Code+": "+e.Message), time.Since(a.began).Milliseconds()
	if _, err := a.tools.cfg.Record(record); err != nil {
		e = auditUnavailable(err)
	}
	return failure(e)
}

// refuseJob answers arguments that do not fit. Of the arguments it keeps what
// can be read.
func (t *tools) refuseJob(ctx context.Context, raw json.RawMessage, problem string) result {
	var args jobStartArgs
	_ = json.Unmarshal(raw, &args) // some of them have the wrong type, which is the problem
	return t.newJob(ctx, args).refused("job_denied", invalidArgument(problem))
}

// unsentError says why a job was not sent.
type unsentError struct{ toolError }

func (e *unsentError) Error() string { return e.Code + ": " + e.Message }

// send starts the job on its device: jobs.Send.
func (a *aJob) send(ctx context.Context, id string) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxConnect)
	defer cancel()
	lease, err := a.tools.cfg.Pool.Acquire(ctx, a.device)
	if err != nil {
		e := connectError(err)
		return e.Code != string(sshpool.DeviceNotFound), &unsentError{e}
	}
	if e := a.settle(ctx, lease); e != nil {
		lease.Release()
		return false, &unsentError{*e}
	}
	a.record.TunnelID = lease.TunnelID
	read := a.readBy()
	job, err := a.tools.cfg.Jobs.Claim(id, func(j *jobs.Job) {
		j.Text, j.Shell, j.Detached = a.text, string(a.shell), read != ""
	})
	if err != nil {
		lease.Release()
		return false, err
	}
	if read == "" {
		return a.attach(lease, job, "the login shell is not POSIX", a.permit) //nolint:contextcheck // the job outlives the call
	}
	channel := jobs.Channel{Client: lease.Client, Quote: QuoteScript(job.Shell), Done: lease.Release}
	err = jobs.Start(ctx, channel, job, read, a.permit)
	switch {
	case err == nil:
		return false, a.tools.cfg.Jobs.Sent(id, true)
	case errors.Is(err, jobs.ErrUnclear):
		return false, a.tools.cfg.Jobs.Sent(id, false) // whoever asks for the job asks the device
	case errors.Is(err, jobs.ErrUnsupported):
		lease, unreachable := a.tools.cfg.Pool.Acquire(ctx, a.device)
		if unreachable != nil {
			return a.unsent(id, connectError(unreachable))
		}
		return a.attach(lease, job, err.Error(), nil) //nolint:contextcheck // the job outlives the call
	}
	return a.unsent(id, a.unsentReason(err))
}

// unsent puts the job back that was not sent.
func (a *aJob) unsent(id string, e toolError) (again bool, err error) {
	if err := a.tools.cfg.Jobs.Requeue(id); err != nil {
		return false, err
	}
	return true, &unsentError{e}
}

// errNoRecord marks that the audit refused.
type errNoRecord struct{ error }

func (a *aJob) permit() error {
	started := a.record
	started.Event = "job_started"
	if _, err := a.tools.cfg.Record(started); err != nil {
		return errNoRecord{err}
	}
	return nil
}

func (a *aJob) unsentReason(err error) toolError {
	if refused, ok := errors.AsType[errNoRecord](err); ok {
		return auditUnavailable(refused.error)
	}
	return toolError{
		Code: "CHANNEL_REFUSED", Message: fmt.Sprintf("the device did not take the job: %v", err), Stage: "exec", Retriable: true,
		Hint: "nothing has run; try again, or ask the operator whether the login user may run commands there", FixBy: byOperator,
	}
}

// settle judges by the policy and the limits of now, if they have changed, and
// learns the shell.
func (a *aJob) settle(ctx context.Context, lease *sshpool.Lease) *toolError {
	if a.outdated() {
		if e := a.bound(int(a.job.MaxRuntime.Seconds())); e != nil {
			return e
		}
		if e := a.judge(); e != nil {
			return e
		}
	}
	return a.settleShell(ctx, lease)
}

// readBy is what reads the command of a job that the device keeps; "" where it
// can keep none.
func (a *aJob) readBy() string {
	switch {
	case a.shell == remote.Posix:
		return jobs.ReadByLogin
	case quoter(a.shell) == nil:
		return ""
	case a.verdict.Verbatim:
		return jobs.ReadByForeign
	}
	return jobs.ReadBySh
}

// QuoteScript returns how a POSIX script is put to a login shell.
func QuoteScript(shell string) func(posix string) string {
	if quote := quoter(remote.Shell(shell)); quote != nil {
		return quote
	}
	return func(posix string) string { // zsh, for one, reads POSIX commands and not every POSIX script
		return "exec /bin/sh -c '" + strings.ReplaceAll(posix, "'", `'\''`) + "'"
	}
}
