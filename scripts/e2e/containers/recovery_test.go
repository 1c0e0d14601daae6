package containers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// recovery is the time within which an agent's next command must work again
// after a container was restarted: DESIGN promises it.
const recovery = 5 * time.Second

// disruption is one way in which an operator, or fate, restarts a container.
type disruption struct {
	name string
	// do returns when the container runs again.
	do func(t *testing.T, p *pair, d *devices, service string) error
}

// Two of an impatient operator, who does not wait for the end of a drain.
var disruptions = []disruption{
	{"docker restart -t 1", func(t *testing.T, p *pair, _ *devices, service string) error {
		_, err := output(exec.CommandContext(t.Context(), "docker", "restart", "-t", "1", p.id(t, service)))
		return err
	}},
	// Not docker kill, after which the engine holds that somebody wanted the container to be down.
	{"crash", func(t *testing.T, p *pair, d *devices, service string) error {
		before := p.inspect(t, service).State
		if _, err := d.in(t, []string{"--pid", "host", "--network", "none"}, fmt.Sprintf("kill -KILL %d", before.Pid)); err != nil {
			return err
		}
		eventually(t, soon, "the engine has started it again", func() error {
			if now := p.inspect(t, service).State; now.Pid == 0 || now.Pid == before.Pid {
				return errors.New("not yet")
			}
			return nil
		})
		return nil
	}},
	{"compose up --force-recreate -t 1", func(t *testing.T, p *pair, _ *devices, service string) error {
		_, err := output(p.command(t, "up", "-d", "--no-deps", "--force-recreate", "-t", "1", service))
		return err
	}},
}

// Either container is restarted, in either order. An attached client stays
// through all that happens to the acceptor, and sees errors that it may retry.
// With the frontend its own process ends, as that runs in the container: then
// the client is back as soon as it attaches again.
func (p *pair) testRecovery(t *testing.T, d *devices, clientCommand []string) {
	for i, disruption := range disruptions {
		order := []string{acceptor, frontend}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, service := range order {
			what := disruption.name + " of " + service
			c := p.mustAttach(t, clientCommand)
			c.mustRun(t, tunnelDevice, "true")
			act := func() error { return disruption.do(t, p, d, service) }
			if service == acceptor {
				p.rideOut(t, c, what, act)
				continue
			}
			if err := act(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			p.comeBack(t, clientCommand, what)
		}
	}
}

// rideOut does act while an attached client keeps running commands. After act a
// command must work within the recovery time.
func (p *pair) rideOut(t *testing.T, c *client, what string, act func() error) {
	t.Helper()
	acted := make(chan error, 1)
	go func() { acted <- act() }()
	var done time.Time // when act returned
	seen := map[string]int{}
	for {
		result, err := c.run(t.Context(), tunnelDevice, "true")
		if err != nil {
			t.Fatalf("%s ended the session of an attached client: %v", what, err)
		}
		failure := result.failure()
		if failure == nil && !done.IsZero() {
			t.Logf("%s: the next command worked after %v; errors seen meanwhile: %v", what, time.Since(done).Round(time.Millisecond), seen)
			return
		}
		if failure != nil {
			// A command that was under way may have run: only that is not to be repeated blindly.
			underWay := result.Error != nil && result.Error.Code == "CONNECTION_LOST" && result.Executed != "no"
			if !underWay && (result.Error == nil || !result.Error.Retriable) {
				t.Fatalf("%s: an attached client sees more than a retriable error: %v", what, failure)
			}
			seen[result.Error.Code]++
		}
		if !done.IsZero() && time.Since(done) > recovery {
			t.Fatalf("%s: no command works %v later: %v", what, recovery, failure)
		}
		select {
		case err := <-acted:
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			done, acted = time.Now(), nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// comeBack attaches anew until a command works.
func (p *pair) comeBack(t *testing.T, clientCommand []string, what string) {
	t.Helper()
	took := eventually(t, recovery, what+": a new client's command works", func() error {
		c, err := p.attach(t, clientCommand)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		result, err := c.run(ctx, tunnelDevice, "true")
		return errors.Join(err, result.failure())
	})
	t.Logf("%s: a new client's command worked after %v", what, took.Round(time.Millisecond))
}

// A newer acceptor is put in its place: the devices find the same host key, and
// an attached client and the frontend stay as they are.
func (p *pair) testUpgrade(t *testing.T, clientCommand []string) {
	hostKey, frontendID := p.hostKey(t), p.id(t, frontend)
	c := p.mustAttach(t, clientCommand)
	c.mustRun(t, tunnelDevice, "true")
	p.version += "-2"
	// Without -t: the old one drains.
	p.rideOut(t, c, "upgrade of the acceptor", func() error {
		_, err := output(p.command(t, "up", "-d", "--build", "--no-deps", acceptor))
		return err
	})
	if got := p.compose(t, "exec", "-T", acceptor, "/tunnel-acceptor", "--version"); got == "" || !containsWord(got, p.version) {
		t.Errorf("the acceptor's version is %q, want %s", got, p.version)
	}
	if got := p.hostKey(t); got != hostKey {
		t.Errorf("a newer acceptor has another host key: %s, before %s", got, hostKey)
	}
	if got := p.id(t, frontend); got != frontendID {
		t.Error("the frontend's container is another one")
	}
}
