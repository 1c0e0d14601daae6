// Package mcpserve carries MCP conversations between clients and one shared
// mcp-go server, one JSON message per line, over stdio or a unix socket.
//
// It uses mcp-go's public RegisterSession, WithContext and HandleMessage and not
// its StdioServer. That one (v1.2.1) keeps a single session in a global, so two
// clients get each other's progress and elicitations; it runs five calls at a
// time, drops or delays progress, and misses a cancellation that arrives before
// a worker took the call.
//
// What a conversation promises:
//
//   - A request can be cancelled from the moment its line was read, and a client
//     that cancelled it hears nothing more about it, neither progress nor result.
//   - Request ids and progress tokens come back byte for byte, and are compared
//     so: 1 and "1" are two ids.
//   - Progress arrives in order and before the result; a handler that reports
//     faster than the client reads waits in [Progress].
//   - A request that cannot be served is answered, not queued: too many at once,
//     an id in use, a line that is too long, is not JSON or is a batch.
//   - Requests run concurrently; only initialize and ping are answered before the
//     next line is read. Both protocol generations may share a connection.
//   - A panic ends its request with a fixed text; only the log says more.
//   - A client that stops reading is cut off; nobody else notices.
//   - The pipes or sockets of a client whose process connects on its behalf may be
//     handed over ([HandOver]); they are then served as the connection would be.
//
// Nothing here is keyed by session for others to rely on: state outlives a
// conversation only by device and by handle, in the packages that own it.
package mcpserve

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

	"github.com/mark3labs/mcp-go/server"
)

// Config says what a Server serves and within which limits.
type Config struct {
	// MCP answers the messages of all conversations, concurrently. Required.
	// Build it without server.WithRecovery, which shows a panic's text to the
	// client; this package recovers by itself.
	MCP *server.MCPServer

	// Log gets one line per connection and per fault, concurrently. Required.
	Log *slog.Logger

	// MaxLineBytes bounds one message from a client; a longer line is skipped
	// and answered with an error. 0 means 8 MiB.
	MaxLineBytes int

	// MaxInFlight bounds the requests of one connection that are not answered
	// yet; the next one is refused. 0 means 64.
	MaxInFlight int

	// MaxConns bounds the conversations of one Serve; the next client is told
	// so and closed. 0 means 64.
	MaxConns int

	// EOFGrace is how long running requests may go on after the client's end of
	// file or the server's stop before they are cancelled. 0 means 2 s.
	EOFGrace time.Duration

	// Began is told of each conversation whose client asks for more than ping,
	// before its first such request is answered; what it returns is told of the
	// conversation's end, and may be nil. Called concurrently. nil: nobody is told.
	Began func(Caller) (ended func(Ending))
	// Ended, if not nil, is told of each conversation that nothing more will be
	// read from, by its Caller.Session. It is called concurrently.
	Ended func(session string)

	// WriteTimeout is how long a client may take to read 64 KiB before it is
	// cut off. 0 means 30 s.
	WriteTimeout time.Duration
}

// A Server serves conversations. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	open    atomic.Int64
	unasked atomic.Uint64
}

// Ending says how a conversation ended.
type Ending struct {
	// Reason is one of a few fixed texts.
	Reason   string
	Requests int64 // that were taken, ping included
	Duration time.Duration
}

// Stats counts what a Server has seen.
type Stats struct {
	Open    int    // conversations that go on now
	Unasked uint64 // responses dropped because nothing had been asked
}

// New checks cfg and fills in its defaults.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.MCP == nil:
		return nil, errors.New("mcpserve: Config.MCP is nil")
	case cfg.Log == nil:
		return nil, errors.New("mcpserve: Config.Log is nil")
	case cfg.MaxLineBytes < 0 || cfg.MaxInFlight < 0 || cfg.MaxConns < 0 || cfg.EOFGrace < 0 || cfg.WriteTimeout < 0:
		return nil, errors.New("mcpserve: a limit in Config is negative")
	}
	setDefault(&cfg.MaxLineBytes, 8<<20)
	setDefault(&cfg.MaxInFlight, 64)
	setDefault(&cfg.MaxConns, 64)
	setDefault(&cfg.EOFGrace, 2*time.Second)
	setDefault(&cfg.WriteTimeout, 30*time.Second)
	return &Server{cfg: cfg}, nil
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Stats returns the current counts.
func (s *Server) Stats() Stats {
	return Stats{Open: int(s.open.Load()), Unasked: s.unasked.Load()}
}

// Serve accepts clients on ln until ctx ends and serves each conversation, which
// begins with the client's first byte. It closes ln and returns when all of them
// have ended: nil when ctx ended, else why accepting failed. peer says who a
// client is and may refuse it by an error, which is logged; it is called in the
// client's own goroutine.
func (s *Server) Serve(ctx context.Context, ln net.Listener, peer func(net.Conn) (Peer, error)) error {
	if peer == nil {
		return errors.New("mcpserve: peer is nil")
	}
	defer context.AfterFunc(ctx, func() { closeQuietly(ln) })()
	defer closeQuietly(ln)

	var clients sync.WaitGroup
	defer clients.Wait()
	// When accepting fails for good, those who are connected still get their grace.
	serving, stop := context.WithCancel(ctx)
	defer stop()

	places := make(chan struct{}, s.cfg.MaxConns)
	var pause time.Duration
	for {
		client, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				closeQuietly(client)
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting clients: %w", err)
		case err != nil:
			// Most likely out of file descriptors: those who are connected go on.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("accepting a client failed", "error", err, "retry_in", pause)
			sleep(ctx, pause)
			continue
		}
		pause = 0
		select {
		case places <- struct{}{}:
			clients.Go(func() {
				defer func() { <-places }()
				s.serveClient(serving, client, peer)
			})
		default:
			s.turnAway(client)
		}
	}
}

func (s *Server) serveClient(ctx context.Context, client net.Conn, peer func(net.Conn) (Peer, error)) {
	defer closeQuietly(client)
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("panic while serving a client", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	who, err := peer(client)
	if err != nil {
		s.cfg.Log.Warn("client refused", "error", err)
		return
	}
	streams, err := takeStreams(ctx, client)
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		s.cfg.Log.Warn("client refused", "error", err, "peer_uid", who.UID)
		return
	}
	defer closeQuietly(streams)
	if err := s.ServeConn(ctx, streams, streams, who); err != nil {
		s.cfg.Log.Info("conversation broke off", "error", err, "peer_uid", who.UID)
	}
}

// turnAway tells a client that there is no room. It may not keep the accept loop
// waiting: a fresh socket takes one line at once or never.
func (s *Server) turnAway(client net.Conn) {
	defer closeQuietly(client)
	s.cfg.Log.Warn("client turned away", "connected", s.cfg.MaxConns)
	text := fmt.Sprintf("%d clients are connected, the most allowed: close one, then connect again", s.cfg.MaxConns)
	if err := client.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return
	}
	if _, err := client.Write(errorLine(nil, codeBusy, text)); err != nil {
		s.cfg.Log.Debug("client left before it was turned away", "error", err)
	}
}

// sleep waits for d or ctx's end.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// closeQuietly closes what has nothing left to lose.
func closeQuietly(c interface{ Close() error }) { _ = c.Close() }
