package containers

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The two services of compose.yaml.
const (
	acceptor = "tunnel-acceptor"
	frontend = "mcp-frontend"
)

// pair is one compose project made of the repository's files.
type pair struct {
	project string
	files   []string // -f FILE …, from the repository's root
	// What an operator may set in the environment.
	bind, port, version, config string
}

func newPair(project string, overlays ...string) *pair {
	p := &pair{project: project, bind: "127.0.0.1", port: "0", version: "compose-test", files: []string{"-f", "compose/compose.yaml"}}
	for _, file := range overlays {
		p.overlay(file)
	}
	return p
}

func (p *pair) overlay(file string) { p.files = append(p.files, "-f", "compose/"+file) }

// shell is a command line as an operator types it in the repository.
func (p *pair) shell(t *testing.T, line string) *exec.Cmd {
	t.Helper()
	return p.at(exec.CommandContext(t.Context(), "sh", "-c", line))
}

func (p *pair) at(cmd *exec.Cmd) *exec.Cmd {
	cmd.Dir = root
	// A project's name in the environment counts more than the one in the file.
	cmd.Env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+p.project, "GATEWAY_BIND="+p.bind, "GATEWAY_PORT="+p.port,
		"GATEWAY_VERSION="+p.version, "GATEWAY_REVISION="+revision)
	if p.config != "" {
		cmd.Env = append(cmd.Env, "GATEWAY_CONFIG_DIR="+p.config)
	}
	return cmd
}

// command is docker compose with the pair's files.
func (p *pair) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	all := append(append([]string{"compose"}, p.files...), args...)
	return p.at(exec.CommandContext(t.Context(), "docker", all...))
}

func (p *pair) compose(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, p.command(t, args...))
}

// id is the service's container, running or not.
func (p *pair) id(t *testing.T, service string) string {
	t.Helper()
	id := p.compose(t, "ps", "-aq", service)
	if id == "" || strings.Contains(id, "\n") {
		t.Fatalf("%s has not one container: %q", service, id)
	}
	return id
}

// container is the part of `docker inspect` that the tests read.
type container struct {
	State struct {
		Pid       int
		ExitCode  int
		OOMKilled bool
		StartedAt string
	}
	Config struct {
		User   string
		Labels map[string]string
	}
	HostConfig struct {
		ReadonlyRootfs, Privileged   bool
		CapAdd, CapDrop, SecurityOpt []string
		PidsLimit, Memory            int64
		NetworkMode, IpcMode         string
		PortBindings                 map[string][]struct{ HostIP, HostPort string }
	}
	Mounts []struct {
		Type, Destination string
		RW                bool
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress string }
	}
}

func inspect(t *testing.T, id string) container {
	t.Helper()
	var found []container
	if err := json.Unmarshal([]byte(docker(t, "inspect", id)), &found); err != nil || len(found) != 1 {
		t.Fatalf("docker inspect %s: %d results, %v", id, len(found), err)
	}
	return found[0]
}

func (p *pair) inspect(t *testing.T, service string) container {
	t.Helper()
	return inspect(t, p.id(t, service))
}

// address is where the container is in its one network.
func (c container) address(t *testing.T) string {
	t.Helper()
	if len(c.NetworkSettings.Networks) != 1 {
		t.Fatalf("got the networks %v, want one", c.NetworkSettings.Networks)
	}
	for _, network := range c.NetworkSettings.Networks {
		return network.IPAddress
	}
	return ""
}

// copyOut copies a file out of a container and returns its new path.
func (p *pair) copyOut(t *testing.T, service, path string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(path))
	p.compose(t, "cp", service+":"+path, to)
	return to
}

// publicKey is the public half of a private key in a container.
func (p *pair) publicKey(t *testing.T, service, path string) string {
	t.Helper()
	private := p.copyOut(t, service, path)
	fields := strings.Fields(must(t, exec.CommandContext(t.Context(), "ssh-keygen", "-y", "-f", private)))
	return strings.Join(fields[:2], " ")
}

func (p *pair) hostKey(t *testing.T) string {
	t.Helper()
	return p.publicKey(t, acceptor, "/data/acceptor/ssh_host_ed25519_key")
}

func (p *pair) gatewayKey(t *testing.T) string {
	t.Helper()
	return p.publicKey(t, frontend, "/data/keys/gateway.key")
}

// attached counts the attach processes in the frontend's container.
func (p *pair) attached(t *testing.T) int {
	t.Helper()
	return strings.Count(docker(t, "top", p.id(t, frontend), "-eo", "pid,args"), "/mcp-frontend attach")
}

// procFile reads /proc/PID/NAME of the service's first process.
func (p *pair) procFile(t *testing.T, service, name string) string {
	t.Helper()
	return read(t, fmt.Sprintf("/proc/%d/%s", p.inspect(t, service).State.Pid, name))
}
