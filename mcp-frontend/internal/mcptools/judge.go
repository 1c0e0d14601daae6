package mcptools

import (
	"fmt"
	"strings"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
)

// Limits bound a run on a device.
type Limits struct {
	DefaultTimeout time.Duration
	MaxTimeout     time.Duration // 0 = no bound but the schema's
	MaxOutputBytes int64         // of each stream; 0 = no bound but the schema's
}

// bound settles timeout and output size.
func (r *aRun) bound(l Limits) *toolError {
	r.timeout, r.output = time.Duration(r.args.TimeoutS)*time.Second, defaultOutputBytes
	if r.args.MaxOutputBytes != nil {
		r.output = *r.args.MaxOutputBytes
	}
	if r.timeout == 0 {
		r.timeout = l.DefaultTimeout
		if l.MaxTimeout > 0 {
			r.timeout = min(r.timeout, l.MaxTimeout)
		}
	}
	if r.args.MaxOutputBytes == nil && l.MaxOutputBytes > 0 {
		r.output = min(r.output, int(l.MaxOutputBytes))
	}
	switch {
	case l.MaxTimeout > 0 && r.timeout > l.MaxTimeout:
		return limitExceeded(fmt.Sprintf("timeout_s may be at most %d on this device", int(l.MaxTimeout.Seconds())))
	case l.MaxOutputBytes > 0 && int64(r.output) > l.MaxOutputBytes:
		return limitExceeded(fmt.Sprintf("max_output_bytes may be at most %d on this device", l.MaxOutputBytes))
	}
	return nil
}

func limitExceeded(message string) *toolError {
	return &toolError{Code: "LIMIT_EXCEEDED", Message: message, Stage: "policy", Hint: "call again within the limit", FixBy: byModel}
}

// judge asks the policy, and settles what is sent if it agrees.
func (r *aRun) judge(ask judge, p *policy.Policy) *toolError {
	r.judged, r.verdict = p, ask(p, r.args.Command)
	r.text = r.verdict.Canonical
	if r.args.Cwd != "" && r.verdict.Decision != policy.Deny {
		if cwd := p.Cwd(r.args.Cwd); cwd.Decision != policy.Allow {
			r.verdict = cwd
		}
		r.text = p.WithCwd(r.text, r.args.Cwd)
	}
	r.result.Policy = policyResult{Decision: string(r.verdict.Decision), Rule: r.verdict.Rule}
	r.record.Decision, r.record.Rule = string(r.verdict.Decision), r.verdict.Rule
	switch r.verdict.Decision {
	case policy.Allow:
		r.record.Command = r.text
		return nil
	case policy.Approve:
		return &toolError{
			Code: "APPROVAL_REQUIRED", Message: r.verdict.Reason, Stage: "policy",
			Hint: "this gateway cannot ask a human yet: tell the operator what you want to run and why", FixBy: byOperator,
		}
	default:
		return denied(r.verdict)
	}
}

// judgeAgain judges by the policy of now, if a reload has replaced the one
// that judged: connecting may have taken long.
func (r *aRun) judgeAgain(ask judge) *toolError {
	now := r.tools.cfg.Policy(r.args.Device)
	if now == r.judged {
		return nil
	}
	if e := r.bound(r.tools.cfg.Limits(r.args.Device)); e != nil {
		return e
	}
	return r.judge(ask, now)
}

// note records a step of the run that has no act to wait for.
func (r *aRun) note(event string) {
	record := r.record
	record.Event = event
	if _, err := r.tools.cfg.Record(record); err != nil {
		r.tools.cfg.Log.Error("a step of a run could not be recorded", "event", event, "run_id", r.result.RunID, "error", err)
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
