package jobs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// keeper follows the jobs of b; every device is away.
func keeper(t *testing.T, b *Book) (k *Keeper, events func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	k, err := NewKeeper(Config{
		Book: b, Log: slog.New(slog.DiscardHandler),
		Quote: func(string) func(string) string { return posix },
		Acquire: func(context.Context, string) (*sshpool.Lease, error) {
			return nil, &sshpool.Error{Code: sshpool.TunnelDown, Err: errors.New("no tunnel")}
		},
		Record: func(r audit.Record) (uint64, error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, r.Event)
			return 1, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

// What a gateway process held when it ended is settled by the next: what was
// queued has not run, what was attached is lost, what belongs to a device is
// not touched, and what is over for long is forgotten.
func TestKeeperSettlesWhatAnotherLeft(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir(), new(bytes.Buffer))
	defer b.Close()
	now, gone := time.Now(), New("").ID
	queued := added(t, b, func(j *Job) { j.Owner = gone })
	attached := added(t, b, func(j *Job) { j.State, j.StartedAt, j.Owner = Running, &now, gone })
	detached := added(t, b, func(j *Job) { j.State, j.StartedAt, j.Detached, j.Seen = Running, &now, true, true })
	old := added(t, b, func(j *Job) {
		j.end(Exited, "")
		before := now.Add(-2 * KeptFor)
		j.EndedAt = &before
	})
	k, events := keeper(t, b)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Run(ctx) }()
	sshdtest.Eventually(t, "the old job is forgotten and the others settled", func() bool {
		_, err := b.Get(old.ID)
		return errors.Is(err, ErrUnknown) && len(events()) == 2
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for id, want := range map[string]struct {
		state    State
		executed string
	}{queued.ID: {Stopped, "no"}, attached.ID: {Lost, "maybe"}, detached.ID: {Running, "yes"}} {
		if j, err := b.Get(id); err != nil || j.State != want.state || j.Executed() != want.executed {
			t.Errorf("got %+v, %v; want %+v", j, err, want)
		}
	}
}

// Jobs beyond the bound are refused, and those that wait when the gateway stops
// have not run.
func TestKeeperBounds(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir(), new(bytes.Buffer))
	defer b.Close()
	k, _ := keeper(t, b)
	never := func(context.Context, string) (bool, error) { t.Error("it was sent"); return false, nil }
	now := time.Now()
	for range MaxRunning {
		added(t, b, func(j *Job) { j.State, j.StartedAt, j.Detached = Running, &now, true })
	}
	var last Job
	for range MaxQueued {
		var err error
		if last, err = k.Submit(t.Context(), New("edge"), never); err != nil || last.State != Queued {
			t.Fatalf("got %+v, %v", last, err)
		}
	}
	if _, err := k.Submit(t.Context(), New("edge"), never); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := k.Run(ctx); err != nil {
		t.Error(err)
	}
	if j, err := b.Get(last.ID); err != nil || j.State != Stopped || j.Executed() != "no" {
		t.Errorf("got %+v, %v", j, err)
	}
}
