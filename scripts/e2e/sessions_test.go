package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The trail tells who talked to the frontend, from when to when, and why it
// ended. Health checks, of which there are many, leave nothing.
func TestSessionsAreRecorded(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	f.serve(t)
	for range 3 {
		if done := runCmd(t, f.command("healthcheck")); done.code != 0 {
			t.Fatalf("healthcheck: %s", done.stderr)
		}
	}
	for _, r := range readAudit(t, f.auditLog) {
		if strings.HasPrefix(r.Event, "session") {
			t.Errorf("a health check left the record %+v", r)
		}
	}

	for _, protocol := range []string{"2025-11-25", "2026-07-28"} {
		t.Run(protocol, func(t *testing.T) {
			c := connect(t, f.command("attach"), protocol)
			run := c.mustWork(t, directDevice)
			session := sessionOf(t, f, run.RunID)
			if got := eventsOf(t, f, session); got[0] != "session_started e2e" || strings.Contains(strings.Join(got[1:], " "), "session_") {
				t.Errorf("while it goes on: %v", got)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			eventually(t, soon, "the end is recorded", func() error {
				got := eventsOf(t, f, session)
				if want := "session_ended e2e"; got[len(got)-1] != want {
					return fmt.Errorf("the last record is %q, want %q", got[len(got)-1], want)
				}
				return nil
			})
			for line := range strings.Lines(read(t, f.auditLog)) {
				if !strings.Contains(line, `"session_ended"`) || !strings.Contains(line, session) {
					continue
				}
				for _, words := range []string{fmt.Sprintf(`"peer_uid":%d`, os.Getuid()), `"count":`, `"duration_ms":`, `"reason":"the client ended it"`, `"unverified":true`} {
					if !strings.Contains(line, words) {
						t.Errorf("session_ended has no %s: %s", words, line)
					}
				}
			}
		})
	}
}

// sessionOf is the session that asked for a run.
func sessionOf(t *testing.T, f *frontend, runID string) string {
	t.Helper()
	for _, r := range readAudit(t, f.auditLog) {
		if r.RunID == runID && r.Session != "" {
			return r.Session
		}
	}
	t.Fatalf("no record of %s has a session", runID)
	return ""
}

// eventsOf lists a session's records: the event and the client's name.
func eventsOf(t *testing.T, f *frontend, session string) []string {
	t.Helper()
	var events []string
	for _, r := range readAudit(t, f.auditLog) {
		if r.Session == session {
			events = append(events, r.Event+" "+r.Client.Name)
		}
	}
	return events
}
