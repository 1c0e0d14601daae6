package approvals_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

const ttl = 10 * time.Minute

// trail keeps the events of a store, and may be told to fail.
type trail struct {
	mu      sync.Mutex // guards what follows
	records []audit.Record
	full    bool
}

func (tr *trail) record(r audit.Record) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.full {
		return errors.New("no space left on device")
	}
	tr.records = append(tr.records, r)
	return nil
}

func (tr *trail) events() (events []string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, r := range tr.records {
		events = append(events, strings.TrimPrefix(r.Event, "approval_"))
	}
	return events
}

func newStore(t *testing.T) (*approvals.Store, *trail) {
	t.Helper()
	tr := new(trail)
	s, err := approvals.New(approvals.Config{TTL: ttl, Record: tr.record, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, tr
}

// by is a request of a conversation for a command.
func by(session, command string) approvals.Request {
	uid := uint32(1000)
	return approvals.Request{
		Act:       approvals.Act{Device: "edge-vm-1", Tool: "ssh_run", Command: command, StdinBytes: 2, StdinSHA256: "ab"},
		Requester: approvals.Requester{Session: session, PeerUID: &uid, ClientName: "agent", ClientVersion: "1"},
		Rule:      `approve: "reboot"`,
	}
}

func mustAsk(t *testing.T, s *approvals.Store, via approvals.Via, r approvals.Request) approvals.Approval {
	t.Helper()
	a, err := s.Ask(via, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustGrant(t *testing.T, s *approvals.Store, a approvals.Approval) {
	t.Helper()
	if _, err := s.Decide(a.ID, a.Via, true, "operator uid 0", ""); err != nil {
		t.Fatal(err)
	}
}

// What an operator approved is used once, and every step is on record.
func TestApprovedOnce(t *testing.T) {
	t.Parallel()
	s, tr := newStore(t)
	r := by("s1", "reboot")
	a := mustAsk(t, s, approvals.ViaOperator, r)
	if again := mustAsk(t, s, approvals.ViaOperator, r); again.ID != a.ID {
		t.Errorf("asking again: got %s, want the same %s", again.ID, a.ID)
	}
	if err := s.Redeem(a.ID, r); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("before the yes: got %v, want ErrUnknown", err)
	}
	if w := s.Waiting(); len(w) != 1 || w[0].ID != a.ID {
		t.Errorf("waiting: got %v, want %s", w, a.ID)
	}
	typed := strings.ReplaceAll(strings.ToUpper(a.ID), "-", "") // as a human may type it
	if _, err := s.Decide(typed, approvals.ViaOperator, true, "operator uid 0", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Decide(a.ID, approvals.ViaOperator, true, "operator uid 0", ""); !errors.Is(err, approvals.ErrDecided) {
		t.Errorf("a second yes: got %v, want ErrDecided", err)
	}
	var wins sync.WaitGroup
	won := make(chan error, 8)
	for range cap(won) {
		wins.Go(func() { won <- s.Redeem(a.ID, r) })
	}
	wins.Wait()
	used := 0
	for range cap(won) {
		if err := <-won; err == nil {
			used++
		} else if !errors.Is(err, approvals.ErrUnknown) {
			t.Errorf("redeeming at once: got %v, want ErrUnknown", err)
		}
	}
	if used != 1 {
		t.Errorf("used %d times, want once", used)
	}
	if got, want := tr.events(), []string{"requested", "granted", "redeemed"}; !slices.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
	for _, rec := range tr.records {
		if rec.ApprovalID != a.ID || rec.Command != "reboot" || rec.Device != "edge-vm-1" || rec.Session != "s1" || rec.Client.Name != "agent" || rec.StdinSHA256 != "ab" {
			t.Errorf("recorded %+v", rec)
		}
		if rec.Event != "approval_requested" && rec.DecidedBy != "operator uid 0" {
			t.Errorf("%s says it was decided by %q", rec.Event, rec.DecidedBy)
		}
	}
}

// An approval is for what was shown and for who asked; all else is refused and
// uses nothing up.
func TestBoundToActAndRequester(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	r := by("s1", "reboot")
	a := mustAsk(t, s, approvals.ViaOperator, r)
	mustGrant(t, s, a)
	other := uint32(1001)
	for name, c := range map[string]struct {
		change func(*approvals.Request)
		want   error
	}{
		"device":    {func(r *approvals.Request) { r.Device = "edge-vm-2" }, approvals.ErrOther},
		"tool":      {func(r *approvals.Request) { r.Tool = "ssh_job_start" }, approvals.ErrOther},
		"command":   {func(r *approvals.Request) { r.Command = "poweroff" }, approvals.ErrOther},
		"cwd":       {func(r *approvals.Request) { r.Cwd = "/tmp" }, approvals.ErrOther},
		"stdin":     {func(r *approvals.Request) { r.StdinSHA256 = "cd" }, approvals.ErrOther},
		"no stdin":  {func(r *approvals.Request) { r.StdinBytes, r.StdinSHA256 = 0, "" }, approvals.ErrOther},
		"session":   {func(r *approvals.Request) { r.Session = "s2" }, approvals.ErrRequester},
		"other uid": {func(r *approvals.Request) { r.Session, r.PeerUID = "s2", &other }, approvals.ErrRequester},
	} {
		changed := r
		c.change(&changed)
		if err := s.Redeem(a.ID, changed); !errors.Is(err, c.want) {
			t.Errorf("another %s: got %v, want %v", name, err, c.want)
		}
	}
	if err := s.Redeem(a.ID, r); err != nil {
		t.Errorf("the one who asked: got %v", err)
	}
}

// A client that restarts gets what its ended conversation asked for; one of
// another name or uid does not, nor does any while that conversation goes on.
func TestHeirOfAnEndedConversation(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	a := mustAsk(t, s, approvals.ViaOperator, by("s1", "reboot"))
	mustGrant(t, s, a)
	heir := by("s2", "reboot")
	if _, err := s.Find(a.ID, heir); !errors.Is(err, approvals.ErrRequester) {
		t.Errorf("while the first is there: got %v, want ErrRequester", err)
	}
	s.Ended("s1")
	stranger, foreign := heir, heir
	stranger.ClientName, foreign.PeerUID = "another", nil
	for name, r := range map[string]approvals.Request{"another name": stranger, "another uid": foreign} {
		if _, err := s.Find(a.ID, r); !errors.Is(err, approvals.ErrRequester) {
			t.Errorf("%s: got %v, want ErrRequester", name, err)
		}
	}
	if err := s.Redeem(a.ID, heir); err != nil {
		t.Errorf("the restarted client: got %v", err)
	}
}

// A no stays a no while it is remembered, and takes back what was not used.
func TestDenied(t *testing.T) {
	t.Parallel()
	s, tr := newStore(t)
	r := by("s1", "reboot")
	a := mustAsk(t, s, approvals.ViaOperator, r)
	mustGrant(t, s, a)
	if _, err := s.Decide(a.ID, approvals.ViaOperator, false, "operator uid 0", "not at night"); err != nil {
		t.Fatal(err)
	}
	if err := s.Redeem(a.ID, r); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("using what was taken back: got %v, want ErrUnknown", err)
	}
	if again := mustAsk(t, s, approvals.ViaOperator, r); again.State != approvals.Denied || again.Reason != "not at night" {
		t.Errorf("asking again: got %+v, want the no", again)
	}
	if got, want := tr.events(), []string{"requested", "granted", "denied"}; !slices.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
	if len(s.Waiting()) != 0 {
		t.Error("it still waits")
	}
}

// sleep is for synctest, where nobody waits in earnest.
func sleep(d time.Duration) { <-time.After(d) }

// Time ends what waits, what was granted and what was denied. The trail says so
// when it happens.
func TestExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, tr := newStore(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()

		waits, granted := by("s1", "reboot"), by("s1", "poweroff")
		mustAsk(t, s, approvals.ViaOperator, waits)
		g := mustAsk(t, s, approvals.ViaOperator, granted)
		q := mustAsk(t, s, approvals.ViaClient, waits)
		state := s.Seal(q.ID)
		sleep(ttl - time.Second)
		mustGrant(t, s, g)
		if _, err := s.Unseal(state, waits); !errors.Is(err, approvals.ErrUnknown) {
			t.Errorf("an answer after %s: got %v, want ErrUnknown", ttl, err)
		}
		sleep(2 * time.Second)
		if n := len(s.Waiting()); n != 0 {
			t.Errorf("%d still wait", n)
		}
		if _, err := s.Find(g.ID, granted); err != nil {
			t.Errorf("granted 2 s ago: got %v", err)
		}
		sleep(ttl)
		if err := s.Redeem(g.ID, granted); !errors.Is(err, approvals.ErrUnknown) {
			t.Errorf("granted long ago: got %v, want ErrUnknown", err)
		}
		synctest.Wait()
		if got, want := tr.events(), []string{"requested", "requested", "requested", "expired", "granted", "expired", "expired"}; !slices.Equal(got, want) {
			t.Errorf("recorded %v, want %v", got, want)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
}

// What has expired does not count, also if nobody has swept it away yet.
func TestExpiredBeforeItIsSwept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newStore(t) // and no Run
		r := by("s1", "reboot")
		pending, granted := mustAsk(t, s, approvals.ViaOperator, r), mustAsk(t, s, approvals.ViaOperator, by("s1", "halt"))
		question := mustAsk(t, s, approvals.ViaClient, r)
		state := s.Seal(question.ID)
		mustGrant(t, s, granted)
		sleep(ttl)
		if err := s.Redeem(granted.ID, granted.Request); !errors.Is(err, approvals.ErrUnknown) {
			t.Errorf("using what was granted: got %v, want ErrUnknown", err)
		}
		if _, err := s.Decide(pending.ID, approvals.ViaOperator, true, "operator uid 0", ""); !errors.Is(err, approvals.ErrUnknown) {
			t.Errorf("a yes: got %v, want ErrUnknown", err)
		}
		if _, err := s.Unseal(state, r); !errors.Is(err, approvals.ErrUnknown) {
			t.Errorf("a client's answer: got %v, want ErrUnknown", err)
		}
		if again := mustAsk(t, s, approvals.ViaOperator, r); again.ID == pending.ID {
			t.Error("asking again returned what has expired")
		}
	})
}
