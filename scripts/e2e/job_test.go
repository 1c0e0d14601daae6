package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// jobResult is what the job tools return, DESIGN section 6.
type jobResult struct {
	JobID              string     `json:"job_id"`
	Device             string     `json:"device"`
	Name               string     `json:"name"`
	State              string     `json:"state"`
	Executed           string     `json:"executed"`
	ExitCode           *int       `json:"exit_code"`
	Signal             string     `json:"signal"`
	Reason             string     `json:"reason"`
	Stdout             string     `json:"stdout"`
	Stderr             string     `json:"stderr"`
	Encoding           string     `json:"encoding"`
	Cursor             string     `json:"cursor"`
	More               bool       `json:"more"`
	SurvivesDisconnect bool       `json:"survives_disconnect"`
	Error              *toolError `json:"error"`
}

// job calls a tool about a job.
func (c *client) job(t *testing.T, tool string, arguments args) jobResult {
	t.Helper()
	return decode[jobResult](t, c.callTool(t, tool, arguments))
}

// startJob starts a job that must begin.
func (c *client) startJob(t *testing.T, device, command string) jobResult {
	t.Helper()
	j := c.job(t, "ssh_job_start", args{"device": device, "command": command})
	if j.Error != nil || j.State != "running" || !j.SurvivesDisconnect || j.JobID == "" {
		t.Fatalf("the job did not begin: %+v, error %+v", j, j.Error)
	}
	return j
}

// listed returns a job as ssh_job_list has it.
func (c *client) listed(t *testing.T, id string) jobResult {
	t.Helper()
	list := decode[struct {
		Jobs []jobResult `json:"jobs"`
	}](t, c.callTool(t, "ssh_job_list", args{}))
	for _, j := range list.Jobs {
		if j.JobID == id {
			return j
		}
	}
	t.Fatalf("the job %s is not among %d listed", id, len(list.Jobs))
	return jobResult{}
}

// followed reads a job to its end and returns it with its whole stdout.
func (c *client) followed(t *testing.T, id string) (jobResult, []byte) {
	t.Helper()
	var stdout []byte
	a := args{"job_id": id, "wait_s": 20}
	for {
		j := c.job(t, "ssh_job_get", a)
		if j.Error != nil {
			t.Fatalf("ssh_job_get: %+v", j.Error)
		}
		part := []byte(j.Stdout)
		if j.Encoding == "base64" {
			var err error
			if part, err = base64.StdEncoding.DecodeString(j.Stdout); err != nil {
				t.Fatal(err)
			}
		}
		stdout = append(stdout, part...)
		if j.State != "running" && j.State != "queued" && !j.More {
			return j, stdout
		}
		a["cursor"] = j.Cursor
	}
}

// A job is started, the tunnel is cut, the job ends, the tunnel returns: its
// exit code and its complete output are there.
func TestJobOutlivesTheTunnel(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	tn := g.openTunnel(t)
	c := g.frontend.stdio(t)
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	dir := shortDir(t)
	goOn, binary := filepath.Join(dir, "go-on"), filepath.Join(dir, "binary")
	content := make([]byte, 100<<10)
	for i := range content {
		content[i] = byte(i * i)
	}
	write(t, binary, string(content), 0o644)
	program := filepath.Join(dir, "program")
	write(t, program, "#!/bin/sh\necho begun\nwhile [ ! -e "+goOn+" ]; do sleep 0.1; done\ncat "+binary+"\nexit 7\n", 0o755)

	j := c.startJob(t, tunnelDevice, program)
	tn.stop(t, syscall.SIGTERM)
	eventually(t, soon, "the tunnel is gone", func() error { return g.acceptor.gone(t, tunnelDevice, tunnelPort) })
	eventually(t, 2*soon, "the job is unreachable", func() error {
		got := c.job(t, "ssh_job_get", args{"job_id": j.JobID})
		if got.State != "unreachable" || got.Error == nil || got.Error.Code != "TUNNEL_DOWN" {
			return fmt.Errorf("state %s, error %+v", got.State, got.Error)
		}
		return nil
	})
	if got := c.listed(t, j.JobID); got.State != "unreachable" {
		t.Errorf("listed as %s", got.State)
	}
	write(t, goOn, "", 0o644) // it ends while nobody can reach it
	eventually(t, soon, "the job has ended", func() error {
		if (marked{program}).pids(t) != nil {
			return errors.New("it runs")
		}
		return nil
	})
	g.openTunnel(t)
	eventually(t, soon, "the device works again", func() error { return errorOf(c.works(t, tunnelDevice)) })
	got, stdout := c.followed(t, j.JobID)
	if got.State != "exited" || got.ExitCode == nil || *got.ExitCode != 7 || !bytes.Equal(stdout, append([]byte("begun\n"), content...)) {
		t.Errorf("state %s, code %v, %d bytes", got.State, show(got.ExitCode), len(stdout))
	}
}

// The daemon stops or is killed while a job runs: the next one lists it, and
// learns of its end by itself. Another client sees it too.
func TestJobOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	for name, sig := range map[string]os.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFrontend(t, "")
			f.addDirect(t, directDevice, server, logins[0], userKey)
			daemon := f.serve(t)
			first := f.attach(t)
			m := newMarked(t)
			j := first.startJob(t, directDevice, "echo out; sleep "+m.number)
			m.running(t)
			_ = first.Close() // a client that leaves takes no job with it
			if got := f.attach(t).listed(t, j.JobID); got.State != "running" {
				t.Errorf("another client sees %s", got.State)
			}
			daemon.stop(t, sig)
			if len(m.pids(t)) == 0 {
				t.Fatal("the job went with the daemon")
			}
			if sig == os.Signal(syscall.SIGKILL) { // what it left of its socket is cleared by the next
				_ = os.Remove(f.mcpSocket)
			}
			f.serve(t)
			second := f.attach(t)
			if got := second.listed(t, j.JobID); got.State != "running" {
				t.Errorf("after the restart: %s, %s", got.State, got.Reason)
			}
			for _, pid := range m.pids(t) {
				_ = syscall.Kill(pid, syscall.SIGTERM) // something on the device ends it
			}
			eventually(t, 6*soon, "the end is on record, though nobody asked", func() error {
				for _, r := range readAudit(t, f.auditLog) {
					if r.Event == "job_finished" && r.RunID == j.JobID {
						return nil
					}
				}
				return errors.New("no job_finished")
			})
			got, stdout := second.followed(t, j.JobID)
			if got.State != "exited" || string(stdout) != "out\n" {
				t.Errorf("got %+v, %q", got, stdout)
			}
		})
	}
}

// A job is stopped with all that it has started, also what ignores TERM, and
// stopping it again changes nothing.
func TestJobStop(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	for _, as := range logins {
		f.addDirect(t, "by-"+string(as), server, as, userKey)
	}
	c := f.stdio(t)
	stubborn := filepath.Join(shortDir(t), "stubborn")
	write(t, stubborn, "#!/bin/sh\ntrap '' TERM\nsleep $1\nsleep $1\n", 0o755)
	for _, as := range logins {
		t.Run(string(as), func(t *testing.T) {
			m := newMarked(t)
			j := c.startJob(t, "by-"+string(as), stubborn+" "+m.number+" | cat | "+stubborn+" "+m.number)
			m.running(t)
			for range 2 {
				got := c.job(t, "ssh_job_stop", args{"job_id": j.JobID, "grace_s": 1})
				if left := m.pids(t); got.State != "stopped" || got.Error != nil || len(left) > 0 {
					t.Errorf("state %s, error %+v, %v left", got.State, got.Error, left)
				}
			}
		})
	}
}

// Ten megabytes come whole through the cursor.
func TestJobOutputIsWhole(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)
	file := filepath.Join(shortDir(t), "binary")
	const size = 10 << 20
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * i >> 8)
	}
	write(t, file, string(content), 0o644)
	j := c.startJob(t, directDevice, "cat "+file)
	start := time.Now()
	got, stdout := c.followed(t, j.JobID)
	t.Logf("%d bytes in %v", len(stdout), time.Since(start))
	if got.State != "exited" || !bytes.Equal(stdout, content) {
		t.Errorf("state %s, %d bytes, want %d", got.State, len(stdout), size)
	}
}
