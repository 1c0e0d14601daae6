package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// asked is a frontend whose device runs `tee -a FILE` only after a human's yes.
// The file has a line for every run.
type asked struct {
	*frontend
	file string
}

func newAsked(t *testing.T, approveBy string) *asked {
	t.Helper()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // the device's user writes there
		t.Fatal(err)
	}
	a := &asked{frontend: newFrontend(t, ""), file: filepath.Join(dir, "runs")}
	e := directEntry(directDevice, server, logins[0])
	e["policy"] = args{"allow": []string{"echo **"}, "approve": []string{"tee **"}, "approve_by": approveBy}
	a.add(t, e, userKey, server.knownAtAddress())
	return a
}

func (a *asked) command() string { return "tee -a " + a.file }

// asks calls ssh_run with the command that needs a yes.
func (a *asked) asks(t *testing.T, c *client, more ...args) runResult {
	t.Helper()
	return c.run(t, directDevice, a.command(), append([]args{{"stdin": "ran\n"}}, more...)...)
}

// runs counts how often the command has run.
func (a *asked) runs(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(a.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "ran\n")
}

// events are the steps of approvals in the trail, and of the runs they led to.
func (a *asked) events(t *testing.T) (events []string) {
	t.Helper()
	for _, r := range readAudit(t, a.auditLog) {
		if r.ApprovalID != "" || strings.HasPrefix(r.Event, "approval_") {
			events = append(events, strings.TrimPrefix(r.Event, "approval_"))
		}
	}
	return events
}

// human answers elicitations, in a client's name.
type human struct {
	result  mcp.ElicitResult
	err     error
	think   time.Duration
	asked   atomic.Int32
	message atomic.Value
}

func (h *human) options() *mcp.ClientOptions {
	return &mcp.ClientOptions{ElicitationHandler: func(ctx context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
		h.asked.Add(1)
		h.message.Store(r.Params.Message)
		select {
		case <-time.After(h.think):
		case <-ctx.Done():
		}
		return &h.result, h.err
	}}
}

// generations are the two of the protocol that a client may speak.
var generations = []string{"2025-11-25", "2026-07-28"}

// A client that can ask its human does, in either generation, and only a plain
// yes lets the command run, once.
func TestApprovalByElicitation(t *testing.T) {
	t.Parallel()
	for _, protocol := range generations {
		for name, c := range map[string]struct {
			human  *human
			code   string
			events []string
		}{
			"accept":  {&human{result: mcp.ElicitResult{Action: "accept", Content: map[string]any{}}}, "", []string{"requested", "granted", "redeemed", "run_started", "run_finished"}},
			"decline": {&human{result: mcp.ElicitResult{Action: "decline"}}, "APPROVAL_DECLINED", []string{"requested", "denied", "run_denied"}},
			"cancel":  {&human{result: mcp.ElicitResult{Action: "cancel"}}, "APPROVAL_DECLINED", []string{"requested", "denied", "run_denied"}},
		} {
			t.Run(protocol+" "+name, func(t *testing.T) {
				t.Parallel()
				a := newAsked(t, "any")
				client := connectWith(t, a.frontend.command("stdio"), protocol, c.human.options())
				if dry := a.asks(t, client, args{"dry_run": true}); dry.isError || dry.Policy.Decision != "approve" || c.human.asked.Load() != 0 {
					t.Errorf("dry_run: got %+v, and %d questions", dry, c.human.asked.Load())
				}
				run := a.asks(t, client)
				want := 0
				if c.code == "" {
					run.exited(t, 0)
					want = 1
				} else {
					run.refused(t, c.code)
				}
				if run.Policy != (policy{Decision: "approve", Rule: `approve: "tee **"`}) {
					t.Errorf("policy: got %+v", run.Policy)
				}
				if n := a.runs(t); n != want || c.human.asked.Load() != 1 {
					t.Errorf("asked %d times, ran %d times; want 1 and %d", c.human.asked.Load(), n, want)
				}
				message := fmt.Sprint(c.human.message.Load())
				for _, fact := range []string{directDevice, "'tee' '-a' '" + a.file + "'", "4 bytes, sha256 ", `"e2e"`, "unverified", `approve: "tee **"`} {
					if !strings.Contains(message, fact) {
						t.Errorf("the human is not told %q:\n%s", fact, message)
					}
				}
				if got := a.events(t); !slices.Equal(got, c.events) {
					t.Errorf("recorded %v, want %v", got, c.events)
				}
				for _, r := range readAudit(t, a.auditLog) {
					if r.Event == "run_started" && (r.Decision != "approve" || r.ApprovalID == "" || !strings.HasPrefix(r.DecidedBy, "client session ")) {
						t.Errorf("run_started does not say who said yes: %+v", r)
					}
				}
			})
		}
	}
}

// What is no answer is no yes: an unknown action, an error, or one that comes
// when nobody waits any more.
func TestApprovalUnusableAnswers(t *testing.T) {
	t.Parallel()
	yes := mcp.ElicitResult{Action: "accept"}
	for _, c := range []struct {
		name, protocol string
		human          *human
		code           string
	}{
		{"malformed", generations[0], &human{result: mcp.ElicitResult{Action: "yes"}}, "APPROVAL_DECLINED"},
		{"malformed", generations[1], &human{result: mcp.ElicitResult{Action: "yes"}}, "APPROVAL_DECLINED"},
		{"an error", generations[0], &human{err: errors.New("no screen")}, "APPROVAL_DECLINED"},
		{"late", generations[0], &human{result: yes, think: 3 * time.Second}, "TIMEOUT"},
		{"late", generations[1], &human{result: yes, think: 3 * time.Second}, "HANDLE_EXPIRED"},
	} {
		t.Run(c.protocol+" "+c.name, func(t *testing.T) {
			t.Parallel()
			a := newAsked(t, "any")
			ttl := "1m"
			if c.human.think > 0 {
				ttl = "1s"
			}
			client := connectWith(t, a.frontend.command("stdio", "--approval-ttl", ttl), c.protocol, c.human.options())
			a.asks(t, client).refused(t, c.code)
			if c.human.think > 0 {
				<-time.After(c.human.think) // the older generation's answer comes now
			}
			client.run(t, directDevice, "echo the server still serves").exited(t, 0)
			if n := a.runs(t); n != 0 {
				t.Errorf("it ran %d times", n)
			}
		})
	}
}

// approve_by says who is asked, whatever the client could do.
func TestApproveBy(t *testing.T) {
	t.Parallel()
	yes := &human{result: mcp.ElicitResult{Action: "accept"}}
	a := newAsked(t, "operator")
	a.serve(t)
	able := connectWith(t, a.frontend.command("attach"), newestProtocol, yes.options())
	if e := a.asks(t, able).refused(t, "APPROVAL_REQUIRED"); e.ApprovalID == "" || yes.asked.Load() != 0 {
		t.Errorf("operator: got %+v, and %d questions to the client", e, yes.asked.Load())
	}
	b := newAsked(t, "client")
	b.serve(t)
	if e := b.asks(t, b.attach(t)).refused(t, "APPROVAL_REQUIRED"); e.ApprovalID != "" || !strings.Contains(e.Hint, "elicitation") {
		t.Errorf("client: got %+v, want no id", e)
	}
	b.asks(t, connectWith(t, b.frontend.command("attach"), newestProtocol, yes.options())).exited(t, 0)

	// Without a daemon there is no operator.
	c := newAsked(t, "any")
	if e := c.asks(t, c.stdio(t)).refused(t, "APPROVAL_REQUIRED"); e.ApprovalID != "" || !strings.Contains(e.Hint, "mcp-frontend serve") {
		t.Errorf("stdio: got %+v, want no id and a hint to use serve", e)
	}
	c.serve(t, "--operator-socket", "")
	if e := c.asks(t, c.attach(t)).refused(t, "APPROVAL_REQUIRED"); e.ApprovalID != "" {
		t.Errorf("--operator-socket \"\": got %+v, want no id", e)
	}
	for _, f := range []*asked{a, c} {
		if n := f.runs(t); n != 0 {
			t.Errorf("it ran %d times", n)
		}
	}
}

// An approval is judged by the policy of its use, and does not outlive the
// process.
func TestApprovalMeetsReloadAndRestart(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	daemon := a.serve(t)
	c := a.attach(t)
	approve := func() string {
		t.Helper()
		id := a.asks(t, c).refused(t, "APPROVAL_REQUIRED").ApprovalID
		if done := runCmd(t, a.frontend.command("approve", id)); done.code != 0 {
			t.Fatalf("approve: exit code %d: %s", done.code, done.stderr)
		}
		return id
	}
	reload := func(policy args) {
		t.Helper()
		a.entries[0]["policy"] = policy
		a.write(t)
		before := strings.Count(read(t, daemon.stderr), "reloaded connections.json")
		daemon.signal(t, syscall.SIGHUP)
		eventually(t, soon, "the reload", func() error {
			if strings.Count(read(t, daemon.stderr), "reloaded connections.json") == before {
				return errors.New("not yet")
			}
			return nil
		})
	}
	first := approve()
	reload(args{"deny": []string{"tee **"}})
	a.asks(t, c, args{"approval_id": first}).refused(t, "POLICY_DENIED")
	reload(args{"approve": []string{"tee **"}, "approve_by": "client"})
	a.asks(t, c, args{"approval_id": first}).refused(t, "APPROVAL_REQUIRED")
	reload(args{"approve": []string{"tee **"}})
	a.asks(t, c, args{"approval_id": first}).exited(t, 0)

	second := approve()
	if code := daemon.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	a.serve(t)
	c = a.attach(t)
	a.asks(t, c, args{"approval_id": second}).refused(t, "HANDLE_EXPIRED")
	if n := a.runs(t); n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}
}
