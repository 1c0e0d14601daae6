// Package tunnels is the frontend's view of the acceptor: which tunnels are up
// (watched over gRPC), and the way in to one of them (HTTP CONNECT). It knows
// no SSH; what goes through a tunnel is for the caller.
//
// It promises to start and to go on without the acceptor, and to reconnect by
// itself. What it shows is what the acceptor said last, and never older than
// the silence after which it counts as gone: then it knows nothing, and says so.
package tunnels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	tunnelv1 "github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/tunnel/v1"
)

// Why a tunnel cannot be reached.
var (
	// ErrAcceptorDown: the acceptor does not answer on its sockets.
	ErrAcceptorDown = errors.New("the tunnel acceptor does not answer")
	// ErrTunnelDown: the acceptor answers, and no device holds the port.
	ErrTunnelDown = errors.New("the device has no tunnel up")
)

const (
	// firstSnapshotPatience is how long a call waits for the acceptor's answer
	// before it counts as down.
	firstSnapshotPatience = 2 * time.Second
	// maxSilence is how long the acceptor may say nothing: three heartbeats.
	maxSilence = 15 * time.Second
	// maxSnapshot is more than the tunnels of any one acceptor take; gRPC's own
	// limit of 4 MiB is reached by some 20,000.
	maxSnapshot = 64 << 20
	// Reconnecting backs off between these, with jitter.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// Tunnel is one reverse port as the acceptor reports it.
type Tunnel = tunnelv1.TunnelJSON

// Up says whether t can be dialled.
func Up(t Tunnel) bool { return t.State == "up" || t.State == "suspect" }

type key struct {
	device string
	port   uint32
}

// Directory follows the acceptor. Make it with New, and run Run.
type Directory struct {
	dir     string
	log     *slog.Logger
	began   time.Time
	silence time.Duration // after which the acceptor counts as gone

	mu       sync.Mutex // guards all below
	live     bool       // connected, and the snapshot has arrived
	changed  chan struct{}
	tunnels  map[key]entry
	hostKeys []string
}

type entry struct {
	Tunnel
	loopback bool
}

// New returns a directory of the acceptor whose run directory is dir.
func New(dir string, log *slog.Logger) *Directory {
	return &Directory{
		dir: dir, log: log, began: time.Now(), silence: maxSilence,
		changed: make(chan struct{}), tunnels: make(map[key]entry),
	}
}

// Run follows the acceptor until ctx ends, and returns nil.
func (d *Directory) Run(ctx context.Context) error {
	backoff := minBackoff
	down := false
	for ctx.Err() == nil {
		heard, err := d.watch(ctx)
		d.lose()
		if heard {
			backoff, down = minBackoff, false
		}
		if !down && ctx.Err() == nil {
			down = true
			d.log.Warn("the acceptor is not there, trying again and again", "dir", d.dir, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// watch follows one stream to its end; heard says whether it had begun.
func (d *Directory) watch(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	path := filepath.Join(d.dir, "control.sock")
	conn, err := grpc.NewClient("passthrough:///control.sock",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a local socket, guarded by its mode and the peer's uid
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxSnapshot)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return localsocket.Dial(ctx, path) }))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	quiet := time.AfterFunc(d.silence, cancel)
	defer quiet.Stop()
	stream, err := tunnelv1.NewTunnelServiceClient(conn).WatchTunnels(ctx, &tunnelv1.WatchTunnelsRequest{})
	if err != nil {
		return false, err
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		quiet.Reset(d.silence)
		if !heard {
			if event.GetSnapshot() == nil {
				return false, errors.New("the acceptor's first message is not a snapshot")
			}
			heard = true
			d.log.Info("the acceptor is there", "dir", d.dir, "tunnels", len(event.GetSnapshot().GetTunnels()))
		}
		d.apply(event)
	}
}

func (d *Directory) apply(event *tunnelv1.WatchTunnelsResponse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e := event.GetEvent().(type) {
	case *tunnelv1.WatchTunnelsResponse_Snapshot:
		clear(d.tunnels)
		for _, t := range e.Snapshot.GetTunnels() {
			d.putLocked(t)
		}
		d.hostKeys = e.Snapshot.GetHostKeys()
		d.live = true
	case *tunnelv1.WatchTunnelsResponse_Upsert:
		d.putLocked(e.Upsert)
	case *tunnelv1.WatchTunnelsResponse_Removed:
		delete(d.tunnels, key{e.Removed.GetDevice(), e.Removed.GetPort()})
	default:
		return // a heartbeat changes nothing
	}
	d.wakeLocked()
}

func (d *Directory) putLocked(t *tunnelv1.Tunnel) {
	d.tunnels[key{t.GetDevice(), t.GetPort()}] = entry{Tunnel: t.AsJSON(), loopback: t.GetLoopback()}
}

// lose forgets what was known: it may have changed since.
func (d *Directory) lose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live {
		d.live = false
		clear(d.tunnels)
		d.wakeLocked()
	}
}

func (d *Directory) wakeLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// Find returns the tunnel that host and port mean: the loopback address, or
// the acceptor's name of a device. It waits a little for an acceptor that is
// just starting. Its error is ErrAcceptorDown, ErrTunnelDown or ctx's.
func (d *Directory) Find(ctx context.Context, host string, port uint16) (Tunnel, error) {
	patience := time.NewTimer(firstSnapshotPatience)
	defer patience.Stop()
	for {
		changed := d.nextChange() // asked for first, so that none is missed
		t, err := d.Now(host, port)
		if !errors.Is(err, ErrAcceptorDown) {
			return t, err
		}
		select {
		case <-changed:
		case <-patience.C:
			return Tunnel{}, fmt.Errorf("%w on %s", err, filepath.Join(d.dir, "control.sock"))
		case <-ctx.Done():
			return Tunnel{}, ctx.Err()
		}
	}
}

// nextChange is closed when what the directory knows has changed.
func (d *Directory) nextChange() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Settle waits for the first snapshot of a directory that was made just now.
func (d *Directory) Settle(ctx context.Context) {
	patience := time.NewTimer(time.Until(d.began.Add(firstSnapshotPatience)))
	defer patience.Stop()
	for {
		changed := d.nextChange()
		if d.isLive() {
			return
		}
		select {
		case <-changed:
		case <-patience.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (d *Directory) isLive() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live
}

// Now is Find without waiting.
func (d *Directory) Now(host string, port uint16) (Tunnel, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.live {
		return Tunnel{}, ErrAcceptorDown
	}
	e, known := d.tunnels[key{host, uint32(port)}]
	if isLoopback(host) {
		e, known = d.loopbackLocked(port)
	}
	if !known || !Up(e.Tunnel) {
		return e.Tunnel, ErrTunnelDown
	}
	return e.Tunnel, nil
}

// loopbackLocked finds the tunnel of a port, one that is up before one that
// is not.
func (d *Directory) loopbackLocked(port uint16) (entry, bool) {
	var found []entry
	for k, e := range d.tunnels {
		if k.port == uint32(port) && e.loopback {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return entry{}, false
	}
	return slices.MaxFunc(found, func(a, b entry) int {
		if Up(a.Tunnel) != Up(b.Tunnel) {
			if Up(a.Tunnel) {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.Device, a.Device)
	}), true
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
