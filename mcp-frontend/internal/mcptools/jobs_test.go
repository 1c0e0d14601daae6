package mcptools

import (
	"encoding/json"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
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
