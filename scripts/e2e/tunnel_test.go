package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// atOnce is the contract's "within a second", for a tunnel that comes or goes.
const atOnce = time.Second

// Not parallel: the one test that measures against a second has the machine to itself.
func TestTunnelComesAndGoes(t *testing.T) {
	g := newGateway(t)
	c := g.frontend.stdio(t)

	stateIs := func(want string) func() error {
		return func() error {
			if got := c.devices(t)[tunnelDevice]; got.State != want {
				return fmt.Errorf("ssh_list_devices says %+v, want %s", got, want)
			}
			return nil
		}
	}
	isUp := func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) }
	isGone := func() error { return g.acceptor.gone(t, tunnelDevice, tunnelPort) }

	eventually(t, soon, "the device is known to be down", stateIs("down"))
	c.run(t, tunnelDevice, "uname -a").refused(t, "TUNNEL_DOWN")

	for name, sig := range map[string]os.Signal{"SIGKILL": syscall.SIGKILL, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			tn := g.openTunnel(t)
			granted := time.Now()
			eventually(t, atOnce, "list shows the tunnel", isUp)
			eventually(t, atOnce-time.Since(granted), "ssh_list_devices shows the tunnel", stateIs("up"))

			run := c.run(t, tunnelDevice, "uname -a")
			run.exited(t, 0)
			if want := string(output(t, "uname", "-a")); run.Stdout != want {
				t.Errorf("stdout: got %q, want this machine's own %q", run.Stdout, want)
			}
			if !strings.Contains(run.Via, "tunnel") || run.Device != tunnelDevice || run.Connect != "new" {
				t.Errorf("via %q, device %q, connect %q; want a tunnel, %s, new", run.Via, run.Device, run.Connect, tunnelDevice)
			}
			if again := c.mustWork(t, tunnelDevice); again.Connect != "reused" {
				t.Errorf("second run: connect %q, want reused", again.Connect)
			}

			tn.stop(t, sig)
			ended := time.Now()
			eventually(t, atOnce, "list shows the tunnel no more", isGone)
			eventually(t, atOnce-time.Since(ended), "ssh_list_devices shows the tunnel as down", stateIs("down"))
			c.run(t, tunnelDevice, "uname -a").refused(t, "TUNNEL_DOWN")
		})
	}
}

// The bind address of -R is a label: all of these are the one slot for the port.
func TestTunnelBindAddresses(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := g.frontend.stdio(t)
	for _, bind := range []string{"22222", "0", "*:22222", "[::1]:22222", "127.0.0.1:22222", "localhost:22222", ":22222", "*:0", "127.0.0.1:0"} {
		t.Run(bind, func(t *testing.T) {
			tn := openTunnel(t, g.acceptor, g.deviceKey, toSSHD(bind, g.behind))
			if log := read(t, tn.stderr); strings.HasSuffix(bind, "0") && !strings.Contains(log, "Allocated port 22222 for remote forward to localhost:") {
				t.Errorf("port 0: the client was not told 22222:\n%s", log)
			}
			eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })
			eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
			tn.stop(t, syscall.SIGTERM)
			eventually(t, soon, "the tunnel is gone", func() error { return g.acceptor.gone(t, tunnelDevice, tunnelPort) })
		})
	}
}

// connections.json may name the device instead of the loopback address, and
// known_hosts the address and port instead of the device.
func TestTunnelNames(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	byName := tunnelEntry("by-name", tunnelPort, logins[0])
	byName["host"] = tunnelDevice
	g.frontend.add(t, byName, g.userKey, g.behind.knownAs("by-name"))
	g.frontend.add(t, tunnelEntry("by-address", tunnelPort, logins[0]), g.userKey, g.behind.knownAs("[127.0.0.1]:22222"))
	c := g.frontend.stdio(t)
	g.openTunnel(t)
	for _, device := range []string{tunnelDevice, "by-name", "by-address"} {
		eventually(t, soon, device+" works", func() error { return errorOf(c.works(t, device)) })
	}
}

// A client that stays connected but answers nothing is gone after interval × count.
func TestSilentDeviceIsGone(t *testing.T) {
	t.Parallel()
	k, server := newKey(t), startSSHD(t, newKey(t))
	a := newAcceptor(t, grant(tunnelDevice, k, tunnelPort))
	a.extra = []string{"--client-alive-interval", "1s", "--client-alive-count-max", "2"}
	a.start(t)
	tn := openTunnel(t, a, k, toSSHD("22222", server))
	eventually(t, soon, "the tunnel is up", func() error { return a.up(t, tunnelDevice, tunnelPort) })
	freeze(t, tn.process)
	eventually(t, soon, "the silent tunnel is gone", func() error { return a.gone(t, tunnelDevice, tunnelPort) })
}

// A device that comes back while its old session lingers has its port at once.
func TestTakeover(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := g.frontend.stdio(t)
	old := g.openTunnel(t)
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })

	freeze(t, old.process) // as a device whose link broke
	openTunnel(t, g.acceptor, g.deviceKey, toSSHD("22222", g.behind))
	eventually(t, 5*time.Second, "the device works through its new session", func() error { return errorOf(c.works(t, tunnelDevice)) })
	if old.ended() {
		t.Error("the old client ended while it was stopped")
	}
	old.signal(t, syscall.SIGCONT)
	if code := old.wait(t, soon); code != 255 {
		t.Errorf("the old client ended with %d, want 255", code)
	}
	c.mustWork(t, tunnelDevice)
}

// freeze stops the process, and lets it go on when the test ends so that it can end.
func freeze(t *testing.T, p *process) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) })
}

// errorOf returns a tool's error as a Go error.
func errorOf(e *toolError) error {
	if e == nil {
		return nil
	}
	return errors.New(e.Code + ": " + e.Message)
}
