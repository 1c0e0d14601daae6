package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// record is what these tests read of an audit record, DESIGN section 8.
type record struct {
	Seq      uint64 `json:"seq"`
	Time     string `json:"time"`
	Process  string `json:"process"`
	Event    string `json:"event"`
	Session  string `json:"session"`
	Device   string `json:"device"`
	TunnelID string `json:"tunnel_id"`
	RunID    string `json:"run_id"`
	Command  string `json:"command"`
	Outcome  string `json:"outcome"`
	ExitCode *int   `json:"exit_code"`
	SHA256   string `json:"sha256"`
	Prev     string `json:"prev"`
	Hash     string `json:"hash"`

	Decision   string `json:"decision"`
	Rule       string `json:"rule"`
	ApprovalID string `json:"approval_id"`
	DecidedBy  string `json:"decided_by"`
	Reason     string `json:"reason"`

	Client struct {
		Name       string `json:"name"`
		Unverified bool   `json:"unverified"`
	} `json:"client"`
}

// readAudit reads an audit file and checks its chain.
func readAudit(t *testing.T, path string) []record {
	t.Helper()
	var records []record
	for line := range strings.Lines(read(t, path)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: a line is no JSON: %v\n%s", path, err, line)
		}
		if _, err := time.Parse(time.RFC3339Nano, r.Time); err != nil || r.Process == "" || r.Event == "" {
			t.Errorf("%s: time, process or event is missing: %s", path, line)
		}
		if got := hashOf(t, line); got != r.Hash {
			t.Errorf("%s: the record %d hashes to %s and says %s", path, r.Seq, got, r.Hash)
		}
		if n := len(records); n > 0 {
			before := records[n-1]
			if r.Seq != before.Seq+1 || r.Prev != before.Hash {
				t.Errorf("%s: the record %d with prev %s follows %d with hash %s", path, r.Seq, r.Prev, before.Seq, before.Hash)
			}
		}
		records = append(records, r)
	}
	if len(records) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return records
}

// hashOf computes a record's hash: SHA-256 of the line without its hash, which
// is the last member.
func hashOf(t *testing.T, line string) string {
	t.Helper()
	body, _, found := strings.Cut(strings.TrimSuffix(line, "\n"), `,"hash":"`)
	if !found {
		t.Fatalf("the hash is not the last member: %s", line)
	}
	sum := sha256.Sum256([]byte(body + "}"))
	return hex.EncodeToString(sum[:])
}

func TestAudit(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	c := g.frontend.stdio(t)
	eventually(t, soon, "the tunnel device works", func() error { return errorOf(c.works(t, tunnelDevice)) })

	// Words that the trail must not have: what a command printed and what it was given.
	const output, stdin = "MARKER-OF-OUTPUT", "MARKER-OF-STDIN"
	file := filepath.Join(shortDir(t), "file")
	write(t, file, output, 0o644)
	runs := map[string]struct {
		run     runResult
		command string // words that the recorded command has
		code    int
	}{
		"direct":   {c.run(t, directDevice, "cat "+file), file, 0},
		"tunnel":   {c.run(t, tunnelDevice, "cat "+file), file, 0},
		"stdin":    {c.run(t, directDevice, "cat", args{"stdin": stdin}), "cat", 0},
		"non-zero": {c.run(t, directDevice, "ls /MARKER-OF-COMMAND"), "/MARKER-OF-COMMAND", 2},
	}
	records := readAudit(t, g.frontend.auditLog) // while the process still writes: what is answered is on disk

	for name, want := range runs {
		t.Run(name, func(t *testing.T) {
			want.run.exited(t, want.code)
			var started, finished *record
			for i, r := range records {
				if r.RunID != want.run.RunID {
					continue
				}
				switch r.Event {
				case "run_started":
					if finished != nil || started != nil {
						t.Error("run_started is not the run's first record")
					}
					started = &records[i]
				case "run_finished":
					finished = &records[i]
				}
			}
			if started == nil || finished == nil {
				t.Fatalf("run_started: %v, run_finished: %v", started, finished)
			}
			if started.Device != want.run.Device || !strings.Contains(started.Command, want.command) {
				t.Errorf("run_started has the device %q and the command %q; want %s and %q", started.Device, started.Command, want.run.Device, want.command)
			}
			if started.Client.Name != "e2e" || !started.Client.Unverified {
				t.Errorf("client: got %+v, want e2e, unverified", started.Client)
			}
			if finished.Outcome != "exited" || finished.ExitCode == nil || *finished.ExitCode != want.code {
				t.Errorf("run_finished has the outcome %q and the exit code %v", finished.Outcome, show(finished.ExitCode))
			}
			sum := sha256.Sum256([]byte(want.run.Stdout))
			if finished.SHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("run_finished has the sha256 %q of the output, want %x", finished.SHA256, sum)
			}
			if seq := want.run.AuditSeq; seq != started.Seq && seq != finished.Seq {
				t.Errorf("audit_seq: got %d, the run's records are %d and %d", seq, started.Seq, finished.Seq)
			}
		})
	}

	t.Run("refusals", func(t *testing.T) {
		c.run(t, "nowhere", "true").refused(t, "DEVICE_NOT_FOUND")
		before := len(records)
		if after := readAudit(t, g.frontend.auditLog); len(after) == before {
			t.Error("a call that was refused left no record")
		}
	})

	if code := g.acceptor.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the acceptor ended with %d", code)
	}
	tunnels := map[string]bool{}
	for _, r := range readAudit(t, g.acceptor.auditLog) {
		if r.Device == tunnelDevice && r.TunnelID != "" {
			tunnels[r.TunnelID] = true
		}
	}
	t.Run("joined by tunnel_id", func(t *testing.T) {
		for _, r := range records {
			if r.RunID == runs["tunnel"].run.RunID && r.TunnelID != "" && tunnels[r.TunnelID] {
				return
			}
		}
		t.Errorf("no record of the run through the tunnel has one of the acceptor's tunnel ids %v", tunnels)
	})

	for _, path := range []string{g.frontend.auditLog, g.acceptor.auditLog} {
		if got := perm(t, path); got != 0o600 {
			t.Errorf("%s has the mode %o, want 600", path, got)
		}
		for _, words := range []string{output, stdin, "BEGIN OPENSSH"} {
			if strings.Contains(read(t, path), words) {
				t.Errorf("%s has %q", path, words)
			}
		}
	}
}

// Two clients that each start `stdio` write one file, and its chain holds.
func TestAuditOfTwoProcesses(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	const runs = 10
	clients := []*client{f.stdio(t), f.stdio(t)}
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for range runs {
				run, err := c.try(t.Context(), directDevice, "true")
				if err == nil {
					err = errorOf(run.Error)
				}
				if err != nil {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	finished := 0
	for _, r := range readAudit(t, f.auditLog) {
		if r.Event == "run_finished" {
			finished++
		}
	}
	if want := runs * len(clients); finished != want {
		t.Errorf("run_finished: got %d records, want %d", finished, want)
	}
}

// What cannot be recorded does not run.
func TestAuditUnavailable(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	f.auditLog = "/dev/full" // every write fails: no space left on device
	ran := filepath.Join(shortDir(t), "ran")

	done := runCmd(t, f.command("stdio")) // its stdin is at its end
	if done.code != 0 {
		// An audit log that is no regular file may as well refuse the start.
		if lineCount := strings.Count(strings.TrimSpace(done.stderr), "\n"); !strings.Contains(done.stderr, "/dev/full") || lineCount > 2 {
			t.Errorf("stdio ended with %d and said:\n%s", done.code, done.stderr)
		}
		return
	}
	c := f.stdio(t)
	c.run(t, directDevice, fmt.Sprint("touch ", ran)).refused(t, "AUDIT_UNAVAILABLE")
	if _, err := filepath.EvalSymlinks(ran); err == nil {
		t.Error("the command ran without a record")
	}
}
