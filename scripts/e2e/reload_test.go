package e2e

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

// Not parallel: it measures against a second.
func TestReloadRevokes(t *testing.T) {
	kept, revoked, added := newKey(t), newKey(t), newKey(t)
	server := startSSHD(t, newKey(t))
	a := startAcceptor(t, grant("kept", kept, 22001), grant("revoked", revoked, 22002))
	keptTunnel := openTunnel(t, a, kept, toSSHD("22001", server))
	revokedTunnel := openTunnel(t, a, revoked, toSSHD("22002", server))
	eventually(t, soon, "both are up", func() error {
		return errors.Join(a.up(t, "kept", 22001), a.up(t, "revoked", 22002))
	})

	a.reload(t, grant("kept", kept, 22001), grant("added", added, 22003))
	if code := revokedTunnel.wait(t, atOnce); code != 255 {
		t.Errorf("the revoked device's ssh ended with %d, want 255", code)
	}
	eventually(t, soon, "the revoked tunnel is gone", func() error { return a.gone(t, "revoked", 22002) })
	if err := loginError(t, a, revoked); err == nil {
		t.Error("the revoked key still logs in")
	}
	openTunnel(t, a, added, toSSHD("22003", server))
	if keptTunnel.ended() {
		t.Error("the kept device's ssh ended")
	}
	eventually(t, soon, "the others are up", func() error {
		return errors.Join(a.up(t, "kept", 22001), a.up(t, "added", 22003))
	})
}

// A device that keeps its key and loses its port is closed too.
func TestReloadMovesPort(t *testing.T) {
	t.Parallel()
	k, server := newKey(t), startSSHD(t, newKey(t))
	a := startAcceptor(t, grant("moved", k, 22001))
	old := openTunnel(t, a, k, toSSHD("22001", server))
	a.reload(t, grant("moved", k, 22002))
	if code := old.wait(t, soon); code != 255 {
		t.Errorf("ssh ended with %d, want 255", code)
	}
	openTunnel(t, a, k, toSSHD("22002", server))
	eventually(t, soon, "the new port is up", func() error {
		return errors.Join(a.up(t, "moved", 22002), a.gone(t, "moved", 22001))
	})
}

// The file is watched: an operator who forgets the signal is not left behind.
func TestReloadByFileChange(t *testing.T) {
	t.Parallel()
	k, server := newKey(t), startSSHD(t, newKey(t))
	early := newKey(t)
	a := startAcceptor(t, grant("early", early, 22002))
	openTunnel(t, a, early, toSSHD("22002", server))                                                // its live session keeps this source from being penalised
	write(t, a.authorizedKeys, lines(grant("early", early, 22002), grant("late", k, 22001)), 0o600) // no SIGHUP
	eventually(t, soon, "the key is taken", func() error { return loginError(t, a, k) })
	openTunnel(t, a, k, toSSHD("22001", server))
}

func TestBadReloadKeepsTheOldSet(t *testing.T) {
	t.Parallel()
	first, second := newKey(t), newKey(t)
	server := startSSHD(t, newKey(t))
	a := startAcceptor(t, grant("first", first, 22001))
	tn := openTunnel(t, a, first, toSSHD("22001", server))

	for name, bad := range map[string]string{
		"unreadable line":     "this is no key",
		"no restrict":         `port-forwarding,permitlisten="22002" ` + second.public + " second",
		"a port for two":      grant("second", second, 22001),
		"a key for two":       grant("second", first, 22002),
		"command":             `command="id",` + grant("second", second, 22002),
		"a name with a place": grant("pi@edge", second, 22002),
	} {
		t.Run(name, func(t *testing.T) {
			logged := len(a.logLines(t))
			a.reload(t, grant("first", first, 22001), "# the next line is bad", bad)
			eventually(t, soon, "the refusal is logged", func() error {
				for _, line := range a.logLines(t)[logged:] {
					if line["level"] == "ERROR" || line["level"] == "WARN" {
						return nil
					}
				}
				return errors.New("no warning and no error")
			})
			if err := loginError(t, a, second); err == nil {
				t.Error("a line of a refused file was taken")
			}
			if err := loginError(t, a, first); err != nil {
				t.Errorf("the old set is gone: %v", err)
			}
			if err := a.up(t, "first", 22001); err != nil || tn.ended() {
				t.Errorf("the first device's tunnel: %v", err)
			}
		})
	}
	if got := fmt.Sprint(a.authorizedKeys, ":3"); !containsLog(t, a.process, got) {
		t.Errorf("no log line has %s", got)
	}
	a.reload(t, grant("first", first, 22001), grant("second", second, 22002))
	eventually(t, soon, "a good file is taken again", func() error { return loginError(t, a, second) })
	noStackTrace(t, read(t, a.stderr))
	if code := a.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the acceptor ended with %d", code)
	}
}
