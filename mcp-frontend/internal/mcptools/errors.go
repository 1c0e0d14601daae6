package mcptools

import (
	"errors"
	"math"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

// toolError is what a model can act on.
type toolError struct {
	Code        string `json:"code"`
	Message     string `json:"message"`
	Stage       string `json:"stage"`
	Retriable   bool   `json:"retriable"`
	RetryAfterS int    `json:"retry_after_s"`
	Hint        string `json:"hint"`
	NextTool    string `json:"next_tool"`
	FixBy       string `json:"fix_by"`
	ApprovalID  string `json:"approval_id,omitempty"`
}

const (
	byModel    = "model"
	byOperator = "operator"
)

// failure is a result that is nothing but an error.
func failure(e toolError) result {
	return result{value: map[string]any{"error": e}, isError: true}
}

func invalidArgument(problem string) toolError {
	return toolError{
		Code: "INVALID_ARGUMENT", Message: problem, Stage: "arguments",
		Hint: "correct the arguments and call again; nothing was done", FixBy: byModel,
	}
}

// auditUnavailable: what cannot be recorded is not done.
func auditUnavailable(err error) toolError {
	return toolError{
		Code: "AUDIT_UNAVAILABLE", Message: "the audit trail cannot be written, so nothing is done: " + err.Error(), Stage: "audit",
		Retriable: true, RetryAfterS: 10, Hint: "tell the operator: the disk of the gateway may be full", FixBy: byOperator,
	}
}

// connectError translates a failure to reach a device.
func connectError(err error) toolError {
	var e *sshpool.Error
	if !errors.As(err, &e) {
		return toolError{Code: "INTERNAL", Message: "the device could not be reached for an unexpected reason", Stage: "dial", Hint: "tell the operator to look at the gateway's log", FixBy: byOperator}
	}
	t := toolError{
		Code: string(e.Code), Message: e.Err.Error(), Stage: e.Stage, Retriable: e.Retriable,
		RetryAfterS: seconds(e.RetryAfter), Hint: e.Hint, FixBy: e.FixBy,
	}
	switch e.Code {
	case sshpool.DeviceNotFound, sshpool.TunnelDown, sshpool.AcceptorDown, sshpool.BackingOff:
		t.NextTool = "ssh_list_devices"
	case sshpool.DialFailed, sshpool.AuthFailed, sshpool.HostKeyUnknown, sshpool.HostKeyMismatch:
		t.NextTool = "ssh_diagnose"
	default:
	}
	return t
}

// internal is an error that is our own: its text goes to the log only.
func (t *tools) internal(doing string, err error) toolError {
	t.cfg.Log.Error("internal error", "doing", doing, "error", err)
	return toolError{
		Code: "INTERNAL", Message: "something in the gateway failed while " + doing, Stage: "gateway",
		Hint: "tell the operator to look at the gateway's log", FixBy: byOperator,
	}
}

// seconds rounds up, so that waiting so long is always enough.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
