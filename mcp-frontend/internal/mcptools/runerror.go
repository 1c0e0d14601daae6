package mcptools

import (
	"errors"
	"fmt"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

// runError says what a model should know of a run that did not end by itself;
// nil for one that did, whatever its exit code.
func runError(seen remote.Result, timeout, longest time.Duration) *toolError {
	e := &toolError{Stage: "exec", FixBy: byModel}
	switch seen.Outcome {
	case remote.Exited, remote.Signaled:
		return nil
	case remote.TimedOut:
		e.Code, e.Message = "TIMEOUT", fmt.Sprintf("the command was stopped after %s", timeout)
		e.Hint = "run something shorter, give it a longer timeout_s, or start it with ssh_job_start; " + stateHint(seen)
		if longest > 0 && timeout >= longest {
			e.Hint = "run something shorter: this device allows no longer timeout_s; " + stateHint(seen)
		}
	case remote.Cancelled:
		e.Code, e.Message, e.Hint = "CANCELLED", "the call was cancelled, by the client or because the gateway is shutting down", stateHint(seen)
	case remote.NotConnected:
		e.Code, e.Message, e.Retriable = "CHANNEL_REFUSED", fmt.Sprintf("the device did not take the command: %v", seen.Err), true
		e.Hint, e.FixBy = "nothing has run; try again, or ask the operator whether the login user may run commands there", byOperator
	default:
		e.Code, e.Message, e.Retriable = "CONNECTION_LOST", fmt.Sprintf("the connection was lost: %v", seen.Err), seen.Executed == remote.No
		e.Hint = map[remote.Executed]string{
			remote.No:    "nothing has run: call again",
			remote.Maybe: "it may have run: look at the device before you run it again",
			remote.Yes:   "it was running and may still be: look at the device before you run it again",
		}[seen.Executed]
		if seen.State == remote.StateExited {
			e.Hint = "it ran to its end, and how it ended was seen; the last of its output may be missing"
		}
	}
	return e
}

func stateHint(seen remote.Result) string {
	switch {
	case seen.Executed == remote.No:
		return "nothing has run"
	case seen.State == remote.StateStopped:
		return "it was stopped, and its end was seen"
	}
	return "its end was not seen: it may still be running on the device"
}

func notConnectedOutcome(err error) string {
	var e *sshpool.Error
	if errors.As(err, &e) && e.Code == sshpool.Cancelled {
		return string(remote.Cancelled)
	}
	return string(remote.NotConnected)
}
