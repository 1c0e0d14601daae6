package registry

import (
	"context"
	"errors"
	"sync"
)

// ErrSlowWatcher ends a watcher that did not keep up.
var ErrSlowWatcher = errors.New("the watcher did not keep up with the changes")

// watchBuffer is how many changes a watcher may lag behind; a reload of the
// device keys may make one for each slot at once.
const watchBuffer = 4096

// Change is one step from a revision to the next: one of Upsert and Removed
// is set.
type Change struct {
	Revision uint64
	Upsert   *Tunnel
	Removed  *Key
}

// Watcher receives the changes that follow its snapshot.
type Watcher struct {
	registry *Registry
	changes  chan Change
	slow     chan struct{} // closed when the watcher was cut off
	cutOff   sync.Once
}

// Watch returns a snapshot and a watcher that will see every change after it:
// both are made under one lock, so nothing falls between. Close the watcher.
func (r *Registry) Watch() (Snapshot, *Watcher) {
	w := &Watcher{registry: r, changes: make(chan Change, watchBuffer), slow: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[w] = struct{}{}
	return r.snapshotLocked(), w
}

// Next waits for the next change. It returns ErrSlowWatcher once changes were
// lost, or ctx's error.
func (w *Watcher) Next(ctx context.Context) (Change, error) {
	select {
	case c := <-w.changes:
		return c, nil
	default:
	}
	select {
	case c := <-w.changes:
		return c, nil
	case <-w.slow:
		return Change{}, ErrSlowWatcher
	case <-ctx.Done():
		return Change{}, ctx.Err()
	}
}

// Close ends the watcher.
func (w *Watcher) Close() {
	w.registry.mu.Lock()
	defer w.registry.mu.Unlock()
	delete(w.registry.watchers, w)
}

func (r *Registry) sendLocked(c Change) {
	for w := range r.watchers {
		select {
		case w.changes <- c:
		default:
			delete(r.watchers, w)
			w.cutOff.Do(func() { close(w.slow) })
		}
	}
}
