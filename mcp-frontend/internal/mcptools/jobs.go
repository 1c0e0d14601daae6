package mcptools

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
)

type jobGetArgs struct {
	JobID  string `json:"job_id"`
	WaitS  int    `json:"wait_s"`
	Cursor string `json:"cursor"`
}

type jobListArgs struct {
	Device string `json:"device"`
	State  string `json:"state"`
}

type jobStopArgs struct {
	JobID  string `json:"job_id"`
	Signal string `json:"signal"`
	GraceS *int   `json:"grace_s"`
}

// jobCalled records a call about a job; nil if the audit agrees.
func (t *tools) jobCalled(ctx context.Context, tool, id string) *toolError {
	r := t.record(ctx, "tool_called")
	r.Tool, r.RunID = tool, clip(id)
	if _, err := t.cfg.Record(r); err != nil {
		e := auditUnavailable(err)
		return &e
	}
	return nil
}

// firstPause and maxPause are between two looks at a job that is waited for.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 2 * time.Second
)

func (t *tools) getJob(ctx context.Context, args jobGetArgs) result {
	if e := t.jobCalled(ctx, "ssh_job_get", args.JobID); e != nil {
		return failure(*e)
	}
	at, err := parseCursor(args.Cursor)
	if err != nil {
		return failure(invalidArgument(err.Error()))
	}
	until := time.Now().Add(time.Duration(args.WaitS) * time.Second)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		job, out, e := t.lookAtJob(ctx, args.JobID, at)
		if e != nil && job.ID == "" {
			return failure(*e)
		}
		r := newJobResult(job)
		r.add(job, out, at)
		if e != nil {
			r.fail(*e)
		}
		left := time.Until(until)
		if e != nil || job.State.Over() || r.More || left <= 0 {
			return result{value: r, isError: e != nil}
		}
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return result{value: r, isError: false}
		}
	}
}

// lookAtJob learns how a job stands and reads its output from the cursor on.
// With an error the job is what was known before, empty if there is none.
func (t *tools) lookAtJob(ctx context.Context, id string, at cursor) (jobs.Job, [2][]byte, *toolError) {
	var none [2][]byte
	job, err := t.cfg.Jobs.Get(id)
	if err != nil {
		return jobs.Job{}, none, t.jobError(err)
	}
	window := defaultOutputBytes
	if most := t.cfg.Limits(job.Device).MaxOutputBytes; most > 0 {
		window = min(window, int(most))
	}
	if job.OutputID != "" {
		out := t.readHeld(&job, at, window)
		return job, out, nil
	}
	job, look, err := t.cfg.Jobs.Look(ctx, id, at, window)
	switch {
	case err != nil:
		return job, none, t.jobError(err)
	case look.State == "gone" && job.State != jobs.Lost && job.StdoutBytes+job.StderrBytes > 0:
		return job, none, &toolError{
			Code: "HANDLE_EXPIRED", Message: "the device does not have the job's output any more", Stage: "exec", FixBy: byModel,
			Hint: "how the job ended stands beside this; run it again if you need its output",
		}
	}
	return job, look.Content, nil
}

// jobError translates what kept us from a job.
func (t *tools) jobError(err error) *toolError {
	if errors.Is(err, jobs.ErrUnknown) {
		return &toolError{
			Code: "NOT_FOUND", Message: "no job has this id; ended jobs are remembered for a day", Stage: "arguments",
			Hint: "ssh_job_list has all jobs", NextTool: "ssh_job_list", FixBy: byModel,
		}
	}
	e := connectError(err)
	if e.Code == "INTERNAL" {
		e = t.internal("looking at a job", err)
	}
	return &e
}

// listPatience bounds how long ssh_job_list waits for devices.
const listPatience = 5 * time.Second

func (t *tools) listJobs(ctx context.Context, args jobListArgs) result {
	if e := t.jobCalled(ctx, "ssh_job_list", ""); e != nil {
		return failure(*e)
	}
	all, err := t.cfg.Jobs.All()
	if err != nil {
		return failure(t.internal("reading the jobs", err))
	}
	list := make([]jobResult, len(all))
	byDevice := make(map[string][]int)
	for i, job := range all {
		list[i] = newJobResult(job)
		if job.State == jobs.Running && job.Detached && (args.Device == "" || args.Device == job.Device) {
			byDevice[job.Device] = append(byDevice[job.Device], i)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	var asking sync.WaitGroup
	for _, indexes := range byDevice { // each of at most jobs.MaxRunning
		asking.Go(func() { t.refresh(ctx, all, indexes, list) })
	}
	asking.Wait()
	found := make([]jobResult, 0, len(list))
	for _, r := range list {
		if (args.Device == "" || r.Device == args.Device) && (args.State == "" || r.State == args.State) {
			found = append(found, r)
		}
	}
	return result{value: map[string]any{"jobs": found}}
}

// refresh asks one device about its jobs. A device that cannot be asked about
// one is not asked about the next.
func (t *tools) refresh(ctx context.Context, all []jobs.Job, indexes []int, list []jobResult) {
	var e *toolError
	for _, i := range indexes {
		if e == nil {
			job, _, err := t.cfg.Jobs.Look(ctx, all[i].ID, [2]int64{}, 0)
			if err == nil {
				list[i] = newJobResult(job)
				continue
			}
			e = t.jobError(err)
		}
		list[i].fail(*e)
		list[i].Error, list[i].Reason = nil, e.Code+": "+e.Message
	}
}

// defaultGrace is how long a job may take to end after its signal.
const defaultGrace = 5 * time.Second

func (t *tools) stopJob(ctx context.Context, args jobStopArgs) result {
	job, err := t.cfg.Jobs.Get(args.JobID)
	if err != nil {
		if e := t.jobCalled(ctx, "ssh_job_stop", args.JobID); e != nil {
			return failure(*e)
		}
		return failure(*t.jobError(err))
	}
	r := t.record(ctx, "job_stopping")
	r.Tool, r.RunID, r.Device = "ssh_job_stop", job.ID, job.Device
	if job.State.Over() {
		r.Event = "tool_called"
	}
	if _, err := t.cfg.Record(r); err != nil {
		return failure(auditUnavailable(err))
	}
	grace := defaultGrace
	if args.GraceS != nil {
		grace = time.Duration(*args.GraceS) * time.Second
	}
	job, err = t.cfg.Jobs.Stop(ctx, args.JobID, cmp.Or(args.Signal, "TERM"), grace)
	answer := newJobResult(job)
	switch {
	case errors.Is(err, jobs.ErrEndNotSeen):
		answer.Error = &toolError{
			Code: "TIMEOUT", Message: err.Error() + ": it may still be running", Stage: "exec", Retriable: true,
			Hint: "look again with ssh_job_get; tell the operator if it goes on", NextTool: "ssh_job_get", FixBy: byModel,
		}
	case err != nil:
		answer.fail(*t.jobError(err))
	}
	return result{value: answer, isError: answer.Error != nil}
}
