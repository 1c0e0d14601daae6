package sshpool

import (
	"sync"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// briefPool is onePool that keeps an unused connection for a moment only.
func briefPool(t *testing.T, s *sshdtest.Server, idle time.Duration) *Pool {
	t.Helper()
	return newPool(t, Config{Devices: deviceSet(t, direct(t, "edge", s, nil)), KnownHosts: knownHosts(t, s.Known("edge")), IdleTimeout: idle})
}

// A connection that nobody uses is closed, one that somebody uses is not, and
// the next call connects anew.
func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	const idle = 200 * time.Millisecond
	p := briefPool(t, s, idle)
	lease := acquire(t, p, "edge")
	<-time.After(5 * idle) // a held lease is use, however silent
	works(t, lease)
	if lease.conn.lost() {
		t.Fatal("the connection was closed under its user")
	}
	lease.Release()
	select {
	case <-lease.conn.ended:
	case <-bounded(t).Done():
		t.Fatal("the connection that nobody uses is still there")
	}
	if p.Status()[0].Connected {
		t.Error("the status still says connected")
	}
	next := acquire(t, p, "edge")
	defer next.Release()
	works(t, next)
	if next.Reused || s.Accepted() != 2 {
		t.Errorf("reused %v after %d connections", next.Reused, s.Accepted())
	}
	if status := p.Status()[0]; status.Failures != 0 || status.LastError != "" {
		t.Errorf("closing an idle connection counts as a failure: %+v", status)
	}
}

// Calls that come just when the connection closes for want of use all get one
// that works.
func TestCallsWhileIdleConnectionCloses(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	const idle = 20 * time.Millisecond
	p := briefPool(t, s, idle)
	for round := range 20 {
		<-time.After(idle + time.Duration(round)*time.Millisecond)
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				lease, err := p.Acquire(bounded(t), "edge")
				if err != nil {
					t.Error(err)
					return
				}
				works(t, lease)
				lease.Release()
			})
		}
		callers.Wait()
	}
	if s.Accepted() < 2 {
		t.Errorf("%d connections: none was closed", s.Accepted())
	}
}

// The one connection that a device is reached through is in use as long as
// that device's is, although it carries no channel of its own.
func TestJumpHostIsNotIdle(t *testing.T) {
	t.Parallel()
	inner, outer := sshdtest.Start(t, sshdtest.Config{}), sshdtest.Start(t, sshdtest.Config{})
	const idle = 200 * time.Millisecond
	p := newPool(t, Config{
		Devices:    deviceSet(t, direct(t, "outer", outer, nil), direct(t, "inner", inner, entry{"jump": "outer"})),
		KnownHosts: knownHosts(t, outer.Known("outer"), inner.Known("inner")), IdleTimeout: idle,
	})
	lease := acquire(t, p, "inner")
	<-time.After(5 * idle)
	works(t, lease)
	lease.Release()
	sshdtest.Eventually(t, "both connections are closed", func() bool {
		status := p.Status()
		return !status[0].Connected && !status[1].Connected
	})
	again := acquire(t, p, "inner")
	defer again.Release()
	works(t, again)
}
