package forwarding

import (
	"io"
	"net"
	"testing"
	"time"
)

// The stop closes the door and what is idle at once, and lets a stream finish.
func TestDrainLetsStreamsFinish(t *testing.T) {
	t.Parallel()
	busy, idle := newKey(t), newKey(t)
	a := start(t, line("busy", busy.PublicKey(), "", 1)+line("idle", idle.PublicKey(), "", 2), func(cfg *Config, _ *delays) { cfg.DrainTimeout = 10 * time.Second })
	a.hold(busy, 1)
	idleClient := a.hold(idle, 2)
	stream := a.dial("busy", 1)
	silent, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a.waitFor("the silent connection", func() bool { pending, _ := a.server.Counts(); return pending == 1 })
	stopped := make(chan struct{})
	began := time.Now()
	go func() { defer close(stopped); a.stop() }()
	waitClosed(t, idleClient)
	if _, err := io.Copy(io.Discard, silent); err != nil && time.Since(began) > time.Second {
		t.Errorf("the silent connection: %v after %v", err, time.Since(began))
	}
	if _, err := a.registry.Find("busy", 1, 0); err == nil {
		t.Error("a new dial is answered")
	}
	if nc, err := net.Dial("tcp", a.addr); err == nil {
		_ = nc.Close()
		t.Error("a new device is let in")
	}
	<-time.After(200 * time.Millisecond)
	checkStream(t, stream)
	select {
	case <-stopped:
		t.Fatal("it stopped with a stream open")
	default:
	}
	_ = stream.Close()
	<-stopped
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if len(a.named("drain_started")) != 1 || len(a.named("drain_finished")) != 1 || len(a.named("session_closed")) != 2 {
		t.Error("the drain is not on record")
	}
}

func TestDrainEndsInTime(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1), func(cfg *Config, _ *delays) { cfg.DrainTimeout = 200 * time.Millisecond })
	client := a.hold(key, 1)
	stream := a.dial("edge", 1)
	defer stream.Close()
	began := time.Now()
	a.stop()
	if took := time.Since(began); took < 200*time.Millisecond || took > time.Second {
		t.Errorf("the stop took %v, want 200 ms", took)
	}
	waitClosed(t, client)
}
