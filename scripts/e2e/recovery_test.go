package e2e

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

// The acceptor stops or dies and comes back: the frontend finds it again by itself.
func TestAcceptorRestarts(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]os.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			g.openTunnel(t)
			c := g.frontend.stdio(t)
			eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })

			g.acceptor.stop(t, sig)
			eventually(t, soon, "the frontend sees that it is gone", func() error {
				e := c.works(t, tunnelDevice)
				if e == nil {
					return errors.New("it still works")
				}
				if e.Code != "ACCEPTOR_DOWN" {
					return fmt.Errorf("want ACCEPTOR_DOWN, got %w", errorOf(e))
				}
				return nil
			})

			g.acceptor.listen = g.acceptor.address() // the port that the devices know
			g.acceptor.start(t)
			g.openTunnel(t) // the device's service manager starts its ssh again
			eventually(t, soon, "the device works again", func() error { return errorOf(c.works(t, tunnelDevice)) })
			c.mustWork(t, directDevice)
			readAudit(t, g.acceptor.auditLog) // one chain over the restart
		})
	}
}

// The frontend may start first. It serves what needs no acceptor meanwhile.
func TestFrontendStartsFirst(t *testing.T) {
	t.Parallel()
	userKey, deviceKey := newKey(t), newKey(t)
	direct, behind := startSSHD(t, userKey), startSSHD(t, userKey)
	a := newAcceptor(t, grant(tunnelDevice, deviceKey, tunnelPort))
	f := newFrontend(t, a.runDir)
	f.addDirect(t, directDevice, direct, logins[0], userKey)
	f.addTunnel(t, tunnelDevice, tunnelPort, behind, logins[0], userKey)

	c := f.stdio(t)
	c.mustWork(t, directDevice)
	c.run(t, tunnelDevice, "true").refused(t, "ACCEPTOR_DOWN")
	if state := c.devices(t)[tunnelDevice].State; state != "unknown" {
		t.Errorf("state: got %q before the acceptor was ever seen, want unknown", state)
	}
	c.mustWork(t, directDevice)

	a.start(t)
	openTunnel(t, a, deviceKey, toSSHD("22222", behind))
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
}

// A device's sshd goes away under a warm connection and comes back.
func TestDeviceRestarts(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	e := directEntry(directDevice, server, logins[0])
	e["retry"] = map[string]any{"max_attempts": 1, "initial_backoff_ms": 50, "max_backoff_ms": 100, "cooldown_s": 1}
	f.add(t, e, userKey, server.knownAtAddress())
	c := f.stdio(t)
	c.mustWork(t, directDevice)

	endWithChildren(t, server)
	eventually(t, soon, "the device is seen to be down", func() error {
		if e := c.works(t, directDevice); e == nil {
			return errors.New("it still works")
		}
		return nil
	})
	server.run(t, userKey)
	eventually(t, soon, "the device works again", func() error { return errorOf(c.works(t, directDevice)) })
}

// endWithChildren ends the server and the connections that it serves, as a reboot does.
func endWithChildren(t *testing.T, s *sshd) {
	t.Helper()
	children := childrenOf(t, s.cmd.Process.Pid)
	s.stop(t, syscall.SIGKILL)
	for _, pid := range children {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("ending the connection %d: %v", pid, err)
		}
	}
}
