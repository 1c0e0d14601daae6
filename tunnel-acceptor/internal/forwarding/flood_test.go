package forwarding

import (
	"io"
	"reflect"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// A client that keeps opening channels is cut off, and what it sent costs no
// memory once it is gone: the library kept every rejected channel for ever
// until x/crypto v0.52.
func TestRejectedChannelsLeaveNothing(t *testing.T) {
	clients, opens := 10, 2000
	if soak() {
		clients = 50 // 100,000 in all
	}
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	flood := func() {
		client, err := ssh.Dial("tcp", a.addr, a.clientConfig("agent", key)) // not to be kept until the test's end
		if err != nil {
			t.Fatal(err)
		}
		for range opens {
			go func() { _, _, _ = client.OpenChannel("session", nil) }()
		}
		waitClosed(t, client)
		_ = client.Close()
	}
	a.mustLogin(key).Close()
	a.event("session_closed")
	a.events = nil
	goroutines := runtime.NumGoroutine()
	var floods [2]uint64 // the heap after each half
	for i := range floods {
		for range clients / 2 {
			flood()
		}
		a.waitFor("the last goodbye", func() bool { return len(a.named("session_closed")) == clients/2 })
		a.waitFor("the clients' end", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
		a.mu.Lock()
		recorded := len(a.events)
		a.events = nil
		a.mu.Unlock()
		if recorded > clients/2*(maxRefusedChannels+10) {
			t.Errorf("%d records", recorded)
		}
		floods[i] = heap()
	}
	if floods[1] > floods[0]+1<<20 {
		t.Errorf("the heap grew from %d to %d KiB", floods[0]>>10, floods[1]>>10)
	}
	t.Logf("the heap after each half: %d and %d KiB", floods[0]>>10, floods[1]>>10)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Answers to questions that nobody asked once stopped the library's read loop
// (CVE-2026-39830).
func TestUnsolicitedReplies(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(cfg *Config, _ *delays) { cfg.AliveInterval, cfg.AliveCount = 200*time.Millisecond, 2 })
	client := a.hold(key, 22222)
	for range 1000 {
		sendMessage(t, client, struct {
			Data []byte `sshtype:"81" ssh:"rest"`
		}{})
		sendMessage(t, client, struct {
			Data []byte `sshtype:"82" ssh:"rest"`
		}{[]byte("x")})
	}
	a.checkEcho("edge", 22222)
	<-time.After(time.Second) // real questions are still answered
	a.checkEcho("edge", 22222)
	if got := a.registry.List().Tunnels[0]; got.Generation != 1 || got.State != registry.Up {
		t.Errorf("the tunnel: %+v", got)
	}
}

// Unknown requests and pings are answered one by one, and disturb nobody.
func TestRequestFlood(t *testing.T) {
	key, other := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1)+line("other", other.PublicKey(), "", 2), nil)
	a.hold(other, 2)
	client := a.hold(key, 1)
	for range 5000 {
		if _, _, err := client.SendRequest("x@example.com", false, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	a.checkEcho("edge", 1)
	a.checkEcho("other", 2)
}

// Each forward leaves records and changes; a client that asks without end is
// cut off.
func TestForwardAndCancelLoopIsCutOff(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	client := a.mustLogin(key)
	n := 0
	for ; n < 10*maxForwardRequests; n++ {
		if ok, _, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(forwardRequest{"", 22222})); err != nil || !ok {
			break
		}
		if ok, _, err := client.SendRequest("cancel-tcpip-forward", true, ssh.Marshal(forwardRequest{"", 22222})); err != nil || !ok {
			break
		}
	}
	if n > maxForwardRequests {
		t.Errorf("it went round %d times", n)
	}
	waitClosed(t, client)
	a.waitFor("its tunnel's end", func() bool { return a.state("edge", 22222) == 0 })
}

// Data for a channel that is not confirmed yet, and for one that was never
// opened, reaches nobody and stops nothing but its sender.
func TestDataBeforeConfirmation(t *testing.T) {
	key, other := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1)+line("other", other.PublicKey(), "", 2), nil)
	a.hold(other, 2)
	client := a.mustLogin(key)
	channels := client.HandleChannelOpen("forwarded-tcpip")
	if !forward(t, client, "", 1) {
		t.Fatal("the forward was refused")
	}
	target := a.waitUp("edge", 1)
	opened := make(chan registry.Stream, 1)
	go func() {
		stream, err := target.Open(t.Context())
		if err != nil {
			t.Errorf("opening the stream: %v", err)
		}
		opened <- stream
	}()
	nc := <-channels
	type data struct {
		ID   uint32 `sshtype:"94"`
		Data []byte
	}
	sendMessage(t, client, data{0, []byte("too early")})
	ch, reqs, err := nc.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if _, err := io.WriteString(ch, "in time"); err != nil {
		t.Fatal(err)
	}
	_ = ch.CloseWrite()
	stream := <-opened
	if got, err := io.ReadAll(stream); string(got) != "in time" || err != nil {
		t.Errorf("the stream carried %q, %v", got, err)
	}
	sendMessage(t, client, data{77, []byte("to nobody")})
	waitClosed(t, client)
	a.checkEcho("other", 2)
}

// What a device sends as a channel's stderr is dropped. Unread, it would use
// up the window and stall the channel.
func TestExtendedDataIsDropped(t *testing.T) {
	const size = 4 << 20 // twice the window
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	client := a.mustLogin(key)
	channels := client.HandleChannelOpen("forwarded-tcpip")
	go func() {
		ch, reqs, err := (<-channels).Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		_, _ = ch.Stderr().Write(make([]byte, size))
		_, _ = io.WriteString(ch, "data")
		_ = ch.Close()
	}()
	if !forward(t, client, "", 22222) {
		t.Fatal("the forward was refused")
	}
	stream := a.dial("edge", 22222)
	defer stream.Close()
	if got, err := io.ReadAll(stream); string(got) != "data" || err != nil {
		t.Errorf("the stream carried %q, %v", got, err)
	}
}

// sendMessage sends a message past the library's own state, as an attacker
// would.
func sendMessage(t *testing.T, client *ssh.Client, message any) {
	t.Helper()
	if err := muxSendMessage(muxOf(client), message); err != nil {
		t.Fatal(err)
	}
}

func muxOf(client *ssh.Client) unsafe.Pointer {
	return reflect.ValueOf(client.Conn).Elem().FieldByName("mux").UnsafePointer()
}

//go:linkname muxSendMessage golang.org/x/crypto/ssh.(*mux).sendMessage
func muxSendMessage(mux unsafe.Pointer, message any) error
