package sshpool

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// A device's link breaks while it is dialled: the dial hangs on the old tunnel,
// and the device comes back with a new one. Callers that wait have the new one
// at once, not when the old one has timed out.
func TestDeviceComesBackDuringDial(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	through := &slot{id: "old"}
	hangs := make(chan struct{}, 1)
	p := newPool(t, Config{
		Devices:    deviceSet(t, direct(t, "edge", s, entry{"mode": "tunnel", "port": 22222, "connect_timeout_s": 60})),
		KnownHosts: knownHosts(t, s.Known("edge")),
		TunnelID:   through.tunnelID,
		DialTunnel: func(ctx context.Context, host string, port uint16) (net.Conn, string, error) {
			if through.tunnelID(host, port) == "old" {
				hangs <- struct{}{}
				<-ctx.Done()
				return nil, "", ctx.Err()
			}
			return through.dial(ctx, host, port)
		},
	})
	leases := make(chan *Lease)
	go func() {
		lease, err := p.Acquire(bounded(t), "edge")
		if err != nil {
			t.Error(err)
		}
		leases <- lease
	}()
	<-hangs
	through.set("new", s)
	lease := <-leases // bounded gives it 20 s, the old tunnel's dial would take 60
	if lease == nil {
		t.FailNow()
	}
	defer lease.Release()
	works(t, lease)
	if status := p.Status()[0]; lease.TunnelID != "new" || status.Failures != 0 {
		t.Errorf("through %q, %+v", lease.TunnelID, status)
	}
}

// The same while it waits between two attempts, and while it is left alone.
func TestDeviceComesBackDuringBackoff(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	through := &slot{id: "old"}
	p := tunnelPool(t, through, s, entry{"max_attempts": 2, "initial_backoff_ms": 6000, "cooldown_s": 600})
	leases := make(chan *Lease)
	go func() {
		lease, err := p.Acquire(bounded(t), "edge")
		if err != nil {
			t.Error(err)
		}
		leases <- lease
	}()
	sshdtest.Eventually(t, "the first attempt has failed", func() bool { return p.Status()[0].Failures == 1 })
	began := time.Now()
	through.set("new", s)
	lease := <-leases
	if lease == nil {
		t.FailNow()
	}
	lease.Release()
	if took := time.Since(began); took > 2900*time.Millisecond { // the shortest backoff is 3 s
		t.Errorf("it took %v", took)
	}

	through.set("third", nil)
	mustFail(t, p, "edge", DialFailed)
	mustFail(t, p, "edge", BackingOff)
	if status := p.Status()[0]; status.RetryAfter == 0 || status.Failures != 2 {
		t.Errorf("got %+v", status)
	}
	through.set("fourth", s)
	if status := p.Status()[0]; status.RetryAfter != 0 || status.Failures != 0 {
		t.Errorf("the status does not know that the device came back: %+v", status)
	}
	acquire(t, p, "edge").Release()
}
