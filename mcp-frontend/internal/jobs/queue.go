package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Submit keeps j and sends it at once, or, where the device has enough jobs
// already, lets it wait for its turn. An error other than ErrFull is send's,
// and the job is not kept if it says again.
func (k *Keeper) Submit(ctx context.Context, j Job, send Send) (Job, error) {
	j.Owner = k.cfg.Book.Owner()
	waits := false
	err := k.cfg.Book.Add(j, func(all []Job) error {
		live := 0
		for _, other := range all {
			if other.Device == j.Device && !other.State.Over() {
				live++
			}
		}
		if live >= MaxRunning+MaxQueued {
			return fmt.Errorf("%w: %d run or wait on this device", ErrFull, live)
		}
		waits = live >= MaxRunning
		return nil
	})
	if err != nil {
		return j, err
	}
	if waits {
		k.mu.Lock()
		closed := k.closed
		if !closed {
			k.waiting[j.ID] = send
		}
		k.mu.Unlock()
		if closed {
			k.end(j.ID, Stopped, "the gateway is stopping: it has not run")
		}
		return k.cfg.Book.Get(j.ID)
	}
	if again, err := send(ctx, j.ID); err != nil {
		if again {
			if err := k.cfg.Book.Remove(j.ID); err != nil {
				k.cfg.Log.Error("a job that was not sent could not be forgotten", "job_id", j.ID, "error", err)
			}
		}
		return j, err
	}
	return k.cfg.Book.Get(j.ID)
}

// sendWaiting sends the queued jobs of a device whose turn has come.
func (k *Keeper) sendWaiting(ctx context.Context, device string) error {
	all, err := k.cfg.Book.All()
	if err != nil {
		return err
	}
	running := 0
	for _, j := range all {
		if j.Device == device && j.State == Running {
			running++
		}
	}
	for _, j := range all {
		k.mu.Lock()
		send := k.waiting[j.ID]
		k.mu.Unlock()
		if j.Device != device || j.State != Queued || send == nil {
			continue
		}
		if running >= MaxRunning {
			return nil
		}
		again, err := send(ctx, j.ID)
		if again && time.Since(j.CreatedAt) < maxWaiting {
			return err
		}
		k.mu.Lock()
		delete(k.waiting, j.ID)
		k.mu.Unlock()
		if again {
			k.end(j.ID, Stopped, fmt.Sprintf("it was not sent within %s and has not run: %v", maxWaiting, err))
		}
		running++
	}
	return nil
}

// orphan settles a job whose gateway process has ended.
func (k *Keeper) orphan(j Job) {
	switch {
	case !k.cfg.Book.Dead(j.Owner):
	case j.State == Queued:
		k.end(j.ID, Stopped, "the gateway ended before the job was sent: it has not run")
	default:
		k.end(j.ID, Lost, "the gateway that held the job ended, and its connection with it; it may still run on the device")
	}
}

// Hold runs an attached job in the background until it ends or is stopped.
// False: the gateway is stopping, and nothing has run.
func (k *Keeper) Hold(id string, run func(ctx context.Context)) bool {
	ctx, cancel := context.WithCancel(k.ctx)
	k.mu.Lock()
	k.held[id] = cancel
	k.mu.Unlock()
	let := func() {
		cancel()
		k.mu.Lock()
		delete(k.held, id)
		k.mu.Unlock()
	}
	if !k.begin(func(context.Context) {
		defer let()
		run(ctx)
	}) {
		let()
		return false
	}
	return true
}

// errOver: what was to be changed has ended meanwhile.
var errOver = errors.New("the job has ended meanwhile")

// Claim marks a queued job as being sent now: until Sent, nobody asks its
// device about it, as that would settle the start. An error means that it was
// stopped while it waited.
func (k *Keeper) Claim(id string, change func(*Job)) (Job, error) {
	return k.cfg.Book.Update(id, func(j *Job) error {
		if j.State != Queued {
			return errOver
		}
		now := time.Now().UTC()
		j.State, j.StartedAt = Running, &now
		change(j)
		return nil
	})
}

// Sent ends what Claim began, for a job that belongs to its device. seen: the
// device has said that it runs.
func (k *Keeper) Sent(id string, seen bool) error {
	_, err := k.Change(id, func(j *Job) { j.Seen, j.Owner = seen, "" })
	return err
}

// Change changes a job that has not ended.
func (k *Keeper) Change(id string, change func(*Job)) (Job, error) {
	return k.cfg.Book.Update(id, func(j *Job) error {
		if j.State.Over() {
			return errOver
		}
		change(j)
		return nil
	})
}

// Requeue puts a job back that was not sent after all.
func (k *Keeper) Requeue(id string) error {
	_, err := k.cfg.Book.Update(id, func(j *Job) error {
		if j.State.Over() {
			return errOver
		}
		j.State, j.StartedAt, j.Owner, j.Detached = Queued, nil, k.cfg.Book.Owner(), false
		return nil
	})
	return err
}
