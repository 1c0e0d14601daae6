package mcptools

import (
	"slices"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// A step of an approval that cannot be recorded does not happen, and the call
// can be made again when it can.
func TestApprovalNeedsItsRecords(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, args{"policy": args{"approve": []string{"echo *"}}}))
	a := args{"device": "edge", "command": "echo once"}
	failing := func(event string) func(audit.Record) bool {
		return func(r audit.Record) bool { return r.Event == event }
	}
	code := func(want string) *toolError {
		t.Helper()
		r := g.call(t, "ssh_run", a).run
		if r.Error == nil || r.Error.Code != want || r.Executed != "no" {
			t.Fatalf("got executed %s and %+v, want %s", r.Executed, r.Error, want)
		}
		return r.Error
	}
	g.trail.fails = failing("approval_requested")
	code("AUDIT_UNAVAILABLE")
	if n := len(g.waiting.Waiting()); n != 0 {
		t.Errorf("%d wait for an operator without a record", n)
	}
	g.trail.fails = nil
	e := code("APPROVAL_REQUIRED")
	if !strings.Contains(e.Hint, "mcp-frontend approve "+e.ApprovalID) || e.FixBy != byOperator {
		t.Errorf("the hint does not help: %+v", e)
	}
	if _, err := g.waiting.Decide(e.ApprovalID, approvals.ViaOperator, true, "operator uid 0", ""); err != nil {
		t.Fatal(err)
	}
	a["approval_id"] = e.ApprovalID
	g.trail.fails = failing("approval_redeemed")
	code("AUDIT_UNAVAILABLE")
	g.trail.fails = nil
	g.trail.events()
	r := g.call(t, "ssh_run", a).run
	if r.Error != nil || r.Stdout != "once\n" || r.Policy != (policyResult{Decision: "approve", Rule: `approve: "echo *"`, ApprovalID: e.ApprovalID}) {
		t.Errorf("got %+v, error %+v", r, r.Error)
	}
	if events, _ := g.trail.events(); !slices.Equal(events, []string{"approval_redeemed", "run_started", "run_finished"}) {
		t.Errorf("recorded %v", events)
	}
	code("HANDLE_EXPIRED")
}

// What only looks is not asked about: it is refused, whatever id it brings.
func TestReadonlyIsNotApprovable(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "", args{
		"name": "edge", "mode": "direct", "user": "nobody", "host": "127.0.0.1", "port": 1, "id_file": "nowhere", "policy": args{"approve": []string{"ls **"}},
	})
	if r := g.call(t, "ssh_run_readonly", args{"device": "edge", "command": "ls /"}).run; r.Error == nil || r.Error.Code != "POLICY_DENIED" {
		t.Errorf("got %+v, want POLICY_DENIED", r.Error)
	}
	if r := g.call(t, "ssh_run_readonly", args{"device": "edge", "command": "ls /", "approval_id": "0000-0000"}).run; r.Error == nil || r.Error.Code != "INVALID_ARGUMENT" {
		t.Errorf("got %+v, want INVALID_ARGUMENT", r.Error)
	}
	if n := len(g.waiting.Waiting()); n != 0 {
		t.Errorf("%d wait", n)
	}
}
