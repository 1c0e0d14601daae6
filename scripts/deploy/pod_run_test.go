package deploy

import (
	"maps"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const tunnelDevice = `[{"name": "edge-vm-2", "mode": "tunnel", "user": "pi", "host": "127.0.0.1", "port": 22222, "id_file": "/data/keys/gateway.key"}]`

// The pair works on volumes as the kubelet makes them, keeps its keys over a
// restart, and lets nobody but the frontend at the acceptor's sockets.
func TestPodRuns(t *testing.T) {
	t.Parallel()
	c := base(t)
	acceptor, frontend := containerOf(t, c, "tunnel-acceptor"), containerOf(t, c, "mcp-frontend")
	c.configs["gateway-config"].Data["connections.json"] = tunnelDevice
	p := newPod(t, c)
	r := p.start(t, *p.spec.SecurityContext.FSGroupChangePolicy)
	r.healthy(t)

	sockets := r.modes(t, "volumes/sockets")
	for _, want := range []string{"750 65532:65532 acceptor\n", "660 65532:65532 acceptor/control.sock\n", "660 65532:65532 acceptor/dial.sock\n"} {
		if !strings.Contains(sockets, want) {
			t.Errorf("in the shared volume: want %q, got:\n%s", want, sockets)
		}
	}
	if got, want := r.modes(t, "volumes/frontend-run"), "600 65533:65532 mcp.sock\n600 65533:65532 operator.sock\n"; got != want {
		t.Errorf("in the frontend's run directory: got %q, want %q", got, want)
	}
	// The frontend is let in by the acceptor; another user of the group is not.
	eventually(t, func() string {
		said, err := r.exec(t, frontend, 65533, "trust", "edge-vm-2")
		if err == nil || !strings.Contains(said, "TUNNEL_DOWN") {
			return "asked for a device without a tunnel, the frontend says: " + said
		}
		return ""
	})
	if said, err := r.exec(t, acceptor, 65533, "list"); err != nil {
		t.Errorf("the frontend's user, asking the acceptor: %v %s", err, said)
	}
	if said, err := r.exec(t, acceptor, 65534, "list"); err == nil || !strings.Contains(said, "--allow-uid") {
		t.Errorf("another user of the group, asking the acceptor: %v %s", err, said)
	}

	hostKey, clientKey := r.keys(t)
	if codes := r.stop(t); codes != "exit 0 0" {
		t.Errorf("stopped by SIGTERM: %s\n%s\n%s", codes, p.log(t, "tunnel-acceptor"), p.log(t, "mcp-frontend"))
	}
	again := p.start(t, *p.spec.SecurityContext.FSGroupChangePolicy)
	again.healthy(t)
	if host, client := again.keys(t); host != hostKey || client != clientKey {
		t.Error("a restarted pod has other keys")
	}
	again.stop(t)

	// Why the manifests have fsGroupChangePolicy: by default, the kubelet would
	// make the keys readable by the group.
	bad := p.start(t, corev1.FSGroupChangeAlways)
	eventually(t, func() string {
		if log := p.log(t, "tunnel-acceptor"); !strings.Contains(log, "may be read by others (mode 0660)") {
			return "with keys readable by the group, the acceptor says: " + log
		}
		return ""
	})
	bad.stop(t)
}

func (r *running) keys(t *testing.T) (host, client string) {
	t.Helper()
	out, err := asRoot(t, "cat", filepath.Join(r.dir, "volumes/acceptor-data/acceptor/ssh_host_ed25519_key.pub")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, c := range r.spec.Containers {
		if c.Name == "mcp-frontend" {
			client, err = r.exec(t, c, 65533, "keys", "public", "gateway")
		}
	}
	if err != nil || !strings.HasPrefix(client, "ssh-ed25519 ") {
		t.Fatalf("keys public gateway: %v %s", err, client)
	}
	return string(out), client
}

// A key that comes from a Secret reaches the frontend through the init
// container, at the first start and at each further one.
func TestPodImportsKeyFromSecret(t *testing.T) {
	t.Parallel()
	c := overlay(t)
	maps.Copy(c.configs["gateway-config"].Data, base(t).configs["gateway-config"].Data)
	frontend := containerOf(t, c, "mcp-frontend")
	p := newPod(t, c)
	// Somebody else's key: the one that the frontend makes for itself elsewhere.
	made, err := asRoot(t, filepath.Join(binDir, "mcp-frontend"), "keys", "generate", "gateway", "--keys-dir", filepath.Join(p.dir, "volumes/client-key")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, made)
	}
	if out, err := asRoot(t, "rm", filepath.Join(p.dir, "volumes/client-key/gateway.key.pub")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 2 {
		r := p.start(t, *p.spec.SecurityContext.FSGroupChangePolicy)
		r.healthy(t)
		public, err := r.exec(t, frontend, 65533, "keys", "public", "gateway")
		if err != nil || strings.Fields(public)[1] != strings.Fields(string(made))[1] {
			t.Errorf("keys public gateway: %v %s, want the Secret's key %s", err, public, made)
		}
		r.stop(t)
	}
	if files := p.modes(t, "volumes/frontend-data"); strings.Contains(files, ".key") {
		t.Errorf("a key lies on the persistent volume:\n%s", files)
	}
}
