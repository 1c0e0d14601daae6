package tunnelapi

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// Ports makes 127.0.0.1:PORT a real address for every tunnel that has it as a
// virtual one, for people who dial by hand on the same machine. A port is
// listened on while its tunnel is up and belongs to the slot: a takeover does
// not close it. Any local process may connect; dial.sock is for those who
// should be told apart.
type Ports struct {
	dial      *Dial
	listeners map[uint16]net.Listener // of Serve's goroutine
	running   sync.WaitGroup
}

// NewPorts returns the ports of what d dials.
func NewPorts(d *Dial) *Ports { return &Ports{dial: d, listeners: make(map[uint16]net.Listener)} }

// Serve follows the tunnels until ctx ends, then closes what is open. It
// returns when all has ended, and always nil.
func (p *Ports) Serve(ctx context.Context) error {
	for p.follow(ctx) {
		continue // changes were lost: begin again with a snapshot
	}
	for port := range p.listeners {
		p.close(port)
	}
	p.running.Wait()
	return nil
}

// follow watches the tunnels and says whether it lost track, rather than that
// ctx has ended.
func (p *Ports) follow(ctx context.Context) (lost bool) {
	snapshot, watcher := p.dial.registry.Watch()
	defer watcher.Close()
	for port := range p.listeners {
		p.set(ctx, port)
	}
	for _, t := range snapshot.Tunnels {
		p.set(ctx, t.Port)
	}
	for {
		change, err := watcher.Next(ctx)
		switch {
		case errors.Is(err, registry.ErrSlowWatcher):
			return true
		case err != nil:
			return false
		case change.Upsert != nil:
			p.set(ctx, change.Upsert.Port)
		default:
			p.set(ctx, change.Removed.Port)
		}
	}
}

// set listens on port, or no longer, as the registry has it now.
func (p *Ports) set(ctx context.Context, port uint16) {
	_, err := p.dial.registry.Find("", port, 0)
	open := p.listeners[port] != nil
	switch {
	case err != nil && open:
		p.close(port)
	case err == nil && !open:
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			p.dial.log.Warn("a tunnel's port cannot be listened on: dial.sock has it still", "port", port, "error", err)
			return
		}
		p.listeners[port] = ln
		p.running.Go(func() { p.accept(ctx, ln, port) })
	}
}

func (p *Ports) close(port uint16) {
	_ = p.listeners[port].Close()
	delete(p.listeners, port)
}

func (p *Ports) accept(ctx context.Context, ln net.Listener, port uint16) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.dial.log.Warn("a tunnel's port cannot accept now", "port", port, "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		p.running.Go(func() { p.serve(ctx, conn, port) })
	}
}

// serve carries one connection.
func (p *Ports) serve(ctx context.Context, conn net.Conn, port uint16) {
	defer func() { _ = conn.Close() }()
	defer func() {
		if r := recover(); r != nil {
			p.dial.log.Error("panic, closing one stream", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	client, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	record := audit.Record{Remote: conn.RemoteAddr().String(), Port: port}
	target, err := p.dial.registry.Find("", port, 0)
	if err == nil {
		var stream registry.Stream
		if stream, err = p.dial.open(ctx, &record, target); err == nil {
			began := time.Now()
			in, out := splice(ctx, client, nil, stream)
			p.dial.closed(record, began, in+out)
			return
		}
	}
	record.Event, record.Reason = "dial_denied", err.Error()
	_ = p.dial.record(record)
}
