package e2e

import "testing"

// The devices of a gateway, named as in the README's example.
const (
	directDevice = "edge-vm-1"
	tunnelDevice = "edge-vm-2"
	tunnelPort   = 22222
)

// gateway is the usual whole: an acceptor, a device that is reached directly,
// a device behind a tunnel, and a frontend that knows both.
type gateway struct {
	acceptor  *acceptor
	frontend  *frontend
	userKey   key // the frontend's key to the devices
	deviceKey key // the tunnel device's key to the acceptor
	direct    *sshd
	behind    *sshd // the SSH server of the device behind the tunnel
	tunnel    *tunnel
}

// newGateway prepares all of it, with the tunnel down and the frontend not started.
func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{userKey: newKey(t), deviceKey: newKey(t)}
	g.direct = startSSHD(t, g.userKey)
	g.behind = startSSHD(t, g.userKey)
	g.acceptor = startAcceptor(t, g.grant())
	g.frontend = newFrontend(t, g.acceptor.runDir)
	g.frontend.addDirect(t, directDevice, g.direct, logins[0], g.userKey)
	g.frontend.addTunnel(t, tunnelDevice, tunnelPort, g.behind, logins[0], g.userKey)
	return g
}

// grant is the tunnel device's line in authorized_keys.
func (g *gateway) grant() string {
	return grant(tunnelDevice, g.deviceKey, tunnelPort)
}

// openTunnel brings the tunnel device's tunnel up.
func (g *gateway) openTunnel(t *testing.T) *tunnel {
	t.Helper()
	g.tunnel = openTunnel(t, g.acceptor, g.deviceKey, toSSHD("22222", g.behind))
	return g.tunnel
}
