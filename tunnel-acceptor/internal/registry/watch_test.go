package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A watcher that joins at any moment of a churn and applies what it is sent
// knows at each revision what List says at that revision.
func TestWatchEqualsListUnderChurn(t *testing.T) {
	const devices, steps, watchers = 8, 2000, 6
	r := New()
	var churn, watching sync.WaitGroup
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range watchers {
		watching.Go(func() {
			for {
				if !followUntil(ctx, t, r, done) {
					return
				}
			}
		})
	}
	for range 4 {
		churn.Go(func() {
			held := make(map[Key]*Attachment)
			for range steps {
				key := Key{string(rune('a' + rand.IntN(devices))), uint16(1 + rand.IntN(2))}
				switch a := held[key]; {
				case a == nil || rand.IntN(4) == 0:
					held[key] = attachment(key.Device, key.Port)
					r.Attach(held[key])
				case rand.IntN(3) == 0:
					r.SetSuspect(a, rand.IntN(2) == 0)
				default:
					r.Detach(a, "churn")
					delete(held, key)
				}
				if rand.IntN(50) == 0 {
					r.SetGranted([]Key{{"a", 1}, {"b", 2}}[:rand.IntN(3)])
				}
			}
		})
	}
	churn.Wait()
	close(done)
	watching.Wait()
}

// followUntil watches until it is cut off, which it survives by watching anew
// (true), or until the churn is done and it has seen its end (false).
func followUntil(ctx context.Context, t *testing.T, r *Registry, done <-chan struct{}) bool {
	t.Helper()
	snapshot, w := r.Watch()
	defer w.Close()
	known := make(map[Key]Tunnel)
	for _, tunnel := range snapshot.Tunnels {
		known[tunnel.Key] = tunnel
	}
	revision := snapshot.Revision
	for {
		select {
		case <-done:
			if list := r.List(); list.Revision == revision {
				want := make(map[Key]Tunnel)
				for _, tunnel := range list.Tunnels {
					want[tunnel.Key] = tunnel
				}
				if diff := cmp.Diff(want, known); diff != "" {
					t.Errorf("at revision %d (-List +watched):\n%s", revision, diff)
				}
				return false
			}
		default:
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		change, err := w.Next(short)
		cancel()
		switch {
		case errors.Is(err, ErrSlowWatcher):
			return true
		case ctx.Err() != nil:
			t.Errorf("the churn's end, revision %d, was not seen; at %d", r.List().Revision, revision)
			return false
		case err != nil:
			continue // nothing new
		}
		if change.Revision != revision+1 {
			t.Errorf("revision %d follows %d", change.Revision, revision)
			return false
		}
		revision = change.Revision
		if change.Removed != nil {
			delete(known, *change.Removed)
		} else {
			known[change.Upsert.Key] = *change.Upsert
		}
	}
}

// A watcher that does not read is cut off; the publisher never waits for it,
// and what it had been sent before stays readable.
func TestSlowWatcherIsCutOff(t *testing.T) {
	r := New()
	_, slow := r.Watch()
	defer slow.Close()
	_, quick := r.Watch()
	defer quick.Close()
	for i := range uint64(watchBuffer + 10) {
		r.Attach(attachment("edge", 22222))
		change, err := quick.Next(t.Context())
		if err != nil || change.Revision != i+1 {
			t.Fatalf("the quick watcher got revision %d, %v; want %d", change.Revision, err, i+1)
		}
	}
	for i := range uint64(watchBuffer) {
		if change, err := slow.Next(t.Context()); err != nil || change.Revision != i+1 {
			t.Fatalf("the slow watcher got revision %d, %v; want %d", change.Revision, err, i+1)
		}
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrSlowWatcher) {
		t.Errorf("then it got %v, want %v", err, ErrSlowWatcher)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers) != 1 {
		t.Errorf("%d watchers are registered, want the quick one alone", len(r.watchers))
	}
}
