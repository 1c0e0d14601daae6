package registry

import (
	"context"
	"fmt"
)

// Target is the active tunnel of a slot at one moment.
type Target struct {
	Key        Key
	ID         string
	Generation uint64
	open       func(ctx context.Context) (Stream, error)
}

// Open opens a stream to the device. Its error wraps one of this package's.
func (t Target) Open(ctx context.Context) (Stream, error) { return t.open(ctx) }

// Find returns the tunnel that (device, port) means. An empty device means
// the loopback address: the one device that a plain key grants the port to.
// generation 0 takes any; another number only that generation.
func (r *Registry) Find(device string, port uint16, generation uint64) (Target, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return Target{}, ErrDraining
	}
	s := r.slots[Key{Device: device, Port: port}]
	if device == "" {
		s = r.loopbackLocked(port)
	}
	if s == nil || s.active == nil {
		return Target{}, ErrNotFound
	}
	if generation != 0 && generation != s.generation {
		return Target{}, fmt.Errorf("%w: asked for %d, now %d", ErrStaleGeneration, generation, s.generation)
	}
	return Target{Key: s.key, ID: s.active.ID, Generation: s.generation, open: s.active.Open}, nil
}

// loopbackLocked finds the slot that 127.0.0.1:port means. After a reload the
// port may have moved to another device while the former owner's session is
// still ending, so a slot that is granted now goes before one that is not.
func (r *Registry) loopbackLocked(port uint16) *slot {
	var found *slot
	for _, s := range r.slots {
		if s.key.Port == port && s.loopback && s.active != nil && (found == nil || s.granted) {
			found = s
		}
	}
	return found
}
