package mcptools

import (
	"context"
	"fmt"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
)

// How a command that the policy puts under approve gets a human's yes:
//
//  1. approve, after judge and before connecting, asks the client's user or
//     enters the request for an operator, or takes the yes that the call brings.
//  2. judge, called again when connecting took long, counts that yes only if
//     the policy of then still takes it.
//  3. redeem, right before the command is sent, uses it up. (A job that waits
//     for its turn redeems when it is accepted: 2 goes on without the store.)
//
// A call that fails between 1 and 3 leaves an operator's yes usable, by its id,
// until it expires: nobody is woken twice because a device was out of reach. A
// client's yes goes with its call (forgo), as its human is there.

// question is the key of the only question that a call asks.
const question = "approval"

// approve gets the yes that the order needs. It returns a question for a
// client that is asked by a result, or why nothing may run.
func (o *order) approve(ctx context.Context, id string) (*mcp.CallToolResult, *toolError) {
	caller := o.tools.cfg.Caller(ctx)
	asked, ask := answerIn(ctx), o.verdict.Decision == policy.Approve && o.judged.ApproveBy() != policy.Operator && caller.Elicitation
	switch {
	case len(o.text) > approvals.MaxCommand:
		return nil, limitExceeded(fmt.Sprintf("a command that needs a human's yes may have at most %d bytes: somebody must read it", approvals.MaxCommand))
	case id != "":
		return nil, o.use(id)
	case asked.RequestState != "" || len(asked.InputResponses) > 0:
		return o.answered(asked)
	case ask && caller.Modern:
		return o.askByResult()
	case ask:
		return nil, o.askByRequest(ctx)
	case o.judged.ApproveBy() == policy.Client || !o.tools.cfg.Operator():
		return nil, o.approvalRequired()
	}
	return nil, o.askOperator()
}

// request is what a human is asked about.
func (o *order) request() approvals.Request {
	return approvals.Request{
		Act: approvals.Act{
			Device: o.device, Tool: o.record.Tool, Command: o.text, Cwd: o.cwd,
			StdinBytes: o.record.StdinBytes, StdinSHA256: o.record.StdinSHA256,
		},
		Requester: o.by, Rule: o.verdict.Rule,
	}
}

// approved says whether the yes that was given counts by the policy of now.
func (o *order) approved() bool {
	by := o.judged.ApproveBy()
	return o.granted != nil && o.granted.Act == o.request().Act && (by == policy.AnyHuman || by == string(o.granted.Via))
}

// redeem uses up the yes that the order was given, if it needs one.
func (o *order) redeem() *toolError {
	if o.verdict.Decision != policy.Approve {
		return nil
	}
	if !o.approved() {
		return o.approvalRequired()
	}
	if err := o.tools.cfg.Approvals.Redeem(o.granted.ID, o.request()); err != nil {
		return o.unusable(err)
	}
	return nil
}

// forgo gives up a client's yes that was not used.
func (o *order) forgo() {
	if o.granted != nil && o.granted.Via == approvals.ViaClient {
		o.tools.cfg.Approvals.Withdraw(o.granted.ID, "the call ended before the command was sent")
	}
}

// grant takes a as the order's yes.
func (o *order) grant(a approvals.Approval) *toolError {
	o.granted = &a
	o.record.ApprovalID, o.record.DecidedBy, o.record.Command = a.ID, a.DecidedBy, o.text
	if !o.approved() {
		return o.approvalRequired()
	}
	return nil
}

// use takes the approval that the agent names.
func (o *order) use(id string) *toolError {
	o.record.ApprovalID = clip(id)
	a, err := o.tools.cfg.Approvals.Find(id, o.request())
	switch {
	case err != nil:
		return o.unusable(err)
	case a.State == approvals.Granted:
		return o.grant(a)
	}
	return o.waits(a)
}

func (o *order) askOperator() *toolError {
	a, err := o.tools.cfg.Approvals.Ask(approvals.ViaOperator, o.request())
	if err != nil {
		return o.unusable(err)
	}
	o.record.ApprovalID = a.ID
	return o.waits(a)
}

// waits says what an agent does about an approval that it cannot use yet.
func (o *order) waits(a approvals.Approval) *toolError {
	if a.State == approvals.Denied {
		e := declined("the operator said no")
		if a.Reason != "" {
			e.Message += ": " + a.Reason
		}
		return e
	}
	e := o.approvalRequired()
	e.Retriable, e.RetryAfterS, e.ApprovalID = true, 10, a.ID
	e.Hint = fmt.Sprintf("nothing has run. Tell your human: run `mcp-frontend approve %s` on the gateway (`mcp-frontend approvals` shows what for). "+
		"Then repeat this very call with approval_id %q. It expires in %d s", a.ID, a.ID, seconds(time.Until(a.Expires)))
	if a.State == approvals.Granted {
		e.Message, e.RetryAfterS, e.FixBy = "the operator has said yes: name the approval in this call", 0, byModel
		e.Hint = fmt.Sprintf("repeat this very call with approval_id %q", a.ID)
	}
	return e
}

// askByRequest asks the client's user, and waits for the answer: the older
// protocol generation.
func (o *order) askByRequest(ctx context.Context) *toolError {
	store := o.tools.cfg.Approvals
	a, err := store.Ask(approvals.ViaClient, o.request())
	if err != nil {
		return o.unusable(err)
	}
	o.record.ApprovalID = a.ID
	waiting, cancel := context.WithDeadline(ctx, a.Expires)
	defer cancel()
	answer, err := o.tools.elicit(waiting, mcp.ElicitationRequest{Params: elicitation(a)})
	switch {
	case err != nil && ctx.Err() != nil:
		store.Withdraw(a.ID, "the call was cancelled while the client's user was asked")
		return &toolError{
			Code: "CANCELLED", Message: "the call was cancelled while the client's user was asked", Stage: "approval",
			Hint: "nothing has run", FixBy: byModel,
		}
	case err != nil && waiting.Err() != nil:
		store.Withdraw(a.ID, "the client's user did not answer in time")
		return &toolError{
			Code: "TIMEOUT", Message: "the client's user did not answer in time", Stage: "approval",
			Hint: "nothing has run. Tell your human what you want to run, then call again", FixBy: byOperator,
		}
	case err != nil:
		store.Withdraw(a.ID, "the client gave no usable answer: "+clip(err.Error()))
		e := declined("the client could not ask its user: " + clip(err.Error()))
		e.Hint = `nothing has run. Ask the operator to set "approve_by": "operator" in the device's policy if this client cannot ask`
		e.FixBy = byOperator
		return e
	}
	return o.decide(a, string(answer.Action))
}

// askByResult asks the client's user by a result that says so: the client calls
// again with the answer and the sealed state.
func (o *order) askByResult() (*mcp.CallToolResult, *toolError) {
	a, err := o.tools.cfg.Approvals.Ask(approvals.ViaClient, o.request())
	if err != nil {
		return nil, o.unusable(err)
	}
	state := o.tools.cfg.Approvals.Seal(a.ID)
	return server.NewInputRequestBuilder(state).Elicit(question, elicitation(a)).ToolResult(), nil
}

// answered takes the answer to a question that was asked by a result.
func (o *order) answered(given mcp.MultiRoundTripParams) (*mcp.CallToolResult, *toolError) {
	store := o.tools.cfg.Approvals
	a, err := store.Unseal(given.RequestState, o.request())
	if err != nil {
		return nil, o.unusable(err)
	}
	o.record.ApprovalID = a.ID
	if _, present := given.InputResponses[question]; !present {
		// The specification wants the question asked again.
		store.Withdraw(a.ID, "the client called again without an answer")
		return o.askByResult()
	}
	action := ""
	if answer := server.ElicitationResponse(given.InputResponses, question); answer != nil {
		action = string(answer.Action)
	}
	return nil, o.decide(a, action)
}

// decide acts on the answer of a client's user. Anything but accept is a no.
func (o *order) decide(a approvals.Approval, action string) *toolError {
	yes := action == string(mcp.ElicitationResponseActionAccept)
	var why string
	switch action {
	case string(mcp.ElicitationResponseActionAccept):
	case string(mcp.ElicitationResponseActionDecline):
		why = "the client's user said no"
	case string(mcp.ElicitationResponseActionCancel):
		why = "the client's user dismissed the question"
	default:
		why = fmt.Sprintf("the client answered %q, which is neither accept, decline nor cancel", clip(action))
	}
	decided, err := o.tools.cfg.Approvals.Decide(a.ID, approvals.ViaClient, yes, "client session "+o.by.Session, why)
	switch {
	case err != nil:
		return o.unusable(err)
	case yes:
		return o.grant(decided)
	}
	return declined(why)
}

func elicitation(a approvals.Approval) mcp.ElicitationParams {
	return mcp.ElicitationParams{
		Message: a.Question(),
		// Nothing is to be filled in: to accept is to say yes.
		RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{}},
	}
}

func (t *tools) requester(ctx context.Context) approvals.Requester {
	c := t.cfg.Caller(ctx)
	return approvals.Requester{Session: c.Session, PeerUID: c.PeerUID, ClientName: c.ClientName, ClientVersion: c.ClientVersion}
}

type answerKey struct{}

// withAnswer keeps what a client that was asked by a result calls again with.
func withAnswer(ctx context.Context, given mcp.MultiRoundTripParams) context.Context {
	if given.RequestState == "" && len(given.InputResponses) == 0 {
		return ctx
	}
	return context.WithValue(ctx, answerKey{}, given)
}

func answerIn(ctx context.Context) mcp.MultiRoundTripParams {
	given, _ := ctx.Value(answerKey{}).(mcp.MultiRoundTripParams)
	return given
}
