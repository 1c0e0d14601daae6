package e2e

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// promptly is how long an idle process may take to end: no drain has anything to wait for.
const promptly = 5 * time.Second

func TestGracefulStop(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(fmt.Sprint(sig), func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			tn := g.openTunnel(t)
			daemon := g.frontend.serve(t)
			c := g.frontend.attach(t)
			eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
			single := g.frontend.stdio(t)
			single.mustWork(t, directDevice)

			daemon.signal(t, sig)
			if code := daemon.wait(t, promptly); code != 0 {
				t.Errorf("mcp-frontend serve ended with %d", code)
			}
			if _, err := os.Stat(g.frontend.mcpSocket); err == nil {
				t.Errorf("mcp-frontend serve left %s behind", g.frontend.mcpSocket)
			}
			if _, err := c.try(t.Context(), directDevice, "true"); err == nil {
				t.Error("the attached client still gets answers")
			}
			single.mustWork(t, directDevice) // another process
			single.signal(t, sig)
			eventually(t, promptly, "mcp-frontend stdio ends", func() error {
				_, err := single.try(t.Context(), directDevice, "true")
				if err == nil {
					return fmt.Errorf("it still answers")
				}
				return nil
			})
			if err := single.Close(); err != nil {
				t.Errorf("mcp-frontend stdio: %v", err)
			}

			g.acceptor.signal(t, sig)
			if code := g.acceptor.wait(t, promptly); code != 0 {
				t.Errorf("tunnel-acceptor serve ended with %d", code)
			}
			if code := tn.wait(t, promptly); code != 255 {
				t.Errorf("the device's ssh ended with %d, want 255", code)
			}
			for _, p := range []*process{daemon, g.acceptor.process} {
				noStackTrace(t, read(t, p.stderr))
			}
		})
	}
}

// A run that is under way when the acceptor is told to stop finishes first.
func TestAcceptorDrains(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	c := g.frontend.stdio(t)
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })

	m := newMarked(t)
	type ended struct {
		run runResult
		err error
	}
	done := make(chan ended, 1)
	go func() {
		run, err := c.try(t.Context(), tunnelDevice, "timeout --preserve-status 2 sleep "+m.number+" || echo finished")
		done <- ended{run, err}
	}()
	m.running(t)
	g.acceptor.signal(t, syscall.SIGTERM)
	result := <-done
	if result.err != nil || result.run.Stdout != "finished\n" {
		t.Errorf("the run under way: %v, error %+v, stdout %q", result.err, result.run.Error, result.run.Stdout)
	}
	if code := g.acceptor.wait(t, soon); code != 0 {
		t.Errorf("tunnel-acceptor serve ended with %d", code)
	}
}

// A second daemon on the same sockets is refused, and the first goes on.
func TestSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.frontend.serve(t)
	second := runCmd(t, g.frontend.command("serve"))
	if second.code != 1 {
		t.Errorf("a second mcp-frontend serve ended with %d, want 1", second.code)
	}
	noStackTrace(t, second.stderr)
	g.frontend.attach(t).mustWork(t, directDevice)

	other := newAcceptor(t, g.grant())
	other.runDir = g.acceptor.runDir
	p := startCmd(t, other.command())
	if code := p.wait(t, soon); code != 1 {
		t.Errorf("a second tunnel-acceptor serve ended with %d, want 1", code)
	}
	noStackTrace(t, read(t, p.stderr))
	g.openTunnel(t)
	eventually(t, soon, "the first acceptor serves", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })
}

// Sockets that a killed process left behind do not keep the next one from starting.
func TestStaleSockets(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	daemon := g.frontend.serve(t)
	daemon.stop(t, syscall.SIGKILL)
	g.acceptor.stop(t, syscall.SIGKILL)
	g.acceptor.start(t)
	g.frontend.serve(t)
	g.openTunnel(t)
	c := g.frontend.attach(t)
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	readAudit(t, g.frontend.auditLog)
	readAudit(t, g.acceptor.auditLog)
}
