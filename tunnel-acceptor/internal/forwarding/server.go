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
	// HostKeys prove the acceptor to devices, one per key type.
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
	// once; further ones wait. MaxConnections bounds those logged in.
	MaxStartups    int
	MaxConnections int
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
	ssh       *gliderssh.Server
	takeovers takeovers
	keys      atomic.Pointer[devicekey.Set]
	loggedIn  atomic.Int64
	places    chan struct{} // MaxStartups places before a login

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}

	background sync.WaitGroup // all goroutines but the accept loop
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
	case cfg.MaxStartups <= 0 || cfg.MaxConnections <= 0 || cfg.MaxTunnels <= 0 || cfg.MaxStreams <= 0:
		return nil, errors.New("the limits of startups, connections, tunnels and streams must be above 0")
	}
	if err := checkCiphers(cfg.Ciphers); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:    cfg,
		places: make(chan struct{}, cfg.MaxStartups),
		conns:  make(map[*conn]struct{}),
	}
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
	for _, key := range cfg.HostKeys {
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
	err := s.accept(ctx, ln)
	s.drain()
	s.background.Wait()
	return err
}

func (s *Server) accept(ctx context.Context, ln net.Listener) error {
	for {
		select {
		case s.places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		nc, err := ln.Accept()
		if err != nil {
			<-s.places
			if ctx.Err() != nil {
				return nil
			}
			if !temporary(err) {
				return fmt.Errorf("accepting devices: %w", err)
			}
			s.cfg.Log.Warn("cannot accept a connection now", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		s.background.Go(func() { s.serveConn(nc) })
	}
}

// temporary tells lack of a resource, which passes, from a listener's end.
func temporary(err error) bool { return !errors.Is(err, net.ErrClosed) }

// serveConn serves one connection to its end.
func (s *Server) serveConn(nc net.Conn) {
	c := newConn(s, nc)
	defer c.end("the connection ended")
	defer s.recoverConn(c, "connection")
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
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

// drain lets open streams finish and closes what is left.
func (s *Server) drain() {
	s.cfg.Registry.Drain()
	_ = s.cfg.Record(Event{Name: "drain_started"})
	deadline := time.NewTimer(s.cfg.DrainTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for s.closeIdle() > 0 {
		select {
		case <-poll.C:
			continue
		case <-deadline.C:
		}
		break
	}
	for _, c := range s.connections() {
		c.close("the acceptor shut down")
	}
	_ = s.cfg.Record(Event{Name: "drain_finished"})
}

// closeIdle closes every connection without an open stream and says how many
// remain.
func (s *Server) closeIdle() (busy int) {
	for _, c := range s.connections() {
		if session := c.session.Load(); session != nil && session.streams.Load() > 0 {
			busy++
			continue
		}
		c.close("the acceptor shut down")
	}
	return busy
}
