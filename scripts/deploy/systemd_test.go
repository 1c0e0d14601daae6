package deploy

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unit reads a unit file: each setting's values in their order.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	settings := make(map[string][]string)
	for line := range strings.Lines(read(t, "compose", "systemd", name)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found {
			t.Errorf("%s: %q is no setting", name, line)
		}
		settings[key] = append(settings[key], value)
	}
	return settings
}

func requireSystemd(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("systemd-analyze is missing; run scripts/setup")
	}
}

// systemd itself finds nothing wrong with the units, and nothing left open
// that they could do without. It can find something: a misspelt setting.
func TestUnitsAreSound(t *testing.T) {
	t.Parallel()
	requireSystemd(t)
	root := t.TempDir()
	for _, program := range programs {
		write(t, filepath.Join(root, "usr/local/bin", program), "", 0o755)
		write(t, filepath.Join(root, "etc/systemd/system", program+".service"), read(t, "compose", "systemd", program+".service"), 0o644)
	}
	write(t, filepath.Join(root, "bin/kill"), "", 0o755)
	// The system's own units, which ours depend on.
	theirs, err := filepath.Glob("/lib/systemd/system/*.*")
	if err != nil || len(theirs) == 0 {
		t.Fatalf("no units in /lib/systemd/system (%v)", err)
	}
	for _, path := range theirs {
		if text, err := os.ReadFile(path); err == nil { // no directory, and no link to nowhere
			write(t, filepath.Join(root, path), string(text), 0o644)
		}
	}
	said := verify(t, root)
	if said != "" {
		t.Errorf("systemd-analyze verify:\n%s", said)
	}
	misspelt := strings.Replace(read(t, "compose", "systemd", "mcp-frontend.service"), "LockPersonality", "LockPersonalty", 1)
	write(t, filepath.Join(root, "etc/systemd/system/mcp-frontend.service"), misspelt, 0o644)
	if said := verify(t, root); !strings.Contains(said, "Unknown key") {
		t.Errorf("systemd-analyze verify does not see a misspelt setting: %q", said)
	}

	for _, program := range programs {
		// The scale is 0 to 10; a service without any setting has 9.6. What remains is the network, and uids that are seen.
		path := filepath.Join("..", "..", "compose", "systemd", program+".service")
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=15", path).CombinedOutput()
		if err != nil {
			t.Errorf("%s is exposed by more than 1.5: %v\n%s", program, err, out)
		}
	}
}

// verify returns what systemd says of our own units.
func verify(t *testing.T, root string) string {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--root="+root, "tunnel-acceptor.service", "mcp-frontend.service").CombinedOutput()
	var said strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "tunnel-acceptor") || strings.Contains(line, "mcp-frontend") {
			said.WriteString(line)
		}
	}
	return said.String()
}

// The units confine as the containers do, as far as both have words for it,
// and name only flags and variables that the programs have.
func TestUnitsAreHardenedAsContainers(t *testing.T) {
	t.Parallel()
	for program, container := range hardening {
		u := unit(t, program+".service")
		want := map[string]string{
			"ExecStart": "/usr/local/bin/" + program + " " + strings.Join(container.Args, " "),
			"User":      program, "MemoryMax": "512M", "MemorySwapMax": "0", "TimeoutStopSec": "20s",
			"NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "ProtectSystem": "strict", "LimitCORE": "0",
			"TasksMax": map[string]string{"tunnel-acceptor": "128", "mcp-frontend": "512"}[program],
		}
		got := make(map[string]string)
		for key := range want {
			got[key] = strings.Join(u[key], ",")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", program, diff)
		}

		env := make(map[string]string)
		text := help(t, program, strings.Fields(u["ExecStart"][0])[1:]...)
		for _, assignment := range u["Environment"] {
			name, value, _ := strings.Cut(assignment, "=")
			env[name] = value
			if !strings.Contains(text, "($"+name+")") {
				t.Errorf("%s does not read %s", program, name)
			}
		}
		if !slices.Equal(slices.Sorted(maps.Keys(env)), slices.Sorted(maps.Keys(container.Env))) {
			t.Errorf("%s: set are %v, in containers %v", program, env, container.Env)
		}
	}
	// Two units, one relation between their users.
	acceptor := strings.Join(unit(t, "tunnel-acceptor.service")["Environment"], "\n")
	users := read(t, "compose", "systemd", "sysusers.conf")
	if !strings.Contains(acceptor, "TUNNEL_ACCEPTOR_ALLOW_UID=65533") || !strings.Contains(users, "\nu mcp-frontend 65533 ") {
		t.Error("the acceptor lets in another uid than mcp-frontend's")
	}
}
