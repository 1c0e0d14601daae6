package forwarding

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What a source has to answer for when a connection ends without a login. The
// figures are OpenSSH's (PerSourcePenalties), the grace time's doubled.
const (
	penaltyAuthFailed = 5 * time.Second
	penaltyNoAuth     = time.Second
	penaltyGrace      = 20 * time.Second
	// Penalties add up and begin to count from penaltyMin on.
	penaltyMin = 15 * time.Second
	penaltyMax = 10 * time.Minute
)

const (
	// maxPending bounds the connections before their login, with a place or
	// without. One more makes the source that has most of them lose its oldest.
	maxPending = 4096
	// maxSources bounds the memory of penalties; beyond it, none are added.
	maxSources = 1 << 16
	// sessionsPerTunnel is how many sessions a device may have for each of its
	// tunnels: the one that holds it, and one that lingers.
	sessionsPerTunnel = 2
)

// gate decides who comes in and when. Before the login a connection needs a
// place to be served, of which there are few, in all and per source. It takes
// one with the first byte that it sends, so that silence costs nobody a place,
// and gives it up again when it falls silent. Whoever finds no place waits.
//
// Sources whose connections fail wait longer and longer, but a source that has
// a live session is spared: a whole fleet may stand behind one address.
type gate struct {
	places, perSource, sessions, perDevice int // limits

	mu       sync.Mutex // guards all below, and the fields of conn that say so
	taken    int
	pending  int
	loggedIn int
	devices  map[string]int // sessions of each device
	sources  map[netip.Prefix]*source
	waiting  []*conn     // for a place, the oldest first
	wake     *time.Timer // when the next penalty of one who waits is over
}

// source is an address that connections come from: an IPv4 address, or the
// /64 that one IPv6 customer has at least.
type source struct {
	pending   []*conn // before their login, the oldest first
	taken     int     // places
	sessions  int
	penalized time.Time // until when
	enforced  bool      // the penalty has reached penaltyMin since it was last over
}

func newGate(cfg Config) *gate {
	g := &gate{
		places: cfg.MaxStartups, perSource: cfg.MaxStartupsPerSource,
		sessions: cfg.MaxConnections, perDevice: sessionsPerTunnel * cfg.MaxTunnels,
		devices: make(map[string]int), sources: make(map[netip.Prefix]*source),
	}
	g.wake = time.AfterFunc(time.Hour, g.advance)
	g.wake.Stop()
	return g
}

func sourceOf(remote netip.Addr) netip.Prefix {
	bits := 32
	if remote.Is6() {
		bits = 64
	}
	prefix, err := remote.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // not an IP connection: all such are one source
	}
	return prefix
}

// arrive notes a new connection. It returns one to be closed for it, or nil.
func (g *gate) arrive(c *conn) (evicted *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pending >= maxPending {
		evicted = g.oldestOfMostLocked()
		g.removePendingLocked(evicted)
	}
	prefix := sourceOf(c.remote.Addr())
	src := g.sources[prefix]
	if src == nil {
		src = &source{}
		g.sources[prefix] = src
	}
	c.source = src
	src.pending = append(src.pending, c)
	g.pending++
	return evicted
}

func (g *gate) oldestOfMostLocked() *conn {
	var most *source
	for _, src := range g.sources {
		if most == nil || len(src.pending) > len(most.pending) {
			most = src
		}
	}
	for _, c := range most.pending {
		if !c.place {
			return c
		}
	}
	return most.pending[0]
}

// enter waits until c has a place, which it keeps if it has one. It returns
// false if c was closed meanwhile.
func (g *gate) enter(c *conn) bool {
	g.mu.Lock()
	if c.place || c.admitted {
		g.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	c.turn = turn
	g.waiting = append(g.waiting, c)
	g.advanceLocked()
	g.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-c.closed:
		return false
	}
}

// yield gives c's place to others; enter asks for one anew.
func (g *gate) yield(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.yieldLocked(c)
}

func (g *gate) yieldLocked(c *conn) {
	if !c.place {
		return
	}
	c.place = false
	c.source.taken--
	g.taken--
	g.advanceLocked()
}

func (g *gate) advance() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advanceLocked()
}

// advanceLocked gives free places to those who have waited longest and may
// have one.
func (g *gate) advanceLocked() {
	now := time.Now()
	var wake time.Time
	g.waiting = slices.DeleteFunc(g.waiting, func(c *conn) bool {
		src := c.source
		if src.heldBack(now) && (wake.IsZero() || src.penalized.Before(wake)) {
			wake = src.penalized
		}
		if g.taken >= g.places || src.taken >= g.shareOf(src) || src.heldBack(now) {
			return false
		}
		close(c.turn)
		c.place, c.turn = true, nil
		src.taken++
		g.taken++
		return true
	})
	if !wake.IsZero() {
		g.wake.Reset(wake.Sub(now))
	}
}

// shareOf is how many places a source may take. One with a live session may be
// a fleet behind one address that comes back: it may take more, and not all.
func (g *gate) shareOf(src *source) int {
	if src.sessions > 0 {
		return max(g.perSource, (g.places+1)/2)
	}
	return g.perSource
}

// heldBack says whether the source's penalty is in force.
func (src *source) heldBack(now time.Time) bool {
	return src.enforced && src.sessions == 0 && now.Before(src.penalized)
}

// penalize adds to the source's penalty.
func (src *source) penalize(now time.Time, penalty time.Duration) {
	if !now.Before(src.penalized) {
		src.penalized, src.enforced = now, false
	}
	src.penalized = src.penalized.Add(min(penalty, penaltyMax-src.penalized.Sub(now)))
	if src.penalized.Sub(now) >= penaltyMin {
		src.enforced = true
	}
}

var (
	errFull       = errors.New("the gateway has its full number of devices connected")
	errDeviceFull = errors.New("the device has its full number of connections open")
)

// admit lets c in as a session of device: it needs no place any more. Its
// source's penalty is forgiven.
func (g *gate) admit(c *conn, device string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.loggedIn >= g.sessions:
		return errFull
	case g.devices[device] >= g.perDevice:
		return errDeviceFull
	}
	g.removePendingLocked(c)
	c.admitted = true
	c.source.sessions++
	c.source.penalized = time.Time{}
	g.loggedIn++
	g.devices[device]++
	g.advanceLocked()
	return nil
}

// depart forgets c, which was admitted as a session of device. If it never was,
// its source has a penalty to bear, unless c ended while it waited its turn.
func (g *gate) depart(c *conn, device string, penalty time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	src, now := c.source, time.Now()
	if c.admitted {
		src.sessions--
		g.loggedIn--
		if g.devices[device]--; g.devices[device] == 0 {
			delete(g.devices, device)
		}
	} else {
		if c.turn == nil && penalty > 0 {
			src.penalize(now, penalty)
		}
		g.removePendingLocked(c)
	}
	if src.idle(now) || len(src.pending) == 0 && src.sessions == 0 && len(g.sources) > maxSources {
		delete(g.sources, sourceOf(c.remote.Addr()))
	}
}

func (g *gate) removePendingLocked(c *conn) {
	if i := slices.Index(c.source.pending, c); i >= 0 { // else it was evicted
		c.source.pending = slices.Delete(c.source.pending, i, i+1)
		g.pending--
	}
	if c.turn != nil {
		g.waiting = slices.DeleteFunc(g.waiting, func(w *conn) bool { return w == c })
	}
	g.yieldLocked(c)
}

// idle says whether there is nothing to remember of the source.
func (src *source) idle(now time.Time) bool {
	return len(src.pending) == 0 && src.sessions == 0 && !now.Before(src.penalized)
}

// sweep forgets sources whose penalty is over.
func (g *gate) sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for prefix, src := range g.sources {
		if src.idle(now) {
			delete(g.sources, prefix)
		}
	}
}

// counts says how many connections there are before and after their login.
func (g *gate) counts() (pending, loggedIn int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pending, g.loggedIn
}
