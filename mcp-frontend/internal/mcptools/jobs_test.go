package mcptools

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// job calls a tool about a job.
func (g *gateway) job(t *testing.T, tool string, a args) jobResult {
	t.Helper()
	var j jobResult
	if err := json.Unmarshal(g.call(t, tool, a).StructuredContent, &j); err != nil {
		t.Fatal(err)
	}
	return j
}

// ended follows a job to its end and returns it with all its output.
func (g *gateway) ended(t *testing.T, id string) jobResult {
	t.Helper()
	var stdout, stderr, at string
	for {
		a := args{"job_id": id, "wait_s": 20}
		if at != "" {
			a["cursor"] = at
		}
		j := g.job(t, "ssh_job_get", a)
		if j.Error != nil {
			t.Fatalf("got %+v", j.Error)
		}
		stdout, stderr, at = stdout+j.Stdout, stderr+j.Stderr, j.Cursor
		if !j.More && j.State != "running" && j.State != "queued" {
			j.Stdout, j.Stderr = stdout, stderr
			return j
		}
	}
}

func TestJob(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, login := range sshdtest.Logins(t) {
		t.Run(login, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, map[string]any{"user": login, "policy": map[string]any{"shell": true}}))
			j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "echo out; sleep 0.2; echo err >&2; exit 7", "name": "first"})
			if j.State != "running" || !j.SurvivesDisconnect || j.Executed != "yes" || j.JobID == "" {
				t.Fatalf("got %+v", j)
			}
			got := g.ended(t, j.JobID)
			if got.State != "exited" || got.ExitCode == nil || *got.ExitCode != 7 || got.Stdout != "out\n" || got.Stderr != "err\n" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// A connection that is cut anywhere while a job is being started leaves one of
// two things: a job that has run once, or one that has not run and never will.
func TestJobStartIsCut(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, direction := range []string{"to the device", "from the device"} {
		for nth := range int64(7) {
			t.Run(fmt.Sprintf("%s/%d", direction, nth), func(t *testing.T) {
				t.Parallel()
				counter := filepath.Join(sharedDir(t), "counter")
				var armed atomic.Bool
				var pieces atomic.Int64
				see := func([]byte) bool { return !armed.Load() || pieces.Add(1) <= nth }
				ways := sshdtest.See{ToServer: see}
				if direction == "from the device" {
					ways = sshdtest.See{ToClient: see}
				}
				p := sshdtest.NewProxy(t, sshdtest.Address(s.Host, s.Port), ways)
				g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, map[string]any{"port": p.Port, "policy": map[string]any{"shell": true}}))
				g.call(t, "ssh_run", args{"device": "edge", "command": "true"}) // so that the shell is known
				armed.Store(true)
				j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "echo ran >>" + counter})
				armed.Store(false)
				if j.JobID == "" {
					if j.Error == nil || j.Error.Code == "" {
						t.Fatalf("got %+v", j)
					}
					j.Executed = "no"
				} else {
					if j.Error != nil && (j.State != "unreachable" || j.Executed != "maybe") {
						t.Errorf("got %+v", j)
					}
					j = g.ended(t, j.JobID)
				}
				ran, err := os.ReadFile(counter)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				t.Logf("%s, executed %s: %q", j.State, j.Executed, ran)
				want := map[string]string{"yes": "ran\n", "no": ""}
				if w, known := want[j.Executed]; !known || string(ran) != w {
					t.Errorf("executed %s, and it left %q", j.Executed, ran)
				}
			})
		}
	}
}

// sharedDir is a directory that the login may write.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{dir: 0o777, filepath.Dir(dir): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What the policy refuses is not started; nor is what cannot be recorded.
func TestJobIsRefused(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n",
		entryOf(t, "edge", s, map[string]any{"policy": map[string]any{"allow": []string{"echo *"}, "approve": []string{"reboot"}, "max_timeout_s": 60}}),
		entryOf(t, "away", s, map[string]any{"port": 1, "retry": map[string]any{"max_attempts": 1}}))
	for _, c := range []struct {
		args  args
		code  string
		event string
	}{
		{args{"device": "edge", "command": "rm x"}, "POLICY_DENIED", "job_denied"},
		{args{"device": "edge", "command": "reboot"}, "APPROVAL_REQUIRED", "job_denied"},
		{args{"device": "edge", "command": "echo x", "max_runtime_s": 61}, "LIMIT_EXCEEDED", "job_denied"},
		{args{"device": "edge", "command": "echo x", "cwd": "x"}, "INVALID_ARGUMENT", "job_denied"},
		{args{"device": "edgy", "command": "echo x"}, "DEVICE_NOT_FOUND", "job_failed"},
		{args{"device": "away", "command": "echo x"}, "DIAL_FAILED", "job_failed"},
	} {
		g.trail.events()
		j := g.job(t, "ssh_job_start", c.args)
		events, _ := g.trail.events()
		if j.Error == nil || j.Error.Code != c.code || len(events) == 0 || events[len(events)-1] != c.event {
			t.Errorf("%v: got %+v, recorded %v", c.args, j.Error, events)
		}
	}
	g.trail.mu.Lock()
	g.trail.fails = func(r audit.Record) bool { return r.Event == "job_started" }
	g.trail.mu.Unlock()
	if j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "echo x"}); j.Error == nil || j.Error.Code != "AUDIT_UNAVAILABLE" {
		t.Errorf("got %+v", j)
	}
	for tool, a := range map[string]args{
		"ssh_job_get": {"job_id": strings.Repeat("A", 26)}, "ssh_job_stop": {"job_id": "../jobs"},
	} {
		if j := g.job(t, tool, a); j.Error == nil || j.Error.Code != "NOT_FOUND" {
			t.Errorf("%s: got %+v", tool, j)
		}
	}
	if c := g.call(t, "ssh_job_list", args{}); string(c.StructuredContent) != `{"jobs":[]}` {
		t.Errorf("left: %s", c.StructuredContent)
	}
}

// A job's way stands in the audit, with the hash of what it wrote.
func TestJobAudit(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "echo out; false"})
	g.ended(t, j.JobID)
	g.ended(t, j.JobID)
	_, records := g.trail.events()
	var seen []string
	for _, r := range records {
		if r.RunID != j.JobID || r.Event == "tool_called" {
			continue
		}
		seen = append(seen, r.Event)
		if r.Event == "job_finished" && (*r.ExitCode != 1 || r.Bytes != 4 || r.Command != "'echo' 'out'; 'false'" ||
			r.SHA256 != "54034ac5c6e9ea95734ec2b729fd6d62abf64af34a9f9ce5d466cb788191a73d") {
			t.Errorf("got %+v", r)
		}
	}
	if diff := cmp.Diff([]string{"job_started", "job_finished"}, seen); diff != "" {
		t.Error(diff)
	}
}

// Where the device has not what a job needs, the gateway holds the job, and
// says so.
func TestJobIsHeld(t *testing.T) {
	t.Parallel()
	dir := sharedDir(t)
	for _, program := range []string{"sleep", "seq", "cat", "id"} {
		if err := os.Symlink(sshdtest.Tool(program), filepath.Join(dir, program)); err != nil {
			t.Fatal(err)
		}
	}
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"SetEnv PATH=" + dir + " SHLVL=5"}})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "seq 100000; sleep 1; false"})
	if j.SurvivesDisconnect || j.State != "running" || j.Error != nil || !strings.Contains(j.Reason, "there is no dd") {
		t.Fatalf("got %+v", j)
	}
	got := g.ended(t, j.JobID)
	if got.State != "exited" || *got.ExitCode != 1 || len(got.Stdout) != 588895 || got.Executed != "yes" {
		t.Errorf("state %s, code %v, %d bytes", got.State, got.ExitCode, len(got.Stdout))
	}

	j = g.job(t, "ssh_job_start", args{"device": "edge", "command": "echo begun; sleep 100"})
	sshdtest.Eventually(t, "it has begun", func() bool { return g.job(t, "ssh_job_get", args{"job_id": j.JobID}).Stdout != "" })
	for range 2 {
		if got := g.job(t, "ssh_job_stop", args{"job_id": j.JobID}); got.State != "stopped" || got.Error != nil {
			t.Errorf("got %+v", got)
		}
	}
	j = g.job(t, "ssh_job_start", args{"device": "edge", "command": "sleep 100", "max_runtime_s": 1})
	if got := g.ended(t, j.JobID); got.State != "stopped" || !strings.Contains(got.Reason, "max_runtime_s") {
		t.Errorf("got %+v", got)
	}
	j = g.job(t, "ssh_job_start", args{"device": "edge", "command": "sleep 100"})
	s.Cut()
	if got := g.ended(t, j.JobID); got.State != "lost" {
		t.Errorf("got %+v", got)
	}
}

// More jobs than a device runs at once wait for their turn; one that is
// stopped meanwhile never runs.
func TestJobsWait(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	counter := sharedDir(t)
	var ids []string
	for range jobs.MaxRunning {
		ids = append(ids, g.job(t, "ssh_job_start", args{"device": "edge", "command": "sleep 100"}).JobID)
	}
	waits := g.job(t, "ssh_job_start", args{"device": "edge", "command": "touch " + counter + "/ran"})
	never := g.job(t, "ssh_job_start", args{"device": "edge", "command": "touch " + counter + "/never"})
	for _, j := range []jobResult{waits, never} {
		if j.State != "queued" || j.Executed != "no" {
			t.Errorf("got %+v", j)
		}
	}
	if got := g.job(t, "ssh_job_stop", args{"job_id": never.JobID}); got.State != "stopped" || got.Executed != "no" {
		t.Errorf("got %+v", got)
	}
	for _, id := range ids {
		g.job(t, "ssh_job_stop", args{"job_id": id})
	}
	if got := g.ended(t, waits.JobID); got.State != "exited" {
		t.Errorf("got %+v", got)
	}
	left, err := os.ReadDir(counter)
	if err != nil || len(left) != 1 || left[0].Name() != "ran" {
		t.Errorf("got %v, %v", left, err)
	}
}

// Text stays text at whatever byte a part ends.
func TestJobCutsNoRune(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, map[string]any{"policy": map[string]any{"max_output_bytes": 7}}))
	text := strings.Repeat("aé€😀", 10)
	j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "printf %s " + text})
	if got := g.ended(t, j.JobID); got.Stdout != text || got.Encoding != "utf-8" {
		t.Errorf("got %q, %s", got.Stdout, got.Encoding)
	}
	for _, bad := range []string{"1", "x.y", "-1.0", "0.0.0", "99999999999999999999.0"} {
		if got := g.job(t, "ssh_job_get", args{"job_id": j.JobID, "cursor": bad}); got.Error == nil || got.Error.Code != "INVALID_ARGUMENT" {
			t.Errorf("%s: got %+v", bad, got.Error)
		}
	}
}

// A job whose directory has gone from the device is lost.
func TestJobIsLost(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	login := sshdtest.LoginWith(t, "dash")
	if login == "" {
		t.Skip("not root: the directory of the user who tests is left alone")
	}
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, map[string]any{"user": login}))
	j := g.job(t, "ssh_job_start", args{"device": "edge", "command": "sleep 2"})
	u, err := user.Lookup(login)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(u.HomeDir, ".cache", "mcp-ssh-gateway")); err != nil {
		t.Fatal(err)
	}
	if got := g.ended(t, j.JobID); got.State != "lost" || got.Reason == "" || got.ExitCode != nil {
		t.Errorf("got %+v", got)
	}
	if got := g.job(t, "ssh_job_stop", args{"job_id": j.JobID}); got.State != "lost" {
		t.Errorf("got %+v", got)
	}
}
