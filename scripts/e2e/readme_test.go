package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// readme is the README's text.
func readme(t *testing.T) string {
	t.Helper()
	return read(t, filepath.Join("..", "..", "README.md"))
}

// jsonBlock is the JSON that follows a comment <!-- NAME --> in the README.
func jsonBlock(t *testing.T, name string) string {
	t.Helper()
	_, rest, found := strings.Cut(readme(t), "<!-- "+name+" -->\n```json\n")
	block, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatalf("the README has no JSON block after <!-- %s -->", name)
	}
	return block
}

// readmeLine is the one indented line of the README that starts with prefix.
func readmeLine(t *testing.T, prefix string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(readme(t)) {
		if strings.HasPrefix(line, "    "+prefix) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	if len(found) != 1 {
		t.Fatalf("the README has %d lines that start with %q, want 1", len(found), prefix)
	}
	return found[0]
}

// The README's lines, with this machine's addresses and keys put in, make a
// gateway that works.
func TestReadmeDeployment(t *testing.T) {
	t.Parallel()
	userKey, deviceKey := newKey(t), newKey(t)
	direct, behind := startSSHD(t, userKey), startSSHD(t, userKey)

	grantLine := strings.Replace(readmeLine(t, "restrict,port-forwarding"), "ssh-ed25519 AAAA...", deviceKey.public, 1)
	a := startAcceptor(t, grantLine)

	f := newFrontend(t, a.runDir)
	var entries []entry
	if err := json.Unmarshal([]byte(jsonBlock(t, "connections.json")), &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		e["user"] = string(logins[0])
		server := behind
		if e["mode"] == "direct" {
			server = direct
			e["host"], e["port"] = "127.0.0.1", direct.port
		}
		f.add(t, e, userKey, server.knownAs(fmt.Sprint(e["name"])))
	}

	if !strings.Contains(read(t, a.stderr), a.hostKey.public) {
		t.Error("the acceptor's log does not show the host key that a device must know")
	}
	config := writeSSHConfig(t, t.TempDir(), a, deviceKey, "LogLevel DEBUG1")
	sshLine := strings.NewReplacer(
		"agent@gateway", "agent@127.0.0.1",
		"-p 2222 ", fmt.Sprintf("-p %d ", a.port),
		"~/.ssh/gateway", deviceKey.path,
		":localhost:22 ", fmt.Sprintf(":localhost:%d ", behind.port),
	).Replace(readmeLine(t, "ssh -N -R") + " ")
	tn := &tunnel{startCmd(t, exec.Command("ssh", append([]string{"-F", config}, strings.Fields(sshLine)[1:]...)...))}
	tn.waitGranted(t)

	c := f.stdio(t)
	for _, e := range entries {
		c.mustWork(t, fmt.Sprint(e["name"]))
	}
}

// The policy of the README is one that is accepted, and does what it says.
func TestReadmePolicy(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	var e entry
	if err := json.Unmarshal([]byte(jsonBlock(t, "policy")), &e); err != nil {
		t.Fatal(err)
	}
	e["user"], e["host"], e["port"] = string(logins[0]), "127.0.0.1", server.port
	f.add(t, e, userKey, server.knownAs(directDevice))
	c := f.stdio(t)
	c.run(t, directDevice, "uname -a").refused(t, "POLICY_DENIED")
	c.run(t, directDevice, "journalctl -u ssh", args{"timeout_s": 61}).refused(t, "LIMIT_EXCEEDED")
	run := c.run(t, directDevice, "journalctl --version")
	if run.Executed != "yes" {
		t.Errorf("a command that the policy allows: executed %q, error %+v", run.Executed, run.Error)
	}
}

// The approval of the README goes as it says, with the operator's commands.
func TestReadmeApproval(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	var e entry
	if err := json.Unmarshal([]byte(jsonBlock(t, "approval")), &e); err != nil {
		t.Fatal(err)
	}
	e["user"], e["host"], e["port"] = string(logins[0]), "127.0.0.1", server.port
	f.add(t, e, userKey, server.knownAs(directDevice))
	f.serve(t)
	c := f.attach(t)
	decide := func(line, id string) {
		t.Helper()
		words := strings.Fields(strings.ReplaceAll(readmeLine(t, line), "k7qm-3xtw", id))
		if done := runCmd(t, f.command(words[1], words[2:]...)); done.code != 0 || done.stdout == "" {
			t.Errorf("%v: exit code %d: %s", words, done.code, done.stderr)
		}
	}
	const command = "logger --version"
	id := c.run(t, directDevice, command).refused(t, "APPROVAL_REQUIRED").ApprovalID
	decide("mcp-frontend approvals", id)
	decide("mcp-frontend approve", id)
	if run := c.run(t, directDevice, command, args{"approval_id": id}); run.Executed != "yes" {
		t.Errorf("after the yes: executed %q, error %+v", run.Executed, run.Error)
	}
	id = c.run(t, directDevice, command).refused(t, "APPROVAL_REQUIRED").ApprovalID
	decide("mcp-frontend deny", id)
	c.run(t, directDevice, command, args{"approval_id": id}).refused(t, "APPROVAL_DECLINED")
}

// The job of the README is one that can be started, and ends.
func TestReadmeJob(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)
	var a args
	if err := json.Unmarshal([]byte(jsonBlock(t, "job")), &a); err != nil {
		t.Fatal(err)
	}
	j := c.job(t, "ssh_job_start", a)
	if j.Error != nil || j.Name == "" {
		t.Fatalf("got %+v, error %+v", j, j.Error)
	}
	if got, stdout := c.followed(t, j.JobID); got.State != "exited" || len(stdout) == 0 {
		t.Errorf("got %+v, %q", got, stdout)
	}
}

// An MCP client's configuration names a command that exists.
func TestReadmeClientConfiguration(t *testing.T) {
	t.Parallel()
	var config struct {
		MCPServers map[string]struct {
			Command string
			Args    []string
		}
	}
	if err := json.Unmarshal([]byte(jsonBlock(t, "mcp client")), &config); err != nil {
		t.Fatal(err)
	}
	server := config.MCPServers["ssh"]
	line := server.Command + " " + strings.Join(server.Args, " ")
	if !strings.HasSuffix(line, "exec -T mcp-frontend /mcp-frontend attach") {
		t.Errorf("the client starts %q, want attach in the container", line)
	}
	if !strings.Contains(readme(t), "-- "+line) {
		t.Errorf("claude mcp add takes another command than %q", line)
	}
}

// Without -T, docker compose exec makes a terminal: stderr and carriage returns
// would end up in known_hosts. The commands themselves are run by the tests in
// the folder containers.
func TestReadmeComposeCommands(t *testing.T) {
	t.Parallel()
	found := 0
	for line := range strings.Lines(readme(t)) {
		_, command, isExec := strings.Cut(line, "compose.yaml exec ")
		if !isExec {
			continue
		}
		found++
		if !strings.HasPrefix(command, "-T ") {
			t.Errorf("the README has exec without -T: %s", strings.TrimSpace(line))
		}
	}
	if found < 3 {
		t.Errorf("the README has %d commands in containers, want at least 3", found)
	}
}

// CI runs the commands that the README gives to a newcomer.
func TestReadmeCommandsRunInCI(t *testing.T) {
	t.Parallel()
	ci := read(t, filepath.Join("..", "..", ".ci", "run"))
	for _, command := range []string{"make demo", "make test"} {
		readmeLine(t, command)
		if !strings.Contains(ci, command) {
			t.Errorf(".ci/run does not run %q", command)
		}
	}
}
