package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// askPause is for the pool to notice that a connection has gone.
const askPause = 200 * time.Millisecond

// settleAfter is how long a start may be under way on a device.
const settleAfter = time.Minute

// ask is one question to a job's device. It is asked again if the connection
// was lost with it: no question changes more than asking it once.
func (k *Keeper) ask(ctx context.Context, j Job, verb string, offsets [2]int64, limit int) (l Look, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for again := true; ; again = false {
		lease, err := k.cfg.Acquire(ctx, j.Device)
		if err != nil {
			return Look{}, err
		}
		l, err = Ask(ctx, Channel{Client: lease.Client, Quote: k.cfg.Quote(j.Shell), Done: lease.Release}, j, verb, offsets, limit)
		switch {
		case err == nil:
			return l, nil
		case !again || errors.Is(err, errNonsense) || ctx.Err() != nil:
			return l, &sshpool.Error{
				Code: sshpool.ConnectionLost, Stage: "exec", Err: fmt.Errorf("asking the device about the job: %w", err), Retriable: true,
				Hint: "ask again: the job is not touched by this", FixBy: "model",
			}
		}
		select {
		case <-time.After(askPause):
		case <-ctx.Done():
		}
	}
}

// Look asks the device how a job stands and for its output from the offsets
// on, at most limit bytes of each stream, and keeps what it learns. The error
// says why the device cannot be asked; the job is what was known before.
func (k *Keeper) Look(ctx context.Context, id string, offsets [2]int64, limit int) (Job, Look, error) {
	return k.look(ctx, id, "look", offsets, limit)
}

func (k *Keeper) look(ctx context.Context, id, verb string, offsets [2]int64, limit int) (Job, Look, error) {
	j, err := k.cfg.Book.Get(id)
	if err != nil || !j.Detached {
		return j, Look{}, err
	}
	if j.Owner != "" && !k.cfg.Book.Dead(j.Owner) {
		return j, Look{State: "begun"}, nil // it is being sent
	}
	if !j.Seen && !j.State.Over() && verb == "look" {
		verb = "claim"
	}
	l, err := k.ask(ctx, j, verb, offsets, limit)
	if err != nil {
		return j, l, err
	}
	j.measure(&l, offsets)
	if j.State.Over() {
		return j, l, nil
	}
	if l.State == "ended" || l.State == "dead" {
		if sums, err := k.ask(ctx, j, "sum", [2]int64{}, 0); err == nil {
			l.SHA256 = sums.SHA256
		}
	}
	j, err = k.settle(j, l)
	return j, l, err
}

// settle keeps what the device has said of a job.
func (k *Keeper) settle(j Job, l Look) (Job, error) {
	changed := j
	_, err := k.cfg.Book.Update(j.ID, func(kept *Job) error {
		changed = *kept
		if kept.State.Over() {
			return nil // somebody else has learnt it first
		}
		changed.apply(l)
		if changed.State.Over() {
			event := "job_finished"
			if changed.State == Lost {
				event = "job_lost"
			}
			// It has run: whoever asks learns how it ended, and if the audit
			// fails now, the next one who asks tries again.
			if err := k.record(event, changed, l.SHA256); err != nil {
				return nil //nolint:nilerr // see above; append has logged it
			}
		}
		*kept = changed
		return nil
	})
	if changed.State.Over() {
		k.hurry(j.Device)
	}
	return changed, err
}

// measure notes how much output there is, and takes away what the device has
// beyond the limit, which only tells that there was more.
func (j *Job) measure(l *Look, offsets [2]int64) {
	if l.State != "running" && l.State != "ended" && l.State != "dead" {
		return
	}
	if l.Limit > 0 {
		j.Limit = l.Limit
	}
	j.StdoutBytes, j.StderrBytes = min(l.Sizes[0], j.Limit), min(l.Sizes[1], j.Limit)
	j.Truncated = l.Sizes[0] > j.Limit || l.Sizes[1] > j.Limit
	for i, offset := range offsets {
		keep := max(j.Limit-offset, 0)
		l.Content[i] = l.Content[i][:min(int64(len(l.Content[i])), keep)]
	}
}

// apply is what an answer means for a job.
func (j *Job) apply(l Look) {
	j.measure(&l, [2]int64{})
	reasons := map[string]string{"asked": "stopped by ssh_job_stop", "max_runtime": "stopped at its max_runtime_s"}
	switch l.State {
	case "running":
		j.Seen = true
	case "ended":
		j.Seen = true
		j.end(Exited, "")
		if l.Stop != "" {
			j.end(Stopped, reasons[l.Stop])
		}
		if ended := j.StartedAt.Add(l.Runtime); ended.Before(*j.EndedAt) {
			j.EndedAt = &ended
		}
		if j.Signal = l.Signal; l.Signal == "" {
			j.ExitCode = &l.ExitCode
		}
	case "dead":
		j.Seen = j.Seen || l.Began
		j.end(Lost, "the device has no process of the job any more and no exit status: it was rebooted, or something else ended the job")
		if l.Stop != "" {
			j.end(Stopped, reasons[l.Stop]+"; how it ended was not seen")
		}
	case "void":
		j.Void = true
		j.end(Stopped, "the connection was lost before the job reached the device: it has not run")
	case "gone":
		j.end(Lost, "the device does not know the job any more: its directory is gone")
	case "begun":
		if time.Since(*j.StartedAt) > settleAfter {
			j.end(Lost, "the device began to start the job and never went on")
		}
	}
}

// end closes a job that no device has to say anything of.
func (k *Keeper) end(id string, s State, reason string) {
	_, err := k.cfg.Book.Update(id, func(j *Job) error {
		if j.State.Over() {
			return errOver
		}
		j.end(s, reason)
		event := "job_finished"
		if s == Lost {
			event = "job_lost"
		}
		return k.record(event, *j, [2]string{})
	})
	if err != nil {
		k.cfg.Log.Error("the end of a job could not be kept", "job_id", id, "error", err)
	}
}

// Finish closes an attached job as change says.
func (k *Keeper) Finish(id string, sums [2]string, change func(*Job)) {
	var device string
	_, err := k.cfg.Book.Update(id, func(j *Job) error {
		if j.State.Over() {
			return errOver
		}
		j.end(Exited, "")
		change(j)
		event := "job_finished"
		if j.State == Lost {
			event = "job_lost"
		}
		_ = k.record(event, *j, sums) // it has run: how it ended is kept all the same
		device = j.Device
		return nil
	})
	k.hurry(device)
	if err != nil {
		k.cfg.Log.Error("the end of a job could not be kept", "job_id", id, "error", err)
	}
}

// record puts a job's end on record.
func (k *Keeper) record(event string, j Job, sums [2]string) error {
	r := audit.Record{
		Event: event, RunID: j.ID, Tool: "ssh_job_start", Device: j.Device, Command: j.Text, Cwd: j.Cwd,
		Executed: j.Executed(), Outcome: string(j.State), ExitCode: j.ExitCode, Signal: j.Signal,
		Bytes: j.StdoutBytes, StderrBytes: j.StderrBytes, Reason: j.Reason,
	}
	if !j.Truncated { // of a part the hash would say nothing
		r.SHA256, r.StderrSHA256 = sums[0], sums[1]
	}
	if j.StartedAt != nil && j.EndedAt != nil {
		r.DurationMS = j.EndedAt.Sub(*j.StartedAt).Milliseconds()
	}
	_, err := k.cfg.Record(r)
	return err
}
