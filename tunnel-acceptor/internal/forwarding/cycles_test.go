package forwarding

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// soak says whether the long variants of the tests are asked for.
func soak() bool { return os.Getenv("GATEWAY_SOAK") == "1" }

// Devices that come and go for ever lose no port and leave nothing behind:
// gliderlabs' own handler loses a port for good after 10 to 26 of these cycles.
// A third of the goodbyes is a cancel first, a third only the connection's end,
// and a third comes after the next login.
func TestReconnectCycles(t *testing.T) {
	const devices = 8
	cycles := 40
	if soak() {
		cycles = 1250 // 10,000 in all
	}
	keys := make([]testKey, devices)
	var lines strings.Builder
	for i := range keys {
		keys[i] = newKey(t)
		lines.WriteString(line(fmt.Sprintf("edge-%d", i), keys[i].PublicKey(), "", uint16(1000+i)))
	}
	a := start(t, lines.String(), nil)
	a.server.takeovers.window = 0 // one who overlaps is no clone here
	a.mustLogin(keys[0]).Close()
	a.event("session_closed")
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	began := time.Now()
	var group sync.WaitGroup
	for i := range devices {
		group.Go(func() {
			device, port := fmt.Sprintf("edge-%d", i), uint16(1000+i)
			var last *ssh.Client
			for n := range cycles {
				client, err := ssh.Dial("tcp", a.addr, a.clientConfig("agent", keys[i]))
				if err != nil {
					t.Errorf("%s, cycle %d: %v", device, n, err)
					return
				}
				go echo(client.HandleChannelOpen("forwarded-tcpip"))
				if !forward(t, client, "localhost", uint32(port)) {
					t.Errorf("%s, cycle %d: the forward was refused", device, n)
					return
				}
				if last != nil {
					_ = last.Close()
					last = nil
				}
				if n%10 == 0 && !echoes(a, device, port) {
					t.Errorf("%s, cycle %d: the tunnel carries nothing", device, n)
					return
				}
				switch n % 3 {
				case 0:
					cancel(t, client, "localhost", uint32(port))
					_ = client.Close()
				case 1:
					_ = client.Close()
				case 2:
					last = client
				}
			}
			if last != nil {
				_ = last.Close()
			}
		})
	}
	group.Wait()
	t.Logf("%d cycles in %v", devices*cycles, time.Since(began))
	a.waitFor("all to be down", func() bool { return len(a.registry.List().Tunnels) == 0 })
	a.waitFor("goroutines and files to be as before", func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && openFiles(t) <= files
	})
	for i, key := range keys { // every port can still be had
		a.hold(key, uint16(1000+i))
		a.checkEcho(fmt.Sprintf("edge-%d", i), uint16(1000+i))
	}
	if pending, loggedIn := a.server.Counts(); pending != 0 || loggedIn != devices {
		t.Errorf("%d connections before and %d after their login are counted", pending, loggedIn)
	}
}

// A device that asks for its forward and is gone before the answer, which it
// did not want anyway, leaves no tunnel that seems to be up.
func TestForwardOfOneWhoHasLeft(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	for n := range 300 {
		client, err := ssh.Dial("tcp", a.addr, a.clientConfig("agent", key))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = client.SendRequest("tcpip-forward", false, ssh.Marshal(forwardRequest{"", 22222}))
		if err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
		a.waitFor("its end", func() bool { return len(a.named("session_closed")) == n+1 })
	}
	a.stop() // and with it all that still ran
	if got := a.registry.List().Tunnels; len(got) != 0 {
		t.Errorf("up: %+v", got)
	}
}

// echoes says whether the tunnel that is up carries bytes. The one that is
// there may be the former one of the device, which is on its way out.
func echoes(a *acceptor, device string, port uint16) bool {
	for range 100 {
		if target, err := a.registry.Find(device, port, 0); err == nil {
			if stream, err := target.Open(a.t.Context()); err == nil {
				_, err = stream.Write([]byte("x"))
				n, _ := stream.Read(make([]byte, 1))
				_ = stream.Close()
				if err == nil && n == 1 {
					return true
				}
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	return false
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
