// Package registry knows which reverse ports are held, by whom, and how to
// reach them. It is the one place where the SSH side and the local sockets
// meet, and neither sees the other.
//
// A slot is a device's right to one port. Sessions attach tunnels to slots;
// the newest one is active, and whatever it replaced is handed back to the
// caller to be drained. A removal names the tunnel it removes, so a late one
// never hits a successor.
//
// Readers get snapshots: List for one, Watch for one followed by every
// change. Publishing never waits for a reader: one that does not keep up is
// cut off with ErrSlowWatcher.
package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// Why a tunnel could not be dialled.
var (
	ErrNotFound        = errors.New("no such tunnel is up")
	ErrStaleGeneration = errors.New("the tunnel has been replaced by a newer generation")
	ErrRefused         = errors.New("the device refused the stream")
	ErrNoAnswer        = errors.New("the device did not answer")
	ErrTooManyStreams  = errors.New("the tunnel has its full number of streams open")
	ErrDraining        = errors.New("the acceptor is shutting down")
)

// State is where a tunnel stands.
type State int

// The states of a tunnel.
const (
	Up       State = iota + 1 // the device holds the forward and answers
	Suspect                   // it holds the forward and has been silent for too long
	Draining                  // the acceptor is shutting down
	Down                      // the port is granted, and nobody holds it
)

// Key names a slot.
type Key struct {
	Device string
	Port   uint16
}

// Tunnel is what readers see of a slot.
type Tunnel struct {
	Key
	ID             string // unguessable name of this generation; empty while down
	Generation     uint64 // counts the tunnels that have held the slot
	State          State
	Loopback       bool // whether 127.0.0.1:PORT means this slot
	Since          time.Time
	RemoteAddress  string
	KeyFingerprint string
	ClientVersion  string
	Stats          Stats
	LastDown       time.Time // zero if never lost
	LastDownReason string
	Flaps24h       uint32
}

// Stats are the figures of a live tunnel that change all the time.
type Stats struct {
	LastSeen    time.Time
	RTT         time.Duration // 0 if not yet measured
	OpenStreams uint32
	BytesIn     uint64 // from the device
	BytesOut    uint64 // to the device
}

// Stream is one byte stream to a device. CloseWrite ends our direction alone.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Attachment is a tunnel that a session attaches to a slot.
type Attachment struct {
	Key
	ID             string
	Loopback       bool
	RemoteAddress  string
	KeyFingerprint string
	ClientVersion  string
	// Open opens a stream to the device. Its errors wrap one of this
	// package's. Called concurrently, without the registry's lock.
	Open func(ctx context.Context) (Stream, error)
	// Stats reads the live figures. It must not block, nor call the registry.
	Stats func() Stats
	// Owner is the caller's own, to be found again when the tunnel is replaced.
	Owner any
}

// NewID returns an unguessable name for a tunnel.
func NewID() string { return rand.Text() }

// Registry is the table of slots. It is safe for concurrent use.
type Registry struct {
	epoch string

	mu       sync.Mutex // guards all below; no I/O and no send that can block under it
	revision uint64
	draining bool
	slots    map[Key]*slot
	held     map[string]int // live tunnels of each device
	watchers map[*Watcher]struct{}
}

type slot struct {
	key        Key
	granted    bool // listed by the authorized keys, shown even while down
	loopback   bool
	generation uint64
	active     *Attachment // nil while down
	state      State       // Up or Suspect; counts only while active
	since      time.Time
	lastDown   time.Time
	lastReason string
	flaps      []time.Time // losses within the last 24 hours, oldest first
}

const (
	flapWindow = 24 * time.Hour
	maxFlaps   = 1000 // enough to say "very often"; bounds a slot's memory
)

// New returns an empty registry with a fresh epoch.
func New() *Registry {
	return &Registry{
		epoch:    rand.Text(),
		slots:    make(map[Key]*slot),
		held:     make(map[string]int),
		watchers: make(map[*Watcher]struct{}),
	}
}

// SetGranted tells which slots the authorized keys grant by name. They are
// listed as down until somebody holds them; slots that are neither granted
// nor held disappear.
func (r *Registry) SetGranted(keys []Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	want := make(map[Key]bool, len(keys))
	for _, key := range keys {
		want[key] = true
		s := r.slots[key]
		if s == nil {
			s = &slot{key: key}
			r.slots[key] = s
		}
		if !s.granted {
			s.granted, s.loopback = true, true
			r.publishLocked(s)
		}
	}
	for key, s := range r.slots {
		if s.granted && !want[key] {
			s.granted = false
			r.forgetLocked(s)
		}
	}
}

// Attach makes a the active tunnel of its slot and returns its generation and
// the tunnel that it replaced, nil if the slot was down.
func (r *Registry) Attach(a *Attachment) (generation uint64, replaced *Attachment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[a.Key]
	if s == nil {
		s = &slot{key: a.Key}
		r.slots[a.Key] = s
	}
	if replaced = s.active; replaced == nil {
		r.held[a.Device]++
	}
	s.active, s.state, s.since, s.loopback = a, Up, time.Now(), a.Loopback
	s.generation++
	r.publishLocked(s)
	return s.generation, replaced
}

// Detach ends the tunnel a, for a reason in words. It does nothing if a is
// not the active tunnel of its slot any more.
func (r *Registry) Detach(a *Attachment, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[a.Key]
	if s == nil || s.active != a {
		return
	}
	if r.held[a.Device]--; r.held[a.Device] == 0 {
		delete(r.held, a.Device)
	}
	now := time.Now()
	s.active, s.lastDown, s.lastReason = nil, now, reason
	s.flaps = append(s.flaps, now)
	if len(s.flaps) > maxFlaps {
		s.flaps = slices.Clone(s.flaps[len(s.flaps)-maxFlaps:])
	}
	r.publishLocked(s)
	r.forgetLocked(s)
}

// Room says whether the device may hold key within a limit of tunnels. A slot
// that it holds already takes no further room.
func (r *Registry) Room(key Key, limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[key]
	return s != nil && s.active != nil || r.held[key.Device] < limit
}

// SetSuspect says whether the device behind a has been silent for too long.
func (r *Registry) SetSuspect(a *Attachment, suspect bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := Up
	if suspect {
		state = Suspect
	}
	s := r.slots[a.Key]
	if s == nil || s.active != a || s.state == state {
		return
	}
	s.state = state
	r.publishLocked(s)
}

// Drain refuses all further dials and shows every live tunnel as draining.
func (r *Registry) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
	for _, s := range r.slots {
		if s.active != nil {
			r.publishLocked(s)
		}
	}
}

// forgetLocked drops a slot that is neither granted nor held. Certificates
// may name any number of devices; only live ones take memory.
func (r *Registry) forgetLocked(s *slot) {
	if s.granted || s.active != nil {
		return
	}
	delete(r.slots, s.key)
	r.revision++
	r.sendLocked(Change{Revision: r.revision, Removed: &s.key})
}

func (r *Registry) publishLocked(s *slot) {
	r.revision++
	t := r.viewLocked(s)
	r.sendLocked(Change{Revision: r.revision, Upsert: &t})
}

func (r *Registry) viewLocked(s *slot) Tunnel {
	now := time.Now()
	stale := 0
	for stale < len(s.flaps) && now.Sub(s.flaps[stale]) > flapWindow {
		stale++
	}
	s.flaps = s.flaps[stale:]
	t := Tunnel{
		Key: s.key, Generation: s.generation, State: Down, Loopback: s.loopback,
		LastDown: s.lastDown, LastDownReason: s.lastReason, Flaps24h: uint32(len(s.flaps)),
	}
	if a := s.active; a != nil {
		t.ID, t.State, t.Since = a.ID, s.state, s.since
		t.RemoteAddress, t.KeyFingerprint, t.ClientVersion = a.RemoteAddress, a.KeyFingerprint, a.ClientVersion
		t.Stats = a.Stats()
		if r.draining {
			t.State = Draining
		}
	}
	return t
}

// Snapshot is the state of all slots at one revision.
type Snapshot struct {
	Epoch    string
	Revision uint64
	Tunnels  []Tunnel // by device, then port
}

// List returns a snapshot.
func (r *Registry) List() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshotLocked()
}

func (r *Registry) snapshotLocked() Snapshot {
	tunnels := make([]Tunnel, 0, len(r.slots))
	for _, s := range r.slots {
		tunnels = append(tunnels, r.viewLocked(s))
	}
	slices.SortFunc(tunnels, func(a, b Tunnel) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Port, b.Port))
	})
	return Snapshot{Epoch: r.epoch, Revision: r.revision, Tunnels: tunnels}
}
