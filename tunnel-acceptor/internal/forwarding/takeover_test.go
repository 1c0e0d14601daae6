package forwarding

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// The oldest complaint against every peer: the port is "taken" by the device's
// own dead session. Here a stopped client loses it at once to the one that
// comes back, and finds its connection closed when it wakes.
func TestStoppedIncumbentIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	spec := "22222:" + echoService(t)
	incumbent, output := a.openSSH(key, "-N", "-o", "ExitOnForwardFailure=yes", "-R", spec)
	startCommand(t, incumbent)
	first := a.waitUp("edge", 22222)
	if err := incumbent.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	newcomer := a.mustLogin(key)
	go echo(newcomer.HandleChannelOpen("forwarded-tcpip"))
	began := time.Now()
	if !forward(t, newcomer, "localhost", 22222) {
		t.Fatal("the newcomer was refused")
	}
	if took := time.Since(began); took > 200*time.Millisecond {
		t.Errorf("the newcomer waited %v", took)
	}
	a.waitFor("the takeover", func() bool { return len(a.named("takeover")) == 1 })
	a.checkEcho("edge", 22222)
	if got := a.waitUp("edge", 22222).Generation; got != first.Generation+1 {
		t.Errorf("generation %d follows %d", got, first.Generation)
	}
	closed := a.event("session_closed")
	if !strings.Contains(closed.Reason, "did not answer") || time.Since(began) < time.Second {
		t.Errorf("the incumbent was closed after %v: %+v", time.Since(began), closed)
	}
	if err := incumbent.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = incumbent.Wait()
	if code := incumbent.ProcessState.ExitCode(); code != 255 {
		t.Errorf("the incumbent ended with %d, it showed\n%s", code, output)
	}
	a.checkEcho("edge", 22222)
	if got := len(a.named("identity_conflict")); got != 0 {
		t.Errorf("%d identity conflicts", got)
	}
}

// A live incumbent keeps the streams it has until they end; what is dialled
// from now on reaches the newcomer.
func TestLiveIncumbentDrains(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	incumbent := a.hold(key, 22222)
	before := a.dial("edge", 22222)
	a.hold(key, 22222)
	a.event("takeover")
	after := a.dial("edge", 22222)
	checkStream(t, before)
	checkStream(t, after)
	if got := a.registry.List().Tunnels[0]; got.Stats.OpenStreams != 1 || got.Generation != 2 {
		t.Errorf("the newcomer's tunnel: %+v", got)
	}
	select {
	case <-time.After(300 * time.Millisecond):
	case <-a.t.Context().Done():
	}
	checkStream(t, before)
	if got := a.named("session_closed"); len(got) != 0 {
		t.Fatalf("the incumbent was closed with a stream open: %+v", got)
	}
	if err := before.Close(); err != nil {
		t.Error(err)
	}
	waitClosed(t, incumbent)
	if got := a.event("session_closed").Reason; got != "a new session of the device took over" {
		t.Errorf("it was closed as %q", got)
	}
	checkStream(t, after)
}

// An incumbent that is alive is not taken for dead because a question to it
// is on its way already.
func TestLiveIncumbentWithAQuestionOnItsWay(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	a.hold(key, 22222)
	for _, c := range a.server.connections() {
		a.waitFor("the first question's answer", func() bool { return c.session.Load().rtt.Load() > 0 })
		if !c.session.Load().asking.CompareAndSwap(false, true) {
			t.Fatal("a question is on its way")
		}
	}
	stream := a.dial("edge", 22222)
	a.hold(key, 22222)
	a.event("takeover")
	for range 8 { // data is as good an answer as any
		checkStream(t, stream)
		<-time.After(20 * time.Millisecond)
	}
	<-time.After(2 * time.Second)
	checkStream(t, stream)
}

// Two machines with one key would take the port from each other for ever.
// The third time that the loser was alive, it stays, and an event says so.
func TestTwoClonesAreReported(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	a.server.takeovers.window = 1500 * time.Millisecond
	a.hold(key, 22222)
	for i := range conflictTakeovers {
		a.hold(key, 22222)
		a.waitFor("the incumbent's end", func() bool { return len(a.named("session_closed")) == i+1 })
	}
	conflict := a.event("identity_conflict")
	if conflict.Device != "edge" || conflict.Port != 22222 || !strings.Contains(conflict.Reason, " and ") {
		t.Errorf("recorded %+v", conflict)
	}
	clone := a.mustLogin(key)
	if forward(t, clone, "localhost", 22222) {
		t.Error("the clone got the port")
	}
	if got := a.event("forward_denied").Reason; !strings.Contains(got, "two machines share this key") {
		t.Errorf("denied because %q", got)
	}
	a.checkEcho("edge", 22222)
	a.waitFor("the window's end", func() bool { return !a.server.takeovers.denied(registry.Key{Device: "edge", Port: 22222}) })
	if !forward(t, clone, "localhost", 22222) {
		t.Error("after the window the port is refused still")
	}
	if got := len(a.named("identity_conflict")); got != 1 {
		t.Errorf("%d identity conflicts, want 1", got)
	}
}

// A session that was replaced on one port goes on with its others.
func TestIncumbentKeepsItsOtherTunnels(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1, 2), nil)
	incumbent := a.hold(key, 1)
	if !forward(t, incumbent, "localhost", 2) {
		t.Fatal("the second forward was refused")
	}
	newcomer := a.hold(key, 1)
	a.event("takeover")
	<-time.After(300 * time.Millisecond)
	a.checkEcho("edge", 1)
	a.checkEcho("edge", 2)
	_ = newcomer.Close()
	a.waitFor("the newcomer's end", func() bool { return a.state("edge", 1) == 0 })
	if got := a.state("edge", 2); got != registry.Up {
		t.Errorf("the incumbent's other tunnel is %d", got)
	}
}
