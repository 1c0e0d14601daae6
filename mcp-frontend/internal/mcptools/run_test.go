package mcptools

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

type args = map[string]any

func TestRun(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	shell := args{"policy": args{"shell": true}, "login_shell": "posix"}
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, shell))
	for name, c := range map[string]struct {
		command        string
		more           args
		outcome        string
		code           int
		stdout, stderr string
		encoding       string
	}{
		"works":         {command: "echo out; echo err >&2", outcome: "exited", stdout: "out\n", stderr: "err\n"},
		"a failure":     {command: "exit 7", outcome: "exited", code: 7},
		"a signal":      {command: "kill -KILL $$", outcome: "signaled"},
		"binary":        {command: `printf '\377'`, outcome: "exited", stdout: "/w==", encoding: "base64"},
		"stdin and cwd": {command: "pwd; cat", more: args{"stdin": "in", "cwd": "/usr"}, outcome: "exited", stdout: "/usr\nin"},
		"markup":        {command: "echo '<&>'", outcome: "exited", stdout: "<&>\n"},
	} {
		a := args{"device": "edge", "command": c.command}
		maps.Copy(a, c.more)
		r := g.call(t, "ssh_run", a).run
		if c.encoding == "" {
			c.encoding = "utf-8"
		}
		code := 0
		if r.ExitCode != nil {
			code = *r.ExitCode
		}
		if r.Outcome != c.outcome || code != c.code || r.Stdout != c.stdout || r.Stderr != c.stderr || r.Encoding != c.encoding ||
			r.Executed != "yes" || r.RemoteState != "exited" || r.Via != "direct" {
			t.Errorf("%s: got %+v", name, r)
		}
		events, records := g.trail.events()
		if !slices.Equal(events, []string{"run_started", "run_finished"}) {
			t.Errorf("%s: recorded %v", name, events)
			continue
		}
		for _, record := range records {
			if record.RunID != r.RunID || record.Device != "edge" || record.Session != "s1" || record.Client.Name != "tester" || !strings.Contains(record.Command, c.command) {
				t.Errorf("%s: recorded %+v", name, record)
			}
		}
		if last := records[1]; last.Outcome != r.Outcome || last.Executed != "yes" || last.Bytes != r.StdoutBytes || last.SHA256 == "" {
			t.Errorf("%s: recorded %+v", name, last)
		}
	}
}

// Every way to fail is a tool result that fits its schema, and says what to do.
func TestErrors(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	full := sshdtest.Start(t, sshdtest.Config{Lines: []string{"MaxSessions 0"}})
	fixed := args{"login_shell": "posix"}
	once := args{"max_attempts": 1}
	g := newGateway(t, s.Known("edge,bounded,asking,locked,windows,slot,keyless,stranger")+"\n"+full.Known("full")+"\n",
		entryOf(t, "edge", s, nil),
		entryOf(t, "bounded", s, args{"policy": args{"allow": []string{"echo *"}, "max_timeout_s": 5, "max_output_bytes": 10}}),
		entryOf(t, "asking", s, args{"policy": args{"approve": []string{"reboot"}}}),
		entryOf(t, "locked", s, args{"id_file": sshdtest.NewKey(t, "ed25519").Path, "retry": once}),
		entryOf(t, "unknown", s, nil),
		entryOf(t, "changed", full, args{"host": s.Host, "port": s.Port, "known_hosts": knownAs(t, full.Known("changed"))}),
		entryOf(t, "windows", s, args{"login_shell": "powershell"}),
		entryOf(t, "slot", s, args{"mode": "tunnel", "host": "127.0.0.1"}),
		entryOf(t, "off", s, args{"port": 1, "retry": once}),
		entryOf(t, "keyless", s, args{"id_file": "nowhere"}),
		entryOf(t, "full", full, fixed),
	)
	for _, c := range []struct {
		tool     string
		args     args
		code     string
		outcome  string
		executed string
		event    string // the last one
	}{
		{"ssh_run", args{"device": "edg", "command": "true"}, "DEVICE_NOT_FOUND", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "edge"}, "INVALID_ARGUMENT", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "edge", "command": "echo $HOME"}, "POLICY_DENIED", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "edge", "command": "echo $HOME", "dry_run": true}, "POLICY_DENIED", "denied", "no", "run_denied"},
		{"ssh_run_readonly", args{"device": "edge", "command": "touch x"}, "POLICY_DENIED", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "bounded", "command": "true"}, "POLICY_DENIED", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "bounded", "command": "echo a", "timeout_s": 6}, "LIMIT_EXCEEDED", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "bounded", "command": "echo a", "max_output_bytes": 11}, "LIMIT_EXCEEDED", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "asking", "command": "reboot"}, "APPROVAL_REQUIRED", "denied", "no", "run_denied"},
		{"ssh_run", args{"device": "edge", "command": "true", "dry_run": true}, "", "dry_run", "no", "run_dry"},
		{"ssh_run", args{"device": "locked", "command": "true"}, "AUTH_FAILED", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "locked", "command": "true"}, "BACKING_OFF", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "unknown", "command": "true"}, "HOST_KEY_UNKNOWN", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "changed", "command": "true"}, "HOST_KEY_MISMATCH", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "windows", "command": "true"}, "UNSUPPORTED_SHELL", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "slot", "command": "true"}, "ACCEPTOR_DOWN", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "off", "command": "true"}, "DIAL_FAILED", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "keyless", "command": "true"}, "KEY_UNUSABLE", "not_connected", "no", "run_failed"},
		{"ssh_run", args{"device": "full", "command": "true"}, "CHANNEL_REFUSED", "not_connected", "no", ""},
		{"ssh_run", args{"device": "edge", "command": "sleep 600", "timeout_s": 1}, "TIMEOUT", "timed_out", "yes", "run_finished"},
		{"ssh_list_devices", args{"state": "asleep"}, "INVALID_ARGUMENT", "", "", "tool_refused"},
		{"ssh_output_read", args{"output_id": strings.Repeat("A", 26), "stream": "stdout"}, "HANDLE_EXPIRED", "", "", "tool_called"},
	} {
		r := g.call(t, c.tool, c.args).run
		code := ""
		if r.Error != nil {
			code = r.Error.Code
		}
		if code != c.code || r.Outcome != c.outcome || r.Executed != c.executed {
			t.Errorf("%s %v: got %s, outcome %s, executed %s: %+v", c.tool, c.args, code, r.Outcome, r.Executed, r.Error)
		}
		events, _ := g.trail.events()
		if len(events) == 0 || c.event != "" && events[len(events)-1] != c.event {
			t.Errorf("%s %v: recorded %v, want %s", c.tool, c.args, events, c.event)
		}
	}
	// What all of this has left behind is told by the list.
	var got []string
	c := g.call(t, "ssh_list_devices", nil)
	for _, d := range []string{`"name":"locked"`, `"state":"backing_off"`, `"state":"misconfigured"`, `"state":"up"`, `"state":"unknown"`} {
		if !strings.Contains(string(c.StructuredContent), d) {
			got = append(got, d)
		}
	}
	if len(got) > 0 {
		t.Errorf("no %v in %s", got, c.StructuredContent)
	}
}

func knownAs(t *testing.T, line string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known_hosts")
	sshdtest.Write(t, path, line+"\n", 0o644)
	return path
}

// What cannot be recorded is not done; what was done is told all the same.
func TestAuditFails(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	touched := filepath.Join(dir, "touched")
	g.trail.fails = func(audit.Record) bool { return true }
	for tool, a := range map[string]args{
		"ssh_run":          {"device": "edge", "command": "touch " + touched},
		"ssh_run_readonly": {"device": "edge", "command": "ls " + dir},
		"ssh_list_devices": {},
		"ssh_output_read":  {"output_id": strings.Repeat("A", 26), "stream": "stdout"},
		"ssh_device_info":  {"device": "edge"},
		"ssh_diagnose":     {"device": "edge"},
	} {
		if r := g.call(t, tool, a).run; r.Error == nil || r.Error.Code != "AUDIT_UNAVAILABLE" || r.Executed == "yes" || r.Stdout != "" {
			t.Errorf("%s: got %+v", tool, r)
		}
	}
	for _, a := range []args{{"device": "edge", "command": "true", "dry_run": true}, {"device": "edge"}, {"device": "edge", "command": "echo $x"}} {
		if r := g.call(t, "ssh_run", a).run; r.Error == nil || r.Error.Code != "AUDIT_UNAVAILABLE" || r.Executed != "no" {
			t.Errorf("%v: got %+v", a, r)
		}
	}
	if _, err := os.Stat(touched); err == nil {
		t.Error("the command ran although it could not be recorded")
	}

	g.trail.mu.Lock()
	g.trail.fails = func(r audit.Record) bool { return r.Event == "run_finished" }
	g.trail.mu.Unlock()
	c := g.askRun(t, args{"device": "edge", "command": "echo out"})
	if c.IsError || c.run.Stdout != "out\n" || c.run.Executed != "yes" || !strings.Contains(g.log.String(), "could not be recorded") {
		t.Errorf("got %+v; logged %s", c.run, g.log)
	}
}

// askRun is call where the log may have something.
func (g *gateway) askRun(t *testing.T, a args) called {
	t.Helper()
	var c called
	g.ask(t, "tools/call", args{"name": "ssh_run", "arguments": a}, &c)
	if problem := fits(t, g.lists["ssh_run"].OutputSchema, c.StructuredContent); problem != "" {
		t.Error(problem)
	}
	if err := json.Unmarshal(c.StructuredContent, &c.run); err != nil {
		t.Fatal(err)
	}
	return c
}

// Arguments that do not fit are refused in words that name the argument.
func TestArgumentMessages(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "")
	long := strings.Repeat("x", 64)
	for _, c := range []struct {
		tool string
		args any
		want string
	}{
		{"ssh_run", nil, "missing device, command"},
		{"ssh_run", args{"device": "edge"}, "missing command"},
		{"ssh_run", args{"device": "edge", "command": ""}, "command must not be empty"},
		{"ssh_run", args{"device": "edge", "command": []string{"ls"}}, "command must be string, not array"},
		{"ssh_run", args{"device": "edge", "command": "ls", "timeout_s": "5"}, "timeout_s must be integer, not string"},
		{"ssh_run", args{"device": "edge", "command": "ls", "timeout_s": 0}, "timeout_s must be at least 1"},
		{"ssh_run", args{"device": "edge", "command": "ls", "max_output_bytes": 1 << 30}, "max_output_bytes must be at most 1048576"},
		{"ssh_run", args{"device": "edge", "command": "ls\x00"}, "command must be text without NUL characters"},
		{"ssh_run", args{"device": "edge", "command": "ls", "cwd": "tmp"}, "cwd must be an absolute path"},
		{"ssh_run", args{"device": long, "command": "ls"}, "device has 64 characters, at most 63 are taken"},
		{"ssh_run", args{"device": "edge", "command": "ls", "host": "x"}, "unknown argument host; allowed are approval_id, command, cwd, device, dry_run, max_output_bytes, stdin, timeout_s"},
		{"ssh_list_devices", args{"state": "on"}, "state must be one of up, down, unknown, backing_off, misconfigured"},
	} {
		got := ""
		if e := g.call(t, c.tool, c.args).run.Error; e != nil {
			got = e.Message
		}
		if got != c.want {
			t.Errorf("%s %v:\n got %s\nwant %s", c.tool, fmt.Sprint(c.args), got, c.want)
		}
	}
}

// Long output is kept whole for a while, and its head and tail are shown.
func TestLongOutput(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	r := g.call(t, "ssh_run", args{"device": "edge", "command": "seq 1000", "max_output_bytes": 20}).run
	if !r.Truncated || r.StdoutBytes != 3893 || r.OutputID == "" || !strings.Contains(r.Stdout, "omitted") {
		t.Fatalf("got %+v", r)
	}
	c := g.call(t, "ssh_output_read", args{"output_id": r.OutputID, "stream": "stdout", "tail_lines": 1})
	var part struct{ Content string }
	if err := json.Unmarshal(c.StructuredContent, &part); err != nil || part.Content != "1000\n" {
		t.Errorf("got %s", c.StructuredContent)
	}
}

// The second call finds the connection of the first.
func TestConnectionIsReused(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	for _, want := range []string{"new", "reused"} {
		if r := g.call(t, "ssh_run", args{"device": "edge", "command": "true"}).run; r.Connect != want {
			t.Errorf("got %q, want %q", r.Connect, want)
		}
	}
	if s.Accepted() != 1 {
		t.Errorf("%d connections", s.Accepted())
	}
}
