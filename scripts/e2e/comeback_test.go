package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// awayFor is how long a device is away: 2 minutes in the long run.
func awayFor() time.Duration {
	if os.Getenv("GATEWAY_SOAK") == "1" {
		return 2 * time.Minute
	}
	return 3 * time.Second
}

// A device goes away, by its own will or because its link broke, and comes
// back. Calls fail fast meanwhile, and succeed within a second of its return.
// Not parallel: what is measured against a second has the machine to itself.
func TestDeviceComesBack(t *testing.T) {
	for name, leave := range map[string]func(*testing.T, *tunnel){
		"stopped": func(t *testing.T, tn *tunnel) { tn.stop(t, syscall.SIGTERM) },
		"frozen":  func(t *testing.T, tn *tunnel) { freeze(t, tn.process) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			g.acceptor.stop(t, syscall.SIGTERM)
			g.acceptor.extra = []string{"--client-alive-interval", "1s", "--client-alive-count-max", "2"}
			g.acceptor.start(t)
			tn := g.openTunnel(t)
			c := g.frontend.stdio(t)
			eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })

			leave(t, tn)
			eventually(t, 2*soon, "the device is known to be away", func() error {
				// What runs when the link breaks is stopped by its own time limit.
				return isAway(c.run(t, tunnelDevice, "true", args{"timeout_s": 1}).Error)
			})
			for gone := time.Now(); time.Since(gone) < awayFor(); <-time.After(100 * time.Millisecond) {
				began := time.Now()
				run := c.run(t, tunnelDevice, "true")
				if err := isAway(run.Error); err != nil || run.Executed != "no" {
					t.Fatalf("while it is away: executed %q, %v", run.Executed, err)
				}
				if took := time.Since(began); took > atOnce {
					t.Errorf("a call took %v to fail", took)
				}
			}
			if name == "frozen" {
				tn.stop(t, syscall.SIGKILL)
			}

			g.openTunnel(t)
			eventually(t, atOnce, "the device works again", func() error { return errorOf(c.works(t, tunnelDevice)) })
			c.mustWork(t, tunnelDevice)
		})
	}
}

func isAway(e *toolError) error {
	if e == nil {
		return errors.New("it works")
	}
	if e.Code != "TUNNEL_DOWN" && e.Code != "BACKING_OFF" {
		return fmt.Errorf("got %s: %s; want TUNNEL_DOWN or BACKING_OFF", e.Code, e.Message)
	}
	return nil
}

// The link of a device breaks before anybody notices, a call waits for the old
// tunnel, and the device is back with a new one: the call that waits and those
// that follow go through the new one at once, not after the old one's timeout.
func TestDeviceComesBackUnderACall(t *testing.T) {
	g := newGateway(t)
	old := g.openTunnel(t)
	eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })
	c := g.frontend.stdio(t)
	eventually(t, soon, "the frontend knows", func() error {
		if state := c.devices(t)[tunnelDevice].State; state != "up" {
			return fmt.Errorf("the device is %s", state)
		}
		return nil
	})
	freeze(t, old.process)
	ctx, cancel := context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	waiting := make(chan error, 1)
	go func() {
		run, err := c.try(ctx, tunnelDevice, "true")
		if err == nil {
			err = errorOf(run.Error)
		}
		waiting <- err
	}()
	select {
	case err := <-waiting:
		t.Fatalf("the call ended before the device was back: %v", err)
	case <-time.After(300 * time.Millisecond): // it dials
	}
	openTunnel(t, g.acceptor, g.deviceKey, toSSHD("22222", g.behind))
	back := time.Now()
	eventually(t, atOnce, "the device works again", func() error { return errorOf(c.works(t, tunnelDevice)) })
	if err := <-waiting; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
	if took := time.Since(back); took > 2*atOnce {
		t.Errorf("the call that waited took %v after the device was back", took)
	}
}
