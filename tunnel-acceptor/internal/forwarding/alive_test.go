package forwarding

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// proxy is a link that can stop carrying bytes without ending: a NAT that
// forgot the connection.
type proxy struct {
	addr string
	up   blackhole // from the device to the acceptor
	down blackhole
}

// blackhole swallows what goes one way, or lets it pile up in front of it.
type blackhole struct {
	swallow atomic.Bool
	stall   chan struct{} // closed to stall
	once    sync.Once
}

func (b *blackhole) open() { b.swallow.Store(true) }

func (b *blackhole) plug() { b.once.Do(func() { close(b.stall) }) }

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), up: blackhole{stall: make(chan struct{})}, down: blackhole{stall: make(chan struct{})}}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			device, err := ln.Accept()
			if err != nil {
				return
			}
			acceptor, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = device.Close(); _ = acceptor.Close() })
			go p.up.carry(t.Context(), acceptor, device)
			go p.down.carry(t.Context(), device, acceptor)
		}
	}()
	return p
}

func (b *blackhole) carry(ctx context.Context, dst io.WriteCloser, src io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		select {
		case <-b.stall:
			<-ctx.Done()
		default:
		}
		n, err := src.Read(buf)
		if err != nil {
			if !b.swallow.Load() {
				_ = dst.Close()
			}
			return
		}
		if !b.swallow.Load() {
			_, _ = dst.Write(buf[:n])
		}
	}
}

// freeze logs a device in through a link that then carries nothing.
func (a *acceptor) freeze(key testKey) {
	a.t.Helper()
	p := newProxy(a.t, a.addr)
	client, err := a.loginAs("agent", p.addr, key)
	if err != nil {
		a.t.Fatal(err)
	}
	go echo(client.HandleChannelOpen("forwarded-tcpip"))
	if !forward(a.t, client, "localhost", 2) {
		a.t.Fatal("the forward was refused")
	}
	p.up.open()
	p.down.open()
}

// A device that is gone without a word is found out within interval x count,
// in whichever direction its link is dead, and also when our own writes to it
// go on or are stuck.
func TestDeadDevicesAreFoundOut(t *testing.T) {
	const interval, count = 400 * time.Millisecond, 3
	for name, kill := range map[string]func(p *proxy){
		"from the device":  func(p *proxy) { p.up.open() },
		"to the device":    func(p *proxy) { p.down.open() },
		"both":             func(p *proxy) { p.up.open(); p.down.open() },
		"full send buffer": func(p *proxy) { p.down.plug(); p.up.open() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := newKey(t)
			a := start(t, line("edge", key.PublicKey(), "", 22222), func(cfg *Config, _ *delays) { cfg.AliveInterval, cfg.AliveCount = interval, count })
			p := newProxy(t, a.addr)
			client, err := a.loginAs("agent", p.addr, key)
			if err != nil {
				t.Fatal(err)
			}
			go echo(client.HandleChannelOpen("forwarded-tcpip"))
			if !forward(t, client, "localhost", 22222) {
				t.Fatal("the forward was refused")
			}
			stream := a.dial("edge", 22222)
			checkStream(t, stream)
			<-time.After(3 * interval) // it answers as long as the link is well
			if got := a.waitUp("edge", 22222); got.Generation != 1 {
				t.Fatalf("generation %d", got.Generation)
			}
			kill(p)
			began := time.Now()
			go func() { // writes of ours are no sign of the device's life
				for {
					if _, err := stream.Write(make([]byte, 32<<10)); err != nil {
						return
					}
					select {
					case <-time.After(time.Millisecond):
					case <-t.Context().Done():
						return
					}
				}
			}()
			a.waitFor("the device to be suspected", func() bool { return a.state("edge", 22222) == registry.Suspect })
			a.waitFor("the tunnel to be down", func() bool { return a.state("edge", 22222) == 0 })
			if took := time.Since(began); took > count*interval+time.Second {
				t.Errorf("it took %v", took)
			}
			if got := a.event("session_closed").Reason; got != "the device stopped answering" {
				t.Errorf("it was closed as %q", got)
			}
			if len(a.named("keepalive_lost")) != 1 {
				t.Errorf("recorded %+v", a.named("keepalive_lost"))
			}
			_ = stream.Close()
		})
	}
}

// The round-trip time is not left unknown until the first silence.
func TestRoundTripTimeIsKnownAtOnce(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	a.hold(key, 22222)
	a.waitUp("edge", 22222)
	a.waitFor("the round-trip time", func() bool { return a.registry.List().Tunnels[0].Stats.RTT > 0 })
}

// A dial to a device that does not answer is given up, and those that follow
// do not pile up behind it. In the end its connection is closed.
func TestUnansweredOpensAreBounded(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(_ *Config, d *delays) {
		d.open, d.answer = 100*time.Millisecond, 2*time.Second
	})
	client := a.mustLogin(key)
	channels := client.HandleChannelOpen("forwarded-tcpip")
	if !forward(t, client, "localhost", 22222) {
		t.Fatal("the forward was refused")
	}
	target := a.waitUp("edge", 22222)
	var dials sync.WaitGroup
	for range maxPendingOpens {
		dials.Go(func() {
			if _, err := target.Open(t.Context()); err == nil {
				t.Error("a stream was opened")
			}
		})
	}
	dials.Wait()
	if got := a.state("edge", 22222); got != registry.Suspect {
		t.Errorf("the tunnel's state is %d, want suspect", got)
	}
	began := time.Now()
	if _, err := target.Open(t.Context()); err == nil || time.Since(began) > 50*time.Millisecond {
		t.Errorf("one more: %v after %v; want a refusal at once", err, time.Since(began))
	}
	late := <-channels // an answer that nobody waits for is closed again
	ch, reqs, err := late.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if _, err := io.Copy(io.Discard, ch); err != nil {
		t.Errorf("the late stream: %v", err)
	}
	if got := a.registry.List().Tunnels[0].Stats.OpenStreams; got != 0 {
		t.Errorf("%d streams are open", got)
	}
	waitClosed(t, client)
	if got := a.event("session_closed").Reason; got != "the device left a stream unanswered" {
		t.Errorf("it was closed as %q", got)
	}
}
