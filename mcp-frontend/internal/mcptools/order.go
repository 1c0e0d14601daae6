package mcptools

import (
	"context"
	"strings"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// order is a command that an agent wants run on a device, on its way to being
// sent: judged by the device's policy, put on record, and quoted for the shell
// that reads it.
type order struct {
	tools   *tools
	began   time.Time
	ask     judge
	device  string
	command string // as the agent wrote it
	cwd     string // "" = where the login begins
	judged  *policy.Policy
	verdict policy.Verdict
	text    string // what is sent, once it is judged
	shell   remote.Shell
	setsid  bool         // whether the shell must be made the leader of a process group
	record  audit.Record // what every record of this order says
	by      approvals.Requester
	granted *approvals.Approval // a human's yes, if the policy asks for one and it was given
}

// judge is how a tool asks the policy about a command.
type judge func(p *policy.Policy, command string) policy.Verdict

func (t *tools) newOrder(ctx context.Context, tool string, ask judge, device, command, cwd string) order {
	o := order{tools: t, began: time.Now(), ask: ask, device: device, command: command, cwd: cwd, record: t.record(ctx, "")}
	o.by = t.requester(ctx)
	o.record.Tool = tool
	o.record.Device, o.record.Command, o.record.Cwd = clip(device), clip(command), clip(cwd)
	return o
}

// judge asks the policy of now, and settles what is sent if it agrees.
func (o *order) judge() *toolError {
	o.judged = o.tools.cfg.Policy(o.device)
	o.verdict = o.ask(o.judged, o.command)
	o.text = o.verdict.Canonical
	if o.cwd != "" && o.verdict.Decision != policy.Deny {
		if cwd := o.judged.Cwd(o.cwd); cwd.Decision != policy.Allow {
			o.verdict = cwd
		}
		o.text = o.judged.WithCwd(o.text, o.cwd)
	}
	o.record.Decision, o.record.Rule = string(o.verdict.Decision), o.verdict.Rule
	switch o.verdict.Decision {
	case policy.Allow:
		o.record.Command = o.text
		return nil
	case policy.Approve:
		if o.approved() {
			return nil
		}
		o.record.Command = clip(o.text)
		return o.approvalRequired()
	default:
		return denied(o.verdict)
	}
}

// outdated says whether a reload has replaced the policy that judged:
// connecting may have taken long.
func (o *order) outdated() bool { return o.tools.cfg.Policy(o.device) != o.judged }

// decision is the verdict as the agent sees it.
func (o *order) decision() policyResult {
	if o.judged == nil {
		return policyResult{Decision: "none", Rule: "not judged"}
	}
	return policyResult{Decision: string(o.verdict.Decision), Rule: o.verdict.Rule, ApprovalID: o.record.ApprovalID}
}

// note records a step that no act waits for.
func (o *order) note(event string) {
	record := o.record
	record.Event = event
	if _, err := o.tools.cfg.Record(record); err != nil {
		o.tools.cfg.Log.Error("a step of a run could not be recorded", "event", event, "run_id", record.RunID, "error", err)
	}
}

// denied names the way out: another command where the text itself was the
// reason, the operator where the device's policy was.
func denied(v policy.Verdict) *toolError {
	e := &toolError{
		Code: "POLICY_DENIED", Message: v.Reason, Stage: "policy", FixBy: byModel,
		Hint: "nothing has run; the message names the place and the way out",
	}
	if byPolicy(v.Rule) {
		e.FixBy, e.Hint = byOperator, "nothing has run; only the operator can widen the device's policy. The resource ssh://policy/NAME says what it allows"
	}
	return e
}

// byPolicy says whether a rule is the device's own policy, which only an
// operator can change, rather than one about how commands are written.
func byPolicy(rule string) bool {
	return strings.HasPrefix(rule, "allow") || strings.HasPrefix(rule, "deny") || rule == "static: sudo"
}
