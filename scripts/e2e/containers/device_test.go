package containers

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Names of the README's two devices.
const (
	directDevice = "edge-vm-1"
	tunnelDevice = "edge-vm-2"
)

// devices are two containers of Debian with OpenSSH on networks of their own:
// one behind NAT, that comes in through a tunnel, and one that the frontend
// reaches directly. Their image is the demo's; their keys are exchanged by hand.
type devices struct {
	image, label     string
	tunnel, direct   string // container ids
	hostKey          string // path of the private key; both have the same one
	tunnelKey        string // path
	network, gateway string // of the device behind NAT, and this machine's address there
}

// prepareDevices makes the network and the keys, as the devices' owner does.
func prepareDevices(t *testing.T, project, version string) *devices {
	t.Helper()
	d := &devices{image: "mcp-ssh-gateway/demo-device:" + version, label: project, network: project + "-devices"}
	docker(t, "network", "create", "--label", project, d.network)
	d.gateway = docker(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", d.network)
	dir := t.TempDir()
	d.hostKey, d.tunnelKey = filepath.Join(dir, "host_key"), filepath.Join(dir, "tunnel_key")
	for _, path := range []string{d.hostKey, d.tunnelKey} {
		must(t, exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", tunnelDevice, "-f", path))
	}
	return d
}

// start starts both devices. They know the gateway by its host key, and let its
// client key in.
func (d *devices) start(t *testing.T, p *pair, hostKey, gatewayKey string) {
	t.Helper()
	files := t.TempDir()
	for _, key := range []string{d.hostKey, d.tunnelKey} {
		must(t, exec.CommandContext(t.Context(), "cp", "-p", key, files))
	}
	write(t, filepath.Join(files, "known_hosts"), fmt.Sprintf("[gateway]:%s %s\n", p.port, hostKey))
	write(t, filepath.Join(files, "authorized_keys"), `restrict,from="127.0.0.1,::1" `+gatewayKey+"\n")
	d.tunnel = d.create(t, files, d.network, "--add-host", "gateway:"+d.gateway, d.image, "device", "gateway", p.port)

	write(t, filepath.Join(files, "authorized_keys"), "restrict "+gatewayKey+"\n")
	d.direct = d.create(t, files, p.project+"_egress", d.image, "/usr/sbin/sshd", "-D", "-e", "-h", "/device/host_key",
		"-o", "AuthorizedKeysFile=/device/authorized_keys", "-o", "PasswordAuthentication=no", "-o", "UsePAM=no")
}

// create starts a container with files, owned by root, in /device.
func (d *devices) create(t *testing.T, files, network string, args ...string) string {
	t.Helper()
	id := docker(t, append([]string{"create", "--label", d.label, "--network", network}, args...)...)
	docker(t, "cp", files, id+":/device")
	docker(t, "start", id)
	return id
}

// in runs a command line in a new container of the device image, with extra
// arguments of docker run.
func (d *devices) in(t *testing.T, args []string, line string) (string, error) {
	t.Helper()
	all := append([]string{"run", "--rm", "--label", d.label}, args...)
	return output(exec.CommandContext(t.Context(), "docker", append(all, d.image, "bash", "-c", line)...))
}

// processes counts the processes of a device whose command line contains text.
func (d *devices) processes(t *testing.T, id, text string) int {
	t.Helper()
	return strings.Count(docker(t, "top", id, "-eo", "pid,args"), text)
}
