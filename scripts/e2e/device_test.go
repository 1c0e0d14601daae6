package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// tunnel is a device's `ssh -N -R`: OpenSSH's own client, connected to the acceptor.
type tunnel struct {
	*process
}

// openTunnel runs exactly the line that the README gives to a device,
//
//	ssh -N -R FORWARD agent@gateway -p PORT
//
// and returns once the forward is granted. What else a device needs (its key,
// the acceptor's host key, a log that tells of the grant) stands in the
// client's configuration file.
func openTunnel(t *testing.T, a *acceptor, k key, forward string) *tunnel {
	t.Helper()
	tn := dialTunnel(t, a, k, forward)
	tn.waitGranted(t)
	return tn
}

// dialTunnel is openTunnel without waiting for the grant.
func dialTunnel(t *testing.T, a *acceptor, k key, forward string) *tunnel {
	t.Helper()
	return &tunnel{startCmd(t, sshClient(t, a, k, "-N", "-R", forward, "agent@127.0.0.1", "-p", fmt.Sprint(a.port)))}
}

// waitGranted returns when the client has read the acceptor's yes.
func (tn *tunnel) waitGranted(t *testing.T) {
	t.Helper()
	tn.waitFor(t, "debug1: remote forward success for: listen ")
}

// stop ends the client. OpenSSH 9.2 sleeps on through a signal that arrives
// between two polls, until its next keepalive, so the signal is repeated.
func (tn *tunnel) stop(t *testing.T, sig os.Signal) {
	t.Helper()
	eventually(t, soon, "ssh ends", func() error {
		if tn.ended() {
			return nil
		}
		return errors.Join(tn.cmd.Process.Signal(sig), errors.New("still there"))
	})
}

// sshClient is OpenSSH's client as a device would set it up: it trusts the
// acceptor's host key and nothing else, and offers the key k and nothing else.
func sshClient(t *testing.T, a *acceptor, k key, args ...string) *exec.Cmd {
	t.Helper()
	config := writeSSHConfig(t, t.TempDir(), a, k, "LogLevel DEBUG1", "ExitOnForwardFailure yes")
	return exec.Command("ssh", append([]string{"-F", config}, args...)...)
}

// writeSSHConfig writes a client configuration and the known_hosts beside it.
func writeSSHConfig(t *testing.T, dir string, a *acceptor, k key, extra ...string) string {
	t.Helper()
	knownHosts := filepath.Join(dir, "known_hosts")
	write(t, knownHosts, lines(a.known()), 0o600)
	config := filepath.Join(dir, "ssh_config")
	write(t, config, lines(append(extra,
		"IdentityFile "+k.path,
		"IdentitiesOnly yes",
		"IdentityAgent none",
		"UserKnownHostsFile "+knownHosts,
		"GlobalKnownHostsFile /dev/null",
		"StrictHostKeyChecking yes",
		"BatchMode yes",
		"ServerAliveInterval 15",
	)...), 0o600)
	return config
}

// toSSHD is the forward specification of a device whose sshd is s: the port
// that the gateway sees (with a bind address before it where there is one),
// and the device's own SSH port.
func toSSHD(bind string, s *sshd) string {
	return fmt.Sprintf("%s:localhost:%d", bind, s.port)
}
