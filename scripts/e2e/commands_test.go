package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Each script under testdata/commands runs the programs by hand, as an
// operator does: what they say of themselves, and what they say of bad input.
func TestCommands(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "commands"),
		RequireExplicitExec: true,
		Cmds:                scriptCommands,
		Setup: func(env *testscript.Env) error {
			withPrograms(env)
			return nil
		},
	})
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	f := newFrontend(t, a.runDir)
	acceptorHealth := func() finished {
		return runProgram(t, acceptorProgram(), "healthcheck", "--run-dir", a.runDir)
	}
	frontendHealth := func() finished { return runCmd(t, f.command("healthcheck")) }

	for name, check := range map[string]func() finished{"tunnel-acceptor": acceptorHealth, "mcp-frontend": frontendHealth} {
		done := check()
		if done.code != 1 || done.stderr == "" {
			t.Errorf("%s healthcheck before the start: exit code %d, stderr %q; want 1 and a reason", name, done.code, done.stderr)
		}
		noStackTrace(t, done.stderr)
	}
	a.start(t)
	f.serve(t)
	for name, check := range map[string]func() finished{"tunnel-acceptor": acceptorHealth, "mcp-frontend": frontendHealth} {
		if done := check(); done.code != 0 {
			t.Errorf("%s healthcheck: exit code %d: %s", name, done.code, done.stderr)
		}
	}
}

func TestListTable(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	if list := g.acceptor.list(t); len(list) > 1 {
		t.Errorf("before any tunnel: %v", list)
	}
	g.openTunnel(t)
	eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })
	table := string(output(t, acceptorProgram(), "list", "--run-dir", g.acceptor.runDir))
	for _, word := range []string{tunnelDevice, "22222", "up"} {
		if !strings.Contains(table, word) {
			t.Errorf("the table has no %s:\n%s", word, table)
		}
	}
	done := runProgram(t, acceptorProgram(), "list", "--run-dir", t.TempDir())
	if done.code != 1 || done.stderr == "" || done.stdout != "" {
		t.Errorf("list without an acceptor: exit code %d, stdout %q, stderr %q", done.code, done.stdout, done.stderr)
	}
	noStackTrace(t, done.stderr)
}

// check tells every problem at once, and nothing but problems fails it.
func TestFrontendCheck(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	f := g.frontend
	done := runCmd(t, f.command("check"))
	if done.code != 0 || !strings.Contains(done.stdout, directDevice) || !strings.Contains(done.stdout, tunnelDevice) {
		t.Errorf("exit code %d, stdout %q, stderr %q; want 0 and both devices", done.code, done.stdout, done.stderr)
	}
	done = runCmd(t, f.command("check", "--json"))
	if done.code != 0 || !json.Valid([]byte(done.stdout)) {
		t.Errorf("--json: exit code %d, stdout %q", done.code, done.stdout)
	}

	f.addDirect(t, "readable-key", g.direct, logins[0], g.userKey)
	if err := os.Chmod(f.idFile("readable-key"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.addDirect(t, "missing-key", g.direct, logins[0], g.userKey)
	if err := os.Remove(f.idFile("missing-key")); err != nil {
		t.Fatal(err)
	}
	done = runCmd(t, f.command("check"))
	if done.code != 1 {
		t.Errorf("exit code %d with two bad keys, want 1", done.code)
	}
	said := done.stdout + done.stderr
	for _, words := range []string{"readable-key", "chmod 600", "missing-key"} {
		if !strings.Contains(said, words) {
			t.Errorf("check does not say %q:\n%s", words, said)
		}
	}
	noStackTrace(t, said)
	done = runCmd(t, f.command("check", "--json"))
	if done.code != 1 || !json.Valid([]byte(done.stdout)) || !strings.Contains(done.stdout, "missing-key") {
		t.Errorf("--json: exit code %d, stdout %q", done.code, done.stdout)
	}
}

// An address that is taken refuses the start.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	first := startAcceptor(t)
	second := newAcceptor(t)
	second.listen = first.address()
	done := runCmd(t, second.command())
	if done.code != 1 || !strings.Contains(done.stderr, first.address()) {
		t.Errorf("exit code %d, stderr %q; want 1 and the address", done.code, done.stderr)
	}
	noStackTrace(t, done.stderr)
	if _, err := os.Stat(filepath.Join(second.runDir, "control.sock")); err == nil {
		t.Error("a partial start: control.sock is there")
	}
}

// Every flag is an environment variable too.
func TestFlagsFromEnvironment(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })

	list := exec.Command(acceptorProgram(), "list", "--json")
	list.Env = append(os.Environ(), "TUNNEL_ACCEPTOR_RUN_DIR="+g.acceptor.runDir)
	if done := runCmd(t, list); done.code != 0 || !strings.Contains(done.stdout, tunnelDevice) {
		t.Errorf("list: exit code %d, stdout %q, stderr %q", done.code, done.stdout, done.stderr)
	}

	f := g.frontend
	stdio := exec.Command(frontendProgram(), "stdio")
	stdio.Dir = shortDir(t)
	stdio.Env = append(os.Environ(),
		"MCP_FRONTEND_CONNECTIONS="+f.connections,
		"MCP_FRONTEND_KNOWN_HOSTS="+f.knownHosts,
		"MCP_FRONTEND_ACCEPTOR_DIR="+f.acceptorDir,
		"MCP_FRONTEND_AUDIT_LOG="+f.auditLog,
		"MCP_FRONTEND_LOG_FORMAT=json",
	)
	connect(t, stdio, newestProtocol).mustWork(t, tunnelDevice)
}

// Without any flag the programs work in the current directory, and default
// files that are missing count as empty.
func TestDefaults(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	acceptorCmd := exec.Command(acceptorProgram(), "serve", "--listen", "127.0.0.1:0", "--log-format", "json")
	acceptorCmd.Dir = dir
	startCmd(t, acceptorCmd).waitReady(t)
	frontendCmd := exec.Command(frontendProgram(), "serve", "--log-format", "json")
	frontendCmd.Dir = dir
	daemon := startCmd(t, frontendCmd)
	daemon.waitReady(t)
	attach := exec.Command(frontendProgram(), "attach")
	attach.Dir = dir
	if devices := connect(t, attach, newestProtocol).devices(t); len(devices) != 0 {
		t.Errorf("without connections.json: %v", devices)
	}
	warned := 0
	for _, line := range daemon.logLines(t) {
		if line["level"] == "WARN" {
			warned++
		}
	}
	if warned == 0 {
		t.Error("no warning tells of the missing default files")
	}
	for _, path := range []string{
		"data/acceptor/ssh_host_ed25519_key", "data/acceptor/audit.jsonl", "data/audit.jsonl",
		"run/acceptor/control.sock", "run/acceptor/dial.sock", "run/mcp.sock", "run/operator.sock",
	} {
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
	}
}
