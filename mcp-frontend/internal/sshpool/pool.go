// Package sshpool keeps one warm SSH connection per device, shared by all
// clients. It connects on first use, verifies the host key always, and tracks
// the failures of each device.
//
// It promises that only connecting is retried: it never runs anything. There
// is one dial at a time per device, calls for it wait together, and a device
// that keeps failing is left alone for a while, during which calls fail at
// once. A connection that nobody uses for a while is closed. A connection through a tunnel that has been replaced finishes what it
// carries and takes nothing new.
package sshpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// Config is what a Pool needs. No func may be nil but the two of the tunnels;
// all are called concurrently.
type Config struct {
	// Devices is the first set of devices; SetDevices replaces it.
	Devices *connections.Set
	// KnownHosts is the known_hosts file of devices that name no other. It is
	// read at each dial. A missing file knows nobody.
	KnownHosts string
	// LoadKey reads a private key file. Its error says what to do.
	LoadKey func(path string) (ssh.Signer, error)
	// DialTunnel opens a stream to a device in tunnel mode, and returns the
	// tunnel's id. An *Error passes as it is, any other becomes DIAL_FAILED.
	// nil: this gateway has no tunnels.
	DialTunnel func(ctx context.Context, host string, port uint16) (conn net.Conn, tunnelID string, err error)
	// FindTunnel says, as an *Error, why there is no tunnel to dial now; nil if
	// there is one. It may wait for an acceptor that is just starting. nil:
	// only DialTunnel can tell.
	FindTunnel func(ctx context.Context, host string, port uint16) error
	// TunnelID returns the id of the tunnel that is up now, "" for none. It
	// must not block. nil only together with DialTunnel.
	TunnelID func(host string, port uint16) string
	// IdleTimeout is how long a connection that nobody uses is kept; 0 means
	// 10 minutes.
	IdleTimeout time.Duration
	Log         *slog.Logger
}

// Pool holds the connections. Close it.
type Pool struct {
	cfg        Config
	ctx        context.Context // ends at Close; dials and keepalives run under it
	stop       context.CancelFunc
	background sync.WaitGroup

	mu     sync.Mutex // guards all below; before a link's mutex
	closed bool
	set    *connections.Set
	links  map[string]*link
}

// New returns a pool without connections.
func New(cfg Config) (*Pool, error) {
	if cfg.Devices == nil || cfg.LoadKey == nil || cfg.Log == nil || (cfg.DialTunnel == nil) != (cfg.TunnelID == nil) {
		return nil, errors.New("sshpool: a part of the configuration is missing")
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = idleTimeout
	}
	p := &Pool{cfg: cfg, set: cfg.Devices, links: make(map[string]*link)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Close closes all connections and waits for what runs in the background.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	links := p.links
	p.links = nil
	p.mu.Unlock()
	p.stop()
	for _, l := range links {
		l.retire()
	}
	p.background.Wait()
}

// SetDevices replaces the devices. Connections of those that changed take
// nothing new and close when they are idle.
func (p *Pool) SetDevices(set *connections.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set = set
	for name, l := range p.links {
		if d, ok := set.Lookup(name); !ok || !reflect.DeepEqual(d, l.device) {
			delete(p.links, name)
			l.retire()
		}
	}
}

// Device returns the device of that name, or an *Error that names the nearest
// ones.
func (p *Pool) Device(name string) (connections.Device, error) {
	p.mu.Lock()
	set := p.set
	p.mu.Unlock()
	if d, ok := set.Lookup(name); ok {
		return d, nil
	}
	return connections.Device{}, notFound(set, name)
}

func notFound(set *connections.Set, name string) *Error {
	err := fmt.Errorf("no device is called %q", name)
	if near := set.Nearest(name); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
	}
	return &Error{
		Code: DeviceNotFound, Stage: StageConfig, Err: err, Hint: err.Error() + " ssh_list_devices has all names", FixBy: "model",
	}
}

// Lease is the right to open one channel on a device's connection.
type Lease struct {
	Client   *ssh.Client
	Device   connections.Device
	TunnelID string // "" in direct mode
	Reused   bool   // whether the connection was there before
	HostKey  ssh.PublicKey
	conn     *conn
	channels int64 // that it holds: 1, or 0 for a stream, which sshd does not count
}

// Release gives the lease back. The connection stays for the next caller.
func (l *Lease) Release() { l.conn.release(l.channels) }

// Lost says whether the connection has ended. Once a channel has ended for
// that reason, it says so.
func (l *Lease) Lost() bool { return l.conn.net.over.Load() }

// Spare waits for the one channel that a connection has beside its leases, so
// that a run can be stopped while all others go on. Call release.
func (l *Lease) Spare(ctx context.Context) (release func(), err error) {
	select {
	case l.conn.spare <- struct{}{}:
		return func() { l.conn.settle(func() { <-l.conn.spare }) }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Acquire connects to the device if need be and waits for a free channel on
// the connection, first come, first served. Its error is an *Error.
func (p *Pool) Acquire(ctx context.Context, name string) (*Lease, error) {
	return p.acquire(ctx, name, 1)
}

func (p *Pool) acquire(ctx context.Context, name string, channels int64) (*Lease, error) {
	for range maxRounds {
		l, err := p.link(name) // each time: the devices may have been replaced while we waited
		if err != nil {
			return nil, err
		}
		c, reused, err := l.connected(ctx)
		if err != nil {
			return nil, err
		}
		ok, err := c.acquire(ctx, channels)
		if err != nil {
			return nil, waitError(ctx, "waiting for a free channel")
		}
		if ok { // otherwise it was lost or replaced while we waited
			return &Lease{Client: c.client, Device: l.device, TunnelID: c.tunnelID, Reused: reused, HostKey: c.hostKey, conn: c, channels: channels}, nil
		}
	}
	return nil, &Error{
		Code: ConnectionLost, Stage: StageDial, Err: errors.New("the device lets us in and ends the connection at once"), Retriable: true,
		Hint: "nothing has run; try again later, or ask the operator to look at the log of the device's sshd", FixBy: "operator",
	}
}

// maxRounds bounds how often one call takes a connection that is gone before
// it has a channel.
const maxRounds = 5

// waitError is what a caller learns whose ctx ended.
func waitError(ctx context.Context, doing string) *Error {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return &Error{
			Code: Busy, Stage: StageDial, Err: fmt.Errorf("timed out %s", doing), Retriable: true,
			Hint: "try again, or give it a longer timeout_s", FixBy: "model",
		}
	}
	return &Error{Code: Cancelled, Stage: StageDial, Err: fmt.Errorf("cancelled %s", doing), Retriable: true, Hint: "nothing has run", FixBy: "model"}
}

func (p *Pool) link(name string) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[name]; l != nil {
		return l, nil // SetDevices sees to it that it is the device's as it is now
	}
	d, ok := p.set.Lookup(name)
	if !ok {
		return nil, notFound(p.set, name)
	}
	l := &link{pool: p, device: d}
	if !p.closed {
		p.links[name] = l
	}
	return l, nil
}

// Status is what is known of a device without asking it.
type Status struct {
	Device     connections.Device
	Connected  bool
	Failures   int    // consecutive failures to connect
	LastCode   Code   // of the newest failure; "" after a success
	LastError  string // its text
	RetryAfter time.Duration
	Unusable   error // why the device's configuration cannot work; nil if it can
}

// Status returns the state of every device, in the order of the file.
func (p *Pool) Status() []Status {
	p.mu.Lock()
	devices := p.set.Devices()
	links := make([]*link, len(devices))
	for i, d := range devices {
		links[i] = p.links[d.Name]
	}
	p.mu.Unlock()
	all := make([]Status, 0, len(devices))
	for i, d := range devices {
		all = append(all, p.statusOf(d, links[i]))
	}
	return all
}

// StatusOf returns the state of one device.
func (p *Pool) StatusOf(d connections.Device) Status {
	p.mu.Lock()
	l := p.links[d.Name]
	p.mu.Unlock()
	return p.statusOf(d, l)
}

// statusOf adds to what l knows, which may be nil.
func (p *Pool) statusOf(d connections.Device, l *link) Status {
	s := Status{Device: d}
	if l != nil {
		s = l.status()
	}
	if _, err := p.signer(d); err != nil {
		s.Unusable = err
	}
	return s
}

// Problems returns what keeps the device from being connected to, as far as
// that can be seen without connecting.
func (p *Pool) Problems(d connections.Device) []error {
	var problems []error
	if _, err := p.signer(d); err != nil {
		problems = append(problems, err)
	}
	hosts, err := loadHostKeys(p.knownHosts(d), d)
	switch {
	case err != nil:
		problems = append(problems, err)
	case len(hosts.known) == 0:
		problems = append(problems, fmt.Errorf("no host key is known: run mcp-frontend trust %s and compare the fingerprint", d.Name))
	}
	return problems
}
