package e2e

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// trust is how an operator comes to a known_hosts line, through the tunnel too.
func TestTrust(t *testing.T) {
	t.Parallel()
	for name, through := range map[string]bool{"direct": false, "tunnel": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			device, server := directDevice, g.direct
			if through {
				device, server = tunnelDevice, g.behind
				g.openTunnel(t)
				eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })
			}
			f := g.frontend
			f.known = nil // the operator has not looked at any host key yet
			for _, e := range f.entries {
				e["retry"] = map[string]any{"cooldown_s": 1} // so that trust helps at once
			}
			f.write(t)
			c := f.stdio(t)
			c.run(t, device, "true").refused(t, "HOST_KEY_UNKNOWN")

			t.Run("prints", func(t *testing.T) {
				done := runCmd(t, f.command("trust", device))
				if done.code != 0 {
					t.Fatalf("exit code %d: %s", done.code, done.stderr)
				}
				if !strings.Contains(done.stderr, server.hostKey.fingerprint) {
					t.Errorf("stderr does not have %s:\n%s", server.hostKey.fingerprint, done.stderr)
				}
				checkKnownHosts(t, done.stdout, server.hostKey)
				if read(t, f.knownHosts) != "\n" {
					t.Error("known_hosts was written without --write")
				}
				// The printed lines are all that it takes.
				write(t, f.knownHosts, done.stdout, 0o600)
				eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, device)) })
			})
			t.Run("another fingerprint", func(t *testing.T) {
				write(t, f.knownHosts, "", 0o600)
				done := runCmd(t, f.command("trust", device, "--fingerprint", newKey(t).fingerprint, "--write"))
				if done.code != 1 || !strings.Contains(done.stderr, server.hostKey.fingerprint) {
					t.Errorf("exit code %d, want 1; stderr:\n%s", done.code, done.stderr)
				}
				if got := read(t, f.knownHosts); got != "" {
					t.Errorf("known_hosts was written: %q", got)
				}
				noStackTrace(t, done.stderr)
			})
			t.Run("writes", func(t *testing.T) {
				other := "other.example " + newKey(t).public
				write(t, f.knownHosts, lines(other), 0o600)
				done := runCmd(t, f.command("trust", device, "--fingerprint", server.hostKey.fingerprint, "--write"))
				if done.code != 0 {
					t.Fatalf("exit code %d: %s", done.code, done.stderr)
				}
				added, kept := strings.CutPrefix(read(t, f.knownHosts), lines(other))
				if !kept {
					t.Fatalf("what was there is gone: %q", read(t, f.knownHosts))
				}
				checkKnownHosts(t, added, server.hostKey)
				// A client that starts now, so that no warm connection can hide a bad line.
				eventually(t, soon, "the device works", func() error { return errorOf(f.stdio(t).works(t, device)) })
			})
			t.Run("unknown device", func(t *testing.T) {
				done := runCmd(t, f.command("trust", "edge-vm-l"))
				if done.code != 1 || !strings.Contains(done.stderr, directDevice) || done.stdout != "" {
					t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and the nearest names", done.code, done.stdout, done.stderr)
				}
				noStackTrace(t, done.stderr)
			})
		})
	}
}

func TestTrustWithoutDevice(t *testing.T) {
	t.Parallel()
	g := newGateway(t) // its tunnel stays down
	done := runCmd(t, g.frontend.command("trust", tunnelDevice))
	if done.code != 1 || done.stdout != "" || done.stderr == "" {
		t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and a reason", done.code, done.stdout, done.stderr)
	}
	noStackTrace(t, done.stderr)
}

// checkKnownHosts checks that the text is known_hosts lines, one of which has the key.
func checkKnownHosts(t *testing.T, text string, k key) {
	t.Helper()
	found := false
	for rest := []byte(text); ; {
		_, hosts, public, _, next, err := ssh.ParseKnownHosts(rest)
		if err != nil {
			break // io.EOF at the end; a line that is none shows as a key not found
		}
		found = found || len(hosts) > 0 && ssh.FingerprintSHA256(public) == k.fingerprint
		rest = next
	}
	if !found {
		t.Errorf("no known_hosts line with the host key %s in:\n%s", k.fingerprint, text)
	}
}
