// Package forwarding is the SSH server that faces the network. It does one
// thing: a device that proves a known key may ask for its reverse ports
// (RFC 4254 section 7.1), and streams to it are then opened in-process. No
// port is ever listened on for a tunnel, and nothing is ever dialled.
//
// It promises that identity is what was proved: grants are read from the
// permissions that the verified key produced, nowhere else. It refuses every
// session, subsystem and outbound forward with words that OpenSSH shows. It
// assumes that the registry outlives it.
//
// gliderlabs/ssh makes the handshake and dispatches by type of request and
// channel. Its ForwardedTCPHandler, its timeouts and its context's identity
// are not used: any client could cancel another's forward, deadlines are
// refreshed by our own writes, and permissions leak between attempts to
// authenticate (the class of CVE-2024-45337).
package forwarding

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// Config is what a Server needs. Nothing may be nil, no number zero.
type Config struct {
	// Keys is the first set of device keys; SetKeys replaces it.
	Keys *devicekey.Set
	// Registry is told of every tunnel.
	Registry *registry.Registry
	// HostKeys prove the acceptor to devices. The first of each type is used;
	// all are announced, so that they can be rotated.
	HostKeys []ssh.Signer
	// Version stands in the identification string after "SSH-2.0-".
	Version string
	// Ciphers are offered in this order; see Ciphers for those allowed.
	Ciphers []string
	// AliveInterval is after how long a silence the device is asked for a sign
	// of life; after AliveInterval x AliveCount of silence it is gone.
	AliveInterval time.Duration
	AliveCount    int
	// LoginGrace bounds the time from accept to login.
	LoginGrace time.Duration
	// MaxAuthTries is how many failed attempts end a connection.
	MaxAuthTries int
	// MaxStartups is how many connections may be on their way to a login at
	// once, MaxStartupsPerSource how many of one source address without a
	// live session; further ones wait. MaxConnections bounds those logged in.
	MaxStartups          int
	MaxStartupsPerSource int
	MaxConnections       int
	// MaxTunnels and MaxStreams bound a device's tunnels and each tunnel's
	// open streams.
	MaxTunnels int
	MaxStreams int
	// DrainTimeout is how long open streams may go on after the stop.
	DrainTimeout time.Duration
	// Record keeps an event for the audit. What it guards does not happen if
	// it fails. Called concurrently.
	Record func(Event) error
	// Log receives what is of use to an operator beside the events.
	Log *slog.Logger
}

// Server is the SSH side of the acceptor.
type Server struct {
	cfg       Config
	delays    delays
	ssh       *gliderssh.Server
	gate      *gate
	refusals  *refusals
	takeovers takeovers
	keys      atomic.Pointer[devicekey.Set]

	mu       sync.Mutex // guards all below
	conns    map[*conn]struct{}
	draining bool

	background sync.WaitGroup // all goroutines but the accept loop
}

// delays are the server's patience where no flag asks for it. Tests shorten it.
type delays struct {
	// A connection that says nothing lets others have its place before the
	// login.
	silentStartup time.Duration
	// A session may hold no forward for so long. A client without
	// ExitOnForwardFailure would stay for ever and never try again.
	unboundAfterLogin   time.Duration
	unboundAfterRefusal time.Duration
	// A device has so long to answer a channel open until the dial fails, and
	// until its connection is closed: x/crypto waits for ever.
	open   time.Duration
	answer time.Duration
	// A session that was replaced has so long to show that it is alive, and
	// then for its open streams to end.
	incumbent time.Duration
	drain     time.Duration
}

var defaultDelays = delays{
	silentStartup:       2 * time.Second,
	unboundAfterLogin:   30 * time.Second,
	unboundAfterRefusal: 5 * time.Second,
	open:                5 * time.Second,
	answer:              3 * time.Minute, // OpenSSH answers once its own connect(2) has, which takes up to 130 s
	incumbent:           2 * time.Second,
	drain:               5 * time.Minute,
}

// New returns a server that is ready to serve.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Keys == nil || cfg.Registry == nil || cfg.Record == nil || cfg.Log == nil:
		return nil, errors.New("forwarding: a part of the configuration is nil")
	case len(cfg.HostKeys) == 0:
		return nil, errors.New("forwarding: no host key") // the library would make one up
	case cfg.AliveInterval <= 0 || cfg.AliveCount <= 0 || cfg.LoginGrace <= 0 || cfg.MaxAuthTries <= 0:
		return nil, errors.New("the client alive interval and count, the login grace time and the auth tries must be above 0")
	case cfg.MaxStartups <= 0 || cfg.MaxStartupsPerSource <= 0 || cfg.MaxConnections <= 0 || cfg.MaxTunnels <= 0 || cfg.MaxStreams <= 0:
		return nil, errors.New("the limits of startups, connections, tunnels and streams must be above 0")
	}
	if err := checkCiphers(cfg.Ciphers); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		delays:   defaultDelays,
		gate:     newGate(cfg),
		refusals: &refusals{log: cfg.Log, counts: make(map[refusal]int64)},
		conns:    make(map[*conn]struct{}),
	}
	s.takeovers.window = conflictWindow
	s.takeovers.recent = make(map[registry.Key][]time.Time)
	s.keys.Store(cfg.Keys)
	s.ssh = &gliderssh.Server{
		Version:              cfg.Version,
		ServerConfigCallback: s.serverConfig,
		// A nil handler would turn authentication off. This one never lets
		// anybody in: that is for VerifiedPublicKeyCallback alone.
		PublicKeyHandler: s.handleOffer,
		ConnCallback: func(ctx gliderssh.Context, nc net.Conn) net.Conn {
			ctx.SetValue(connKey{}, nc)
			return nc
		},
		ConnectionFailedCallback: s.handshakeFailed,
		// Both maps must be there: nil ones would enable sessions.
		ChannelHandlers: s.channelHandlers(),
		RequestHandlers: s.requestHandlers(),
	}
	for _, key := range slices.Backward(cfg.HostKeys) { // the last one added of a type stays
		s.ssh.AddHostKey(key)
	}
	return s, nil
}

// Serve accepts devices on ln until ctx ends, then drains: no new device, no
// new stream, open streams finish within DrainTimeout. It returns when every
// connection has ended; nil if ctx told it to stop.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stopped := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stopped()
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	s.background.Go(func() { s.keepHouse(keeping) })
	err := s.accept(ctx, ln)
	s.drain()
	stopKeeping()
	s.background.Wait()
	s.gate.wake.Stop()
	s.recordRefusals()
	_ = s.cfg.Record(Event{Name: "drain_finished"})
	return err
}

func (s *Server) accept(ctx context.Context, ln net.Listener) error {
	for {
		nc, err := ln.Accept()
		if err == nil {
			s.background.Go(func() { s.serveConn(nc) })
			continue
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the listener was closed to stop us
		}
		if !temporary(err) {
			return fmt.Errorf("accepting devices: %w", err)
		}
		s.cfg.Log.Warn("cannot accept a connection now", "error", err)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// keepHouse does once a minute what nothing else triggers, until ctx ends.
func (s *Server) keepHouse(ctx context.Context) {
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-minute.C:
			s.recordRefusals()
			s.gate.sweep(time.Now())
			s.takeovers.sweep()
		case <-ctx.Done():
			return
		}
	}
}

// temporary tells lack of a resource, which passes, from a listener's end.
func temporary(err error) bool { return !errors.Is(err, net.ErrClosed) }

// serveConn serves one connection to its end.
func (s *Server) serveConn(nc net.Conn) {
	c := newConn(s, nc)
	defer s.recoverConn(c, "end of a connection")
	defer c.end("the connection ended")
	defer s.recoverConn(c, "connection")
	if evicted := s.gate.arrive(c); evicted != nil {
		evicted.close("too many connections wait for their login")
	}
	s.mu.Lock()
	draining := s.draining
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	if draining {
		c.close(shutDown)
		return
	}
	s.ssh.HandleConn(c)
}

// recoverConn keeps a panic from reaching other devices: it ends c alone.
func (s *Server) recoverConn(c *conn, where string) {
	if p := recover(); p != nil {
		s.cfg.Log.Error("panic, closing one connection", "where", where, "remote", c.remote.String(),
			"panic", p, "stack", string(debug.Stack()))
		c.close("internal error")
	}
}

func (s *Server) handshakeFailed(nc net.Conn, err error) {
	s.cfg.Log.Debug("handshake failed", "remote", nc.RemoteAddr().String(), "error", err)
}

// Counts says how many connections there are before and after their login.
func (s *Server) Counts() (pending, loggedIn int) { return s.gate.counts() }

// connections returns the connections of now.
func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}
