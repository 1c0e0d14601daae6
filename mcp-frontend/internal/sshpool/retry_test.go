package sshpool

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// slot stands for the acceptor: a tunnel whose other end is a real sshd, or
// nothing at all.
type slot struct {
	mu     sync.Mutex // guards all below
	id     string
	server *sshdtest.Server // nil: the dial fails
	dials  int
	err    error // instead of the dial's own
}

func (s *slot) set(id string, server *sshdtest.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.server = id, server
}

func (s *slot) dial(ctx context.Context, _ string, _ uint16) (net.Conn, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	if s.err != nil {
		return nil, "", s.err
	}
	if s.server == nil {
		return nil, "", errors.New("the device refused")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", sshdtest.Address(s.server.Host, s.server.Port))
	return conn, s.id, err
}

func (s *slot) tunnelID(string, uint16) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

func (s *slot) dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

func tunnelPool(t *testing.T, through *slot, s *sshdtest.Server, retry entry) *Pool {
	t.Helper()
	e := direct(t, "edge", s, entry{"mode": "tunnel", "port": 22222, "retry": retry})
	return newPool(t, Config{
		Devices: deviceSet(t, e), KnownHosts: knownHosts(t, s.Known("edge")),
		DialTunnel: through.dial, TunnelID: through.tunnelID,
	})
}

func TestCooldown(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	through := &slot{id: "first"}
	p := tunnelPool(t, through, s, entry{"max_attempts": 3, "initial_backoff_ms": 1, "cooldown_s": 60})

	e := mustFail(t, p, "edge", DialFailed)
	contains(t, e.Error(), "the device refused")
	if got := through.dialled(); got != 3 {
		t.Errorf("%d attempts, want 3", got)
	}
	status := p.Status()[0]
	if status.Failures != 3 || status.RetryAfter <= 0 || status.LastError == "" || status.Connected {
		t.Errorf("got %+v", status)
	}

	e = mustFail(t, p, "edge", BackingOff)
	if e.RetryAfter <= 50*time.Second || e.RetryAfter > time.Minute || !e.Retriable {
		t.Errorf("got %+v", e)
	}
	contains(t, e.Error(), "the device refused")
	if got := through.dialled(); got != 3 {
		t.Errorf("it was dialled during the cooldown: %d", got)
	}

	// A new tunnel ends the cooldown, and its failures count from the start.
	through.set("second", nil)
	mustFail(t, p, "edge", DialFailed)
	if got := through.dialled(); got != 6 {
		t.Errorf("%d attempts, want 6", got)
	}
	through.set("third", s)
	acquire(t, p, "edge").Release()
	if status := p.Status()[0]; status.Failures != 0 || status.LastError != "" || status.RetryAfter != 0 || !status.Connected {
		t.Errorf("after a success: %+v", status)
	}
}

func TestCooldownEnds(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	through := &slot{id: "only"}
	p := tunnelPool(t, through, s, entry{"max_attempts": 1, "cooldown_s": 1})
	mustFail(t, p, "edge", DialFailed)
	e := mustFail(t, p, "edge", BackingOff)
	through.set("only", s)
	<-time.After(e.RetryAfter) // so long is always enough
	acquire(t, p, "edge").Release()
}

// What was no attempt to connect does not count.
func TestWhatDoesNotCount(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, code := range []Code{TunnelDown, AcceptorDown} {
		through := &slot{err: &Error{Code: code, Stage: StageTunnel, Err: errors.New("down"), Hint: "wait", FixBy: "operator"}}
		p := tunnelPool(t, through, s, entry{"max_attempts": 1})
		for range 3 {
			mustFail(t, p, "edge", code)
		}
		if status := p.Status()[0]; through.dialled() != 3 || status.Failures != 0 || status.LastError == "" {
			t.Errorf("%s: %d dials, %+v", code, through.dialled(), status)
		}
	}
}

// A wrong key is not tried again and again: fail2ban would lock us out.
func TestAuthFailureIsNotRetried(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, entry{"id_file": sshdtest.NewKey(t, "ed25519").Path, "retry": entry{"max_attempts": 2, "initial_backoff_ms": 1}}, s.Known("edge"))
	mustFail(t, p, "edge", AuthFailed)
	if s.Accepted() != 1 {
		t.Errorf("%d connections, want 1", s.Accepted())
	}
	mustFail(t, p, "edge", AuthFailed)
	contains(t, mustFail(t, p, "edge", BackingOff).Error(), string(AuthFailed))
	if s.Accepted() != 2 {
		t.Errorf("%d connections, want 2", s.Accepted())
	}
}

// A new generation of the tunnel means a new connection at once; what the old
// one carries is finished.
func TestNewTunnel(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	through := &slot{id: "first", server: s}
	p := tunnelPool(t, through, s, entry{})
	old := acquire(t, p, "edge")
	if old.TunnelID != "first" {
		t.Errorf("got %q", old.TunnelID)
	}
	through.set("second", s)
	fresh := acquire(t, p, "edge")
	if fresh.TunnelID != "second" || fresh.Reused {
		t.Errorf("got %+v", fresh)
	}
	works(t, old)
	works(t, fresh)
	old.Release()
	<-old.conn.ended
	through.set("", s) // the directory knows nothing: no reason to leave the connection
	same := acquire(t, p, "edge")
	if !same.Reused || same.Client != fresh.Client {
		t.Errorf("got %+v", same)
	}
	same.Release()
	fresh.Release()
}

func TestNoAcceptor(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := newPool(t, Config{Devices: deviceSet(t, direct(t, "edge", s, entry{"mode": "tunnel"}))})
	contains(t, mustFail(t, p, "edge", AcceptorDown).Hint, "--acceptor-dir")
}

// A device that accepts and says nothing takes no longer than its timeout.
func TestSilentDevice(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	var accepted atomic.Int64
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			defer func() { _ = conn.Close() }()
		}
	}()
	s := sshdtest.Start(t, sshdtest.Config{})
	addr, _ := ln.Addr().(*net.TCPAddr)
	p := onePool(t, s, entry{"port": addr.Port, "connect_timeout_s": 1, "retry": entry{"max_attempts": 5, "initial_backoff_ms": 1}}, s.Known("edge"))
	began := time.Now()
	contains(t, mustFail(t, p, "edge", DialFailed).Error(), "no SSH connection within 1s")
	if took := time.Since(began); took > 3*time.Second || accepted.Load() != 1 {
		t.Errorf("it took %v and %d dials", took, accepted.Load())
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{Devices: connections.Empty()}); err == nil {
		t.Error("a pool without its parts")
	}
}
