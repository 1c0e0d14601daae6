package forwarding

import (
	"fmt"
	"testing"
	"time"
)

// A panic in any goroutine of ours ends the connection it serves, and nothing
// else: the other device's open stream goes on. What panics here is the
// recording of an event, which every kind of goroutine does.
func TestPanicEndsOneConnection(t *testing.T) {
	bystander, victim := newKey(t), newKey(t)
	expiry := func() string {
		return fmt.Sprintf(`expiry-time="%s",`, time.Now().UTC().Add(2*time.Second).Format("20060102150405Z"))
	}
	for event, provoke := range map[string]func(a *acceptor){
		"login":           func(a *acceptor) { _, _ = a.login(victim) },
		"forward_granted": func(a *acceptor) { a.request(victim, 2) },
		"forward_denied":  func(a *acceptor) { a.request(victim, 3) },
		"forward_cancelled": func(a *acceptor) {
			_, _, _ = a.hold(victim, 2).SendRequest("cancel-tcpip-forward", false, append(sshString(nil), 0, 0, 0, 2))
		},
		"channel_refused": func(a *acceptor) { _, _, _ = a.mustLogin(victim).OpenChannel("session", nil) },
		"takeover":        func(a *acceptor) { a.hold(victim, 2); a.hold(victim, 2) },
		"session_closed":  func(a *acceptor) { _ = a.hold(victim, 2).Close() },
		"session_revoked": func(a *acceptor) { waitClosed(a.t, a.hold(victim, 2)) },
		"keepalive_lost":  func(a *acceptor) { a.freeze(victim) },
	} {
		t.Run(event, func(t *testing.T) {
			t.Parallel()
			lines := line("bystander", bystander.PublicKey(), "", 1)
			if event == "session_revoked" {
				lines += line("victim", victim.PublicKey(), expiry(), 2)
			} else {
				lines += line("victim", victim.PublicKey(), "", 2)
			}
			a := start(t, lines, func(cfg *Config, _ *delays) {
				cfg.AliveInterval, cfg.AliveCount = 300*time.Millisecond, 2
			})
			a.hold(bystander, 1)
			stream := a.dial("bystander", 1)
			panicked := make(chan struct{}, 100)
			a.onEvent(func(e Event) error {
				if e.Name == event && e.Device == "victim" {
					panicked <- struct{}{}
					panic("injected")
				}
				return nil
			})
			provoke(a)
			select {
			case <-panicked:
			case <-time.After(10 * time.Second):
				t.Fatal("nothing panicked")
			}
			a.onEvent(nil)
			checkStream(t, stream)
			a.checkEcho("bystander", 1)
			a.waitFor("the victim's end", func() bool { return a.state("victim", 2) == 0 || event == "takeover" })
			if event != "session_revoked" {
				a.hold(victim, 2)
				a.checkEcho("victim", 2)
			}
			_ = stream.Close()
		})
	}
}

// request asks for a forward on a new session and does not wait for the answer.
func (a *acceptor) request(key testKey, port byte) {
	a.t.Helper()
	client := a.mustLogin(key)
	_, _, _ = client.SendRequest("tcpip-forward", true, append(sshString([]byte("localhost")), 0, 0, 0, port))
}
