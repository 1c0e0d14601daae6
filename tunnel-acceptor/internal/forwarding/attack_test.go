package forwarding

import (
	"sync"
	"testing"
	"time"

	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"
)

// A device that stays connected while a reload gives one of its ports to
// another must not take that port afterwards: what counts is the grant of now,
// not that of its login.
func TestReloadTakesAPortThatIsNotHeldYet(t *testing.T) {
	first, second := newKey(t), newKey(t)
	a := start(t, line("first", first.PublicKey(), "", 22222, 22223)+line("second", second.PublicKey(), "", 22224), nil)
	client := a.hold(first, 22223)
	a.server.SetKeys(keySet(t, line("first", first.PublicKey(), "", 22223)+line("second", second.PublicKey(), "", 22222, 22224)))
	ended := make(chan struct{})
	go func() {
		_ = client.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		if forward(t, client, "localhost", 22222) {
			t.Error("it took a port that a reload had given to another device")
		}
	}
	if _, err := a.registry.Find("", 22222, 0); err == nil {
		t.Error("127.0.0.1:22222 leads to somebody")
	}
}

// A device lets our answers pile up, so that a refusal cannot be sent, and goes
// on opening channels: only so many refusals may wait, then the connection ends.
func TestRefusalsThatCannotBeSentAreBounded(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	client := a.hold(key, 22222)
	ctx, ok := a.server.connections()[0].session.Load().ctx.(gliderssh.Context)
	if !ok {
		t.Fatal("the session's context is not gliderlabs'")
	}
	stuck := &stuckChannel{waiting: make(chan struct{}, 10*maxRefusedChannels), sent: make(chan struct{})}
	refuse := a.server.channelHandlers()["session"]
	var handlers sync.WaitGroup
	for range 5 * maxRefusedChannels {
		handlers.Go(func() { refuse(nil, nil, stuck, ctx) })
	}
	if err := client.Wait(); err == nil {
		t.Error("the connection ended without an error")
	}
	close(stuck.sent)
	handlers.Wait()
	if n := len(stuck.waiting); n > maxRefusedChannels {
		t.Errorf("%d refusals waited for the send buffer, want at most %d", n, maxRefusedChannels)
	}
}

// stuckChannel is a channel open whose refusal waits for room in the send
// buffer, as x/crypto's does.
type stuckChannel struct {
	ssh.NewChannel
	waiting chan struct{}
	sent    chan struct{}
}

func (c *stuckChannel) ChannelType() string { return "session" }

func (c *stuckChannel) Reject(ssh.RejectionReason, string) error {
	c.waiting <- struct{}{}
	<-c.sent
	return nil
}
