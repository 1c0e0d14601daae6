package tunnels

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tunnelv1 "github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/tunnel/v1"
)

// The frontend starts before the acceptor, and finds it.
func TestAcceptorComesLate(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	d := follow(t, a)
	if _, err := d.Now("edge", 22222); !errors.Is(err, ErrAcceptorDown) {
		t.Errorf("got %v", err)
	}
	found := make(chan error)
	go func() {
		_, err := d.Find(bounded(t), "edge", 22222)
		found <- err
	}()
	a.start(t)
	a.events <- snapshot(up("edge", 22222, 1))
	if err := <-found; err != nil {
		t.Errorf("the call that waited got %v", err)
	}
	d.Settle(bounded(t))
}

// A call waits for the first snapshot, but not for long.
func TestNoAcceptor(t *testing.T) {
	t.Parallel()
	d := follow(t, newAcceptor(t))
	began := time.Now()
	_, err := d.Find(bounded(t), "edge", 22222)
	if took := time.Since(began); !errors.Is(err, ErrAcceptorDown) || took < firstSnapshotPatience || took > 2*firstSnapshotPatience {
		t.Errorf("got %v after %v", err, took)
	}
	began = time.Now()
	d.Settle(bounded(t))
	if took := time.Since(began); took > time.Second {
		t.Errorf("Settle took %v long after the start", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Find(ctx, "edge", 22222); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	a.start(t)
	d := follow(t, a)
	state := func(host string, port uint16) string {
		tunnel, err := d.Now(host, port)
		switch {
		case errors.Is(err, ErrAcceptorDown):
			return "no acceptor"
		case errors.Is(err, ErrTunnelDown):
			return "down " + tunnel.LastDownReason
		case err != nil:
			return err.Error()
		}
		return tunnel.ID
	}
	expect := func(host string, port uint16, want string) {
		t.Helper()
		waitFor(t, host+" is "+want, func() bool { return state(host, port) == want })
	}

	a.events <- snapshot(up("edge", 22222, 1), down("rim", 22223))
	expect("edge", 22222, "edge-1")
	for _, host := range []string{"127.0.0.1", "127.9.9.9", "::1", "localhost"} {
		expect(host, 22222, "edge-1")
	}
	expect("rim", 22223, "down gone")
	expect("edge", 22223, "down ")
	expect("127.0.0.1", 1, "down ")
	expect("10.0.0.1", 22222, "down ")

	a.events <- upsert(up("edge", 22222, 2))
	expect("edge", 22222, "edge-2")
	a.events <- upsert(up("rim", 22223, 1))
	expect("rim", 22223, "rim-1")
	suspect := up("rim", 22223, 1)
	suspect.State = tunnelv1.TunnelState_TUNNEL_STATE_SUSPECT
	a.events <- upsert(suspect)
	a.events <- removed("edge", 22222)
	expect("edge", 22222, "down ")
	expect("rim", 22223, "rim-1")
	draining := up("rim", 22223, 1)
	draining.State = tunnelv1.TunnelState_TUNNEL_STATE_DRAINING
	a.events <- upsert(draining)
	expect("rim", 22223, "down ")

	// A slot that is dialled by name alone, and two devices of one port.
	certified := up("pump", 22222, 5)
	certified.Loopback = false
	a.events <- upsert(certified)
	expect("pump", 22222, "pump-5")
	expect("127.0.0.1", 22222, "down ")
	a.events <- upsert(down("old", 22222))
	a.events <- upsert(up("new", 22222, 1))
	expect("127.0.0.1", 22222, "new-1")

	// A new stream is a new world.
	a.stop()
	expect("pump", 22222, "no acceptor")
	a.start(t)
	a.events <- snapshot(up("rim", 22223, 9))
	expect("rim", 22223, "rim-9")
	expect("pump", 22222, "down ")
}

// An acceptor that hangs is down, whatever it said before.
func TestSilence(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	a.start(t)
	d := follow(t, a, func(d *Directory) { d.silence = 100 * time.Millisecond })
	a.events <- snapshot(up("edge", 22222, 1))
	if _, err := d.Find(bounded(t), "edge", 22222); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the acceptor counts as down", func() bool {
		_, err := d.Now("edge", 22222)
		return errors.Is(err, ErrAcceptorDown)
	})
	waitFor(t, "it is asked again", func() bool { return a.watched() > 1 })
}

// A stream that does not begin with a snapshot is none.
func TestNoSnapshotFirst(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	a.start(t)
	d := follow(t, a)
	a.events <- upsert(up("edge", 22222, 1))
	waitFor(t, "it is asked again", func() bool { return a.watched() > 1 })
	if _, err := d.Now("edge", 22222); !errors.Is(err, ErrAcceptorDown) {
		t.Errorf("got %v", err)
	}
}

// A fleet's snapshot is larger than what gRPC takes by default.
func TestLargeSnapshot(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	a.start(t)
	d := follow(t, a)
	var fleet []*tunnelv1.Tunnel
	for i := range 10_000 {
		tunnel := up(fmt.Sprintf("device-%05d", i), 22, 1)
		tunnel.ClientVersion = strings.Repeat("x", 500)
		fleet = append(fleet, tunnel)
	}
	a.events <- snapshot(fleet...)
	if _, err := d.Find(bounded(t), "device-09999", 22); err != nil {
		t.Error(err)
	}
}
