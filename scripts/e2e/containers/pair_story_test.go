package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// One deployment from the fresh clone to the end: each step finds what the one
// before left, so the first that fails ends it.
func TestPair(t *testing.T) {
	t.Parallel()
	project := testProject(t)
	m := openManual(t)
	p := newPair(project)
	d := prepareDevices(t, project, p.version)
	p.bind, p.port = d.gateway, freePort(t, d.gateway)
	clientCommand := m.clientCommand(t)
	config := filepath.Join(t.TempDir(), "config")

	for _, step := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"fresh clone", func(t *testing.T) { must(t, p.shell(t, m.line(t, "compose/compose.yaml up --build")+" --wait")) }},
		{"images", p.testImages},
		{"key files", p.testKeyFiles},
		{"confinement", func(t *testing.T) { p.testConfinement(t, clientCommand) }},
		{"reachable", p.testReachable},
		{"onboarding", func(t *testing.T) { p.testOnboarding(t, m, d, config) }},
		{"devices", func(t *testing.T) { p.testDevices(t, d, clientCommand) }},
		{"no way out", func(t *testing.T) { p.testNoWayOut(t, d) }},
		{"killed client", func(t *testing.T) { p.testKilledClient(t, d, clientCommand) }},
		{"recovery", func(t *testing.T) { p.testRecovery(t, d, clientCommand) }},
		{"upgrade", func(t *testing.T) { p.testUpgrade(t, clientCommand) }},
		{"tunnel-only", func(t *testing.T) { p.testTunnelOnly(t, clientCommand) }},
		{"graceful stop", p.testStop},
		{"audit", p.testTrails},
	} {
		if !t.Run(step.name, step.run) {
			t.Fatal("the steps after this one were not run")
		}
	}
	m.allRun(t, compositionOfPair)
}

// freePort is a port of this machine below the ephemeral ones: a restarted
// container must find it free again.
func freePort(t *testing.T, address string) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(address, port))
		if err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("no free port found")
	return ""
}

// The README's five steps, as an operator and a device's owner do them.
func (p *pair) testOnboarding(t *testing.T, m *manual, d *devices, config string) {
	hostKey, gatewayKey := p.hostKey(t), p.gatewayKey(t)
	if logs := must(t, p.shell(t, m.line(t, "logs tunnel-acceptor"))); !strings.Contains(logs, hostKey) {
		t.Errorf("the acceptor's log does not show its host key %s:\n%s", hostKey, logs)
	}
	printed := must(t, p.shell(t, m.line(t, "keys public gateway")))
	if !strings.HasPrefix(printed, gatewayKey+" ") {
		t.Errorf("keys public prints %q, want the key %q", printed, gatewayKey)
	}
	if waiting := must(t, p.shell(t, m.line(t, "/mcp-frontend approvals"))); strings.TrimSpace(waiting) != "nothing waits for an operator" {
		t.Errorf("approvals prints %q", waiting)
	}

	// A copy of compose/config, because the repository's own is not ours to change: so other mounts, and new containers.
	p.config = config
	if err := os.CopyFS(p.config, os.DirFS(filepath.Join(root, "compose", "config"))); err != nil {
		t.Fatal(err)
	}
	for parent := p.config; parent != filepath.Clean(os.TempDir()); parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.compose(t, "up", "-d")
	if p.hostKey(t) != hostKey || p.gatewayKey(t) != gatewayKey {
		t.Error("new containers have other keys")
	}

	appendTo(t, filepath.Join(p.config, "authorized_keys"), `restrict,port-forwarding,permitlisten="22222" `+read(t, d.tunnelKey+".pub"))
	d.start(t, p, hostKey, gatewayKey)
	entries := []map[string]any{
		{"name": directDevice, "mode": "direct", "user": "pi", "host": inspect(t, d.direct).address(t), "port": 22, "id_file": "/data/keys/gateway.key"},
		{"name": tunnelDevice, "mode": "tunnel", "user": "pi", "host": "127.0.0.1", "port": 22222, "id_file": "/data/keys/gateway.key"},
	}
	content, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.config, "connections.json"), string(content))
	eventually(t, soon, "the tunnel is up", func() error { return p.tunnelUp(t) })
	eventually(t, soon, "the frontend serves", func() error {
		_, err := output(p.command(t, "exec", "-T", frontend, "/mcp-frontend", "healthcheck"))
		return err
	})
	must(t, p.shell(t, m.line(t, "kill -s HUP")))

	// The device knows its own fingerprint. Then the same line for the other one, which has the same key.
	fingerprint := strings.Fields(must(t, exec.CommandContext(t.Context(), "ssh-keygen", "-lf", d.hostKey+".pub")))[1]
	trust := strings.Replace(m.line(t, "/mcp-frontend trust"), "compose/config/", p.config+"/", 1)
	trust = strings.Replace(trust, " >>", " --fingerprint "+fingerprint+" >>", 1)
	must(t, p.shell(t, trust))
	must(t, p.shell(t, strings.Replace(trust, tunnelDevice, directDevice, 1)))
}

func (p *pair) tunnelUp(t *testing.T) error {
	t.Helper()
	out, err := output(p.command(t, "exec", "-T", acceptor, "/tunnel-acceptor", "list", "--json"))
	if err != nil {
		return err
	}
	var list struct {
		Tunnels []struct{ Device, State string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	for _, tunnel := range list.Tunnels {
		if tunnel.Device == tunnelDevice && tunnel.State == "up" {
			return nil
		}
	}
	return fmt.Errorf("tunnel-acceptor list: %s", out)
}

// An attached client lists both devices and runs commands on them: in the
// container behind NAT, whose host name nobody else has.
func (p *pair) testDevices(t *testing.T, d *devices, clientCommand []string) {
	c := p.mustAttach(t, clientCommand)
	for device, id := range map[string]string{tunnelDevice: d.tunnel, directDevice: d.direct} {
		if got := c.mustRun(t, device, "hostname"); got == "" || !strings.HasPrefix(id, got) {
			t.Errorf("hostname on %s: got %q, want the start of %s", device, got, id)
		}
		if state := c.states(t)[device]; state != "up" {
			t.Errorf("%s is %q, want up", device, state)
		}
	}
	if got := c.mustRun(t, tunnelDevice, "cat /etc/os-release"); !strings.Contains(got, "ID=debian") {
		t.Errorf("the device is no Debian: %s", got)
	}
}

// A client is killed in the middle of a command: its process in the frontend's
// container ends, and so does the command on the device.
func (p *pair) testKilledClient(t *testing.T, d *devices, clientCommand []string) {
	c := p.mustAttach(t, clientCommand)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = c.run(context.WithoutCancel(t.Context()), tunnelDevice, "sleep 48.25") // it is never answered
	}()
	eventually(t, soon, "the command runs", func() error { return count(d.processes(t, d.tunnel, "sleep 48.25"), 1) })
	if err := count(p.attached(t), 1); err != nil {
		t.Errorf("attach: %v", err)
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "attach has ended", func() error { return count(p.attached(t), 0) })
	eventually(t, soon, "the command has ended", func() error { return count(d.processes(t, d.tunnel, "sleep 48.25"), 0) })
	<-answered
}

// With tunnel-only.yaml the frontend has no network but its own loopback, and
// works all the same.
func (p *pair) testTunnelOnly(t *testing.T, clientCommand []string) {
	p.overlay("tunnel-only.yaml")
	p.compose(t, "up", "-d", "--build")
	p.comeBack(t, clientCommand, "tunnel-only.yaml")
	if mode := p.inspect(t, frontend).HostConfig.NetworkMode; mode != "none" {
		t.Errorf("the frontend's network is %q, want none", mode)
	}
	devices := strings.Split(strings.TrimSpace(p.procFile(t, frontend, "net/dev")), "\n")[2:]
	if len(devices) != 1 || !strings.HasPrefix(strings.TrimSpace(devices[0]), "lo:") {
		t.Errorf("the frontend has more than a loopback interface: %q", devices)
	}
}

// Both end with 0 when they are told to.
func (p *pair) testStop(t *testing.T) {
	p.compose(t, "stop")
	for _, service := range []string{acceptor, frontend} {
		if state := p.inspect(t, service).State; state.ExitCode != 0 || state.OOMKilled {
			t.Errorf("%s ended with %d, out of memory %v", service, state.ExitCode, state.OOMKilled)
		}
	}
}

// After all this both trails are whole, and each run through a tunnel is joined
// to its tunnel in the other trail.
func (p *pair) testTrails(t *testing.T) {
	trails := []string{p.copyOut(t, frontend, "/data/audit.jsonl"), p.copyOut(t, acceptor, "/data/acceptor/audit.jsonl")}
	got := must(t, exec.CommandContext(t.Context(), program(frontend), append([]string{"audit", "verify"}, trails...)...))
	if strings.Count(got, "the chain is whole") != 2 || strings.Contains(got, "does not have") {
		t.Errorf("audit verify:\n%s", got)
	}
	t.Log(got)
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	write(t, path, read(t, path)+text)
}

func count(got, want int) error {
	if got != want {
		return fmt.Errorf("got %d, want %d", got, want)
	}
	return nil
}

func containsWord(text, word string) bool {
	for field := range strings.FieldsSeq(text) {
		if field == word {
			return true
		}
	}
	return false
}
