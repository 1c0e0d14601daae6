package approvals_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
)

// A hostile agent fills neither the operator's list nor the memory, and others
// still find a place.
func TestFlood(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	ask := func(session, name string, n int) error {
		r := by(session, fmt.Sprint("reboot ", n))
		r.ClientName = name
		_, err := s.Ask(approvals.ViaOperator, r)
		return err
	}
	taken := 0
	for n := range 1000 {
		switch err := ask("s1", "agent", n); {
		case err == nil:
			taken++
		case !errors.Is(err, approvals.ErrTooMany):
			t.Fatal(err)
		}
	}
	if taken != 8 || len(s.Waiting()) != 8 {
		t.Errorf("one client has %d requests, %d wait; want 8", taken, len(s.Waiting()))
	}
	s.Ended("s1")
	if err := ask("s2", "agent", 5000); !errors.Is(err, approvals.ErrTooMany) {
		t.Errorf("the same client under a new session: got %v, want ErrTooMany", err)
	}
	for n := range 1000 { // one that comes back under ever new names
		session := fmt.Sprint("flood", n)
		if err := ask(session, session, n); err != nil {
			t.Fatalf("client %d: %v", n, err)
		}
		s.Ended(session)
	}
	if n := len(s.Waiting()); n != 64 {
		t.Errorf("%d wait, want 64", n)
	}
	if err := ask("honest", "honest", 1); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// Without a record nothing is asked, granted or used, and nothing is lost.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	s, tr := newStore(t)
	r := by("s1", "reboot")
	tr.full = true
	if _, err := s.Ask(approvals.ViaOperator, r); !errors.Is(err, approvals.ErrUnrecorded) || len(s.Waiting()) != 0 {
		t.Errorf("asking: got %v and %d that wait", err, len(s.Waiting()))
	}
	tr.full = false
	a := mustAsk(t, s, approvals.ViaOperator, r)
	tr.full = true
	if _, err := s.Decide(a.ID, approvals.ViaOperator, true, "operator uid 0", ""); !errors.Is(err, approvals.ErrUnrecorded) {
		t.Errorf("granting: got %v", err)
	}
	if found, err := s.Find(a.ID, r); err != nil || found.State != approvals.Pending {
		t.Errorf("afterwards: got %v, %v, want pending", found.State, err)
	}
	tr.full = false
	mustGrant(t, s, a)
	tr.full = true
	if err := s.Redeem(a.ID, r); !errors.Is(err, approvals.ErrUnrecorded) {
		t.Errorf("using: got %v", err)
	}
	tr.full = false
	if err := s.Redeem(a.ID, r); err != nil {
		t.Errorf("using it later: %v", err)
	}
}

// What an agent wrote cannot steer the terminal of who decides, hide a part of
// itself, or pose as another line.
func TestLinesAreSafeToShow(t *testing.T) {
	t.Parallel()
	r := by("s1", "'rm' 'a\nasked by: the operator'\x1b[2K\u202e\u200b\u00a0\u2028\x7f'päckchen'")
	r.ClientName = "x\"\n\x1b]0;owned\a"
	a := approvals.Approval{ID: "0000-0000", Request: r}
	want := `'rm' 'a\x0aasked by: the operator'\x1b[2K\u{202e}\u{200b}\u{a0}\u{2028}\x7f'päckchen'`
	if got := a.Lines()[1]; got != [2]string{"command", want} {
		t.Errorf("got %q, want %q", got[1], want)
	}
	for _, line := range a.Lines() {
		if strings.ContainsAny(line[1], "\n\x1b\a") {
			t.Errorf("%s: %q", line[0], line[1])
		}
	}
	if got := approvals.Visible("a\xffb"); got != `a\xffb` {
		t.Errorf("bad UTF-8: got %q", got)
	}
	if lines := strings.Count(a.Question(), "\n"); lines != 1+len(a.Lines()) {
		t.Errorf("the question has %d line ends:\n%s", lines, a.Question())
	}
}
