package mcptools

import (
	"errors"
	"fmt"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
)

// approvalRequired says that a human must say yes, where nobody is asked.
func (o *order) approvalRequired() *toolError {
	e := &toolError{
		Code: "APPROVAL_REQUIRED", Message: fmt.Sprintf("a human must say yes to this command (%s)", o.verdict.Rule), Stage: "approval", FixBy: byOperator,
		Hint: "nothing has run; call again without approval_id to ask anew",
	}
	switch {
	case o.judged.ApproveBy() == policy.Client:
		e.Hint = "nothing has run: this device takes a yes only from the user of a client that can ask (MCP elicitation)"
	case !o.tools.cfg.Operator():
		e.Hint = "nothing has run, and nobody was asked: this gateway has no operator socket. Ask the operator to run mcp-frontend serve and to let clients attach to it"
	}
	return e
}

func declined(why string) *toolError {
	return &toolError{
		Code: "APPROVAL_DECLINED", Message: why, Stage: "approval", FixBy: byModel,
		Hint: "nothing has run. Do not ask for the same again: ask your human what to do instead",
	}
}

// unusable says why an approval does not count. Of another client's the agent
// learns nothing, the trail does.
func (o *order) unusable(err error) *toolError {
	if errors.Is(err, approvals.ErrUnrecorded) {
		e := auditUnavailable(err)
		return &e
	}
	if errors.Is(err, approvals.ErrTooMany) {
		e := limitExceeded(err.Error())
		e.Stage, e.Hint, e.Retriable, e.RetryAfterS = "approval", "nothing has run; wait until a human has decided what you asked for, or work on something else", true, 60
		return e
	}
	o.noteRefusal(err)
	e := &toolError{Code: "HANDLE_EXPIRED", Message: approvals.ErrUnknown.Error(), Stage: "approval", Hint: "nothing has run; call again without approval_id to ask anew", FixBy: byModel}
	if errors.Is(err, approvals.ErrOther) || errors.Is(err, approvals.ErrForged) {
		e.Code, e.Message = "INVALID_ARGUMENT", err.Error()
		e.Hint = "nothing has run; repeat the very call that was approved, or call without an approval to ask anew"
	}
	return e
}

// noteRefusal records an approval, or an answer, that does not count, and why.
func (o *order) noteRefusal(why error) {
	o.record.Reason = why.Error()
	o.note("approval_refused")
	o.record.Reason = ""
}
