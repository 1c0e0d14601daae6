package e2e

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Two clients of one daemon: what they ask at the same time is answered to
// each, and they share the warm connection.
func TestTwoClientsAtOnce(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	g.frontend.serve(t)
	clients := []*client{g.frontend.attach(t), g.frontend.attach(t)}
	eventually(t, soon, "the tunnel device works", func() error { return errorOf(clients[0].works(t, tunnelDevice)) })
	if run := clients[1].mustWork(t, tunnelDevice); run.Connect != "reused" {
		t.Errorf("the second client's first run: connect %q, want reused", run.Connect)
	}

	const runs = 10
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for n := range runs {
				said := fmt.Sprintf("client %d run %d", i, n)
				run, err := c.try(t.Context(), []string{directDevice, tunnelDevice}[n%2], "echo "+said)
				if err == nil {
					err = errorOf(run.Error)
				}
				if err == nil && run.Stdout != said+"\n" {
					err = fmt.Errorf("%s: got the answer %q", said, run.Stdout)
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// A client that leaves, or is killed, does not disturb the other.
func TestOneClientLeaves(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	daemon := f.serve(t)
	stays, leaves, killed := f.attach(t), f.attach(t), f.attach(t)

	m := newMarked(t)
	go func() { // it is never answered
		_, _ = killed.try(t.Context(), directDevice, "sleep "+m.number)
	}()
	m.running(t)
	killed.signal(t, syscall.SIGKILL)
	m.gone(t)
	stays.mustWork(t, directDevice)

	leaves.mustWork(t, directDevice)
	if err := leaves.Close(); err != nil {
		t.Errorf("attach ended with: %v", err)
	}
	stays.mustWork(t, directDevice)
	if daemon.ended() {
		t.Error("the daemon ended")
	}
}

// Every protocol generation that the SDK speaks, also on the daemon.
func TestProtocolVersions(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	f.serve(t)
	for _, version := range []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"} {
		for _, command := range []string{"stdio", "attach"} {
			t.Run(version+" "+command, func(t *testing.T) {
				c := connect(t, f.command(command), version)
				if got := c.InitializeResult().ProtocolVersion; version < "2026" && got != version {
					t.Errorf("asked for %s, the server chose %s", version, got)
				}
				c.mustWork(t, directDevice)
			})
		}
	}
}

func TestToolsList(t *testing.T) {
	t.Parallel()
	f := newFrontend(t, "")
	list, err := f.stdio(t).ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	before := ""
	for _, tool := range list.Tools {
		seen[tool.Name] = true
		if tool.Name <= before {
			t.Errorf("%s stands after %s: the list is not ordered", tool.Name, before)
		}
		before = tool.Name
		if tool.Title == "" || tool.Description == "" || tool.InputSchema == nil || tool.OutputSchema == nil || tool.Annotations == nil {
			t.Errorf("%s: title, description, a schema or the annotations are missing", tool.Name)
		}
	}
	if !seen["ssh_list_devices"] || !seen["ssh_run"] {
		t.Errorf("ssh_list_devices or ssh_run is missing: %v", seen)
	}
}

// attach without a daemon says so, on stderr only.
func TestAttachWithoutDaemon(t *testing.T) {
	t.Parallel()
	f := newFrontend(t, "")
	start := time.Now()
	p := startCmd(t, f.command("attach"))
	if code := p.wait(t, 3*soon); code != 1 {
		t.Errorf("attach ended with %d after %v, want 1", code, time.Since(start))
	}
	if out := read(t, p.stdout); out != "" {
		t.Errorf("stdout: %q", out)
	}
	if said := read(t, p.stderr); said == "" {
		t.Error("it said nothing")
	} else {
		noStackTrace(t, said)
	}
}
