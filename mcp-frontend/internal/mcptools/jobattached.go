package mcptools

import (
	"context"
	"fmt"
	"io"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

// attach runs a job that the device cannot keep: on a channel that the gateway
// holds, with its output in the gateway's store. permit is nil if the job is on
// record already.
func (a *aJob) attach(lease *sshpool.Lease, job jobs.Job, why string, permit func() error) (again bool, err error) {
	if permit != nil {
		if err := permit(); err != nil {
			lease.Release()
			return a.unsent(job.ID, a.unsentReason(err))
		}
	}
	keep := keeper{tools: a.tools, id: outputs.NewID()}
	job, err = a.tools.cfg.Jobs.Change(job.ID, func(j *jobs.Job) {
		j.Detached, j.Owner, j.OutputID = false, a.tools.cfg.Jobs.Owner(), keep.id
		j.Reason = "it ends with the gateway's connection: " + why
	})
	if err != nil {
		lease.Release()
		return false, err
	}
	command := remote.Command{
		Text: a.text, Posix: a.shell == remote.Posix, Setsid: a.setsid, Done: lease.Release, Spare: lease.Spare, Lost: lease.Lost,
		Spill: func(stream string) io.WriteCloser { return keep.spill(stream) }, // MaxOutput is 0: from the first byte on
	}
	if quote := quoter(a.shell); quote != nil && !a.verdict.Verbatim {
		command.Posix, command.Quote = true, quote
	}
	if !a.tools.cfg.Jobs.Hold(job.ID, func(ctx context.Context) { a.hold(ctx, lease, job, command) }) {
		lease.Release()
		return a.unsent(job.ID, toolError{Code: "CANCELLED", Message: "the gateway is shutting down", Stage: "gateway", Hint: "nothing has run", FixBy: byOperator})
	}
	return false, nil
}

// hold runs the command to its end and keeps how it ended.
func (a *aJob) hold(ctx context.Context, lease *sshpool.Lease, job jobs.Job, command remote.Command) {
	ctx, cancel := context.WithTimeout(ctx, job.MaxRuntime)
	defer cancel()
	command.Stopping = func() { a.note("job_stopping") }
	seen := remote.Run(ctx, lease.Client, command)
	seen.Stdout.Spilled()
	seen.Stderr.Spilled()
	sums := [2]string{seen.Stdout.SHA256(), seen.Stderr.SHA256()}
	a.tools.cfg.Jobs.Finish(job.ID, sums, func(j *jobs.Job) {
		j.StdoutBytes, j.StderrBytes = seen.Stdout.Total(), seen.Stderr.Total()
		j.ExitCode, j.Signal = seen.ExitCode, seen.Signal
		j.Seen, j.Void = seen.Executed == remote.Yes, seen.Executed == remote.No
		j.State, j.Reason = heldEnd(seen)
	})
}

// heldEnd is how a job that the gateway held has ended.
func heldEnd(seen remote.Result) (s jobs.State, reason string) {
	switch seen.Outcome {
	case remote.Exited, remote.Signaled:
		return jobs.Exited, ""
	case remote.TimedOut:
		reason = "stopped at its max_runtime_s"
	case remote.Cancelled:
		reason = "stopped by ssh_job_stop, or because the gateway was shut down"
	default:
		return jobs.Lost, fmt.Sprintf("the connection that the job needed was lost: %v", seen.Err)
	}
	if seen.State != remote.StateStopped {
		return jobs.Lost, reason + "; its end was not seen: it may still be running on the device"
	}
	return jobs.Stopped, reason
}
