package e2e

import (
	"fmt"
	"testing"
)

// No TCP port is ever listened on for a tunnel.
func TestOneListeningSocket(t *testing.T) {
	t.Parallel()
	const devices = 10
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	names, keys, grants := make([]string, devices), make([]key, devices), make([]string, devices)
	for i := range devices {
		names[i], keys[i] = fmt.Sprintf("edge-%02d", i), newKey(t)
		grants[i] = grant(names[i], keys[i], 23000+i)
	}
	a := startAcceptor(t, grants...)
	f := newFrontend(t, a.runDir)

	var tunnels []*tunnel
	for i := range devices {
		tunnels = append(tunnels, dialTunnel(t, a, keys[i], toSSHD(fmt.Sprint(23000+i), server)))
		f.addTunnel(t, names[i], 23000+i, server, logins[0], userKey)
	}
	for i, tn := range tunnels {
		tn.waitGranted(t)
		eventually(t, soon, "every tunnel is up", func() error { return a.up(t, names[i], 23000+i) })
	}
	c := f.stdio(t)
	for _, name := range names {
		c.mustWork(t, name)
	}

	want := fmt.Sprintf("0100007F:%04X", a.port) // 127.0.0.1 as /proc writes it
	if got := listeningTCP(t, a.cmd.Process.Pid); len(got) != 1 || got[0] != want {
		t.Errorf("tunnel-acceptor listens on %v, want only %s", got, want)
	}
	if got := listeningTCP(t, c.server.Process.Pid); len(got) != 0 {
		t.Errorf("mcp-frontend listens on %v, want nothing", got)
	}
}
