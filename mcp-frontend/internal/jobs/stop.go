package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// stopInterval is how often a device is asked whether a stopped job has
	// ended, and killGrace how long that may take after KILL.
	stopInterval = 200 * time.Millisecond
	killGrace    = 10 * time.Second
)

// ErrEndNotSeen says that a job was told to stop, and its end was not seen.
var ErrEndNotSeen = errors.New("the job was told to stop, and its end was not seen")

// Stop ends a job: the signal to its process group, KILL after grace, and its
// end awaited. One that has ended stays as it is. ErrEndNotSeen if the end was
// not seen; any other error says why the device could not be told.
func (k *Keeper) Stop(ctx context.Context, id, signal string, grace time.Duration) (Job, error) {
	j, err := k.cfg.Book.Get(id)
	if err != nil || j.State.Over() {
		return j, err
	}
	if j.State == Queued {
		j, err = k.cfg.Book.Update(id, func(j *Job) error {
			if j.State != Queued {
				return nil // it was sent meanwhile
			}
			j.end(Stopped, "stopped by ssh_job_stop before it was sent: it has not run")
			return k.record("job_finished", *j, [2]string{})
		})
		if err != nil || j.State.Over() {
			k.mu.Lock()
			delete(k.waiting, id)
			k.mu.Unlock()
			return j, err
		}
	}
	if !j.Detached {
		return k.letGo(ctx, j)
	}
	// Once begun, a stop is carried through: who asked for it may have left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace+killGrace+2*lookTimeout)
	defer cancel()
	if !j.Seen {
		if j, _, err = k.Look(ctx, id, [2]int64{}, 0); err != nil || j.State.Over() {
			return j, err
		}
	}
	for _, step := range []struct {
		signal string
		grace  time.Duration
	}{{signal, grace}, {"KILL", killGrace}} {
		j, err = k.signal(ctx, id, step.signal, step.grace)
		if !errors.Is(err, ErrEndNotSeen) {
			return j, err
		}
	}
	return j, err
}

// signal sends a signal and waits for the end of the whole process group.
func (k *Keeper) signal(ctx context.Context, id, signal string, grace time.Duration) (Job, error) {
	deadline := time.Now().Add(grace)
	for verb := signal; ; verb = "look" {
		j, l, err := k.look(ctx, id, verb, [2]int64{}, 0)
		switch {
		case err != nil:
			return j, err
		case j.State.Over() && !l.GroupAlive:
			return j, nil
		case time.Now().After(deadline):
			return j, ErrEndNotSeen
		}
		select {
		case <-ctx.Done():
			return j, ErrEndNotSeen
		case <-time.After(stopInterval):
		}
	}
}

// letGo stops a job that the gateway holds.
func (k *Keeper) letGo(ctx context.Context, j Job) (Job, error) {
	k.mu.Lock()
	cancel := k.held[j.ID]
	k.mu.Unlock()
	if cancel == nil {
		j, err := k.cfg.Book.Get(j.ID)
		if err == nil && !j.State.Over() {
			err = fmt.Errorf("%w: another gateway process holds it", ErrEndNotSeen)
		}
		return j, err
	}
	cancel()
	for {
		j, err := k.cfg.Book.Get(j.ID)
		if err != nil || j.State.Over() {
			return j, err
		}
		select {
		case <-ctx.Done():
			return j, ErrEndNotSeen
		case <-time.After(stopInterval):
		}
	}
}
