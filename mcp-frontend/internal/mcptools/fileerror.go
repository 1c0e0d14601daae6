package mcptools

import (
	"errors"
	"fmt"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/files"
)

// fileOutcomes are those that have a word of their own in the audit.
var fileOutcomes = map[files.Kind]string{
	files.Denied: "denied", files.ConnectionLost: "connection_lost", files.TimedOut: "timed_out", files.Cancelled: "cancelled",
	files.ChannelRefused: "not_connected", files.Unavailable: "not_connected",
}

// fileError says what a model should know of a file operation that failed.
func (t *tools) fileError(tool string, e *files.Error) toolError {
	r := toolError{Message: e.Error(), Stage: "sftp", FixBy: byModel}
	switch e.Kind {
	case files.Denied:
		r.Code = "PATH_DENIED"
		denial(e, &r)
	case files.NotFound:
		r.Code, r.Hint, r.NextTool = "NOT_FOUND", "look at the directory with sftp_list; sftp_write and sftp_upload make no directories", "sftp_list"
		if e.Gateway {
			r.Hint, r.NextTool, r.FixBy = "ask the operator to put the file there, or fetch one with sftp_download", "", byOperator
		}
	case files.AlreadyExists:
		r.Code, r.Hint = "ALREADY_EXISTS", "take another name, or allow to replace it (overwrite, or no create_only); nothing was changed"
	case files.Precondition:
		r.Code, r.Hint = "PRECONDITION_FAILED", "nothing was changed: read it again, then decide"
		if tool == "sftp_write" {
			r.NextTool = "sftp_read"
		}
	case files.Invalid:
		r.Code, r.Hint = "INVALID_ARGUMENT", "correct the path; nothing was changed"
	case files.LimitExceeded:
		r.Code, r.Hint = "LIMIT_EXCEEDED", "nothing was changed: ask for less, or free space. Of a directory too large to list, ls by ssh_run_readonly shows a part"
	default:
		t.transportError(tool, e, &r)
	}
	return r
}

// denial says who may lift it.
func denial(e *files.Error, r *toolError) {
	denied, byRule := errors.AsType[deniedPath](e.Err)
	switch {
	case byRule:
		r.Stage, r.FixBy = "policy", byOperator
		r.Hint = "nothing was opened; the resource ssh://policy/NAME says what the device's policy allows, and only the operator can widen it"
		r.Message = fmt.Sprintf("%s (rule %s)", r.Message, denied.Rule)
	case e.Gateway:
		r.Stage, r.Hint = "arguments", "local_path names a file below the gateway's transfer directory, without links that lead out of it"
	default:
		r.FixBy, r.Hint = byOperator, "the login user of the device lacks the permission there: take another path, or tell the operator"
	}
}

// transportError is about the device rather than about the file.
func (t *tools) transportError(tool string, e *files.Error, r *toolError) {
	kept := "look at the file before you write again: it is the old one or the new one, whole"
	switch {
	case e.Kept > 0:
		kept = fmt.Sprintf("%d bytes are kept: call again with the same arguments, and it goes on from there", e.Kept)
	case tool == "sftp_upload" || tool == "sftp_download":
		kept = "call again with the same arguments; a file at the destination is whole"
	case tool != "sftp_write":
		kept = "call again"
	}
	switch e.Kind {
	case files.ConnectionLost:
		r.Code, r.Retriable, r.Hint = "CONNECTION_LOST", true, kept
	case files.TimedOut:
		r.Code, r.Retriable, r.Hint = "TIMEOUT", true, kept
	case files.Cancelled:
		r.Code, r.Retriable, r.Hint = "CANCELLED", true, kept
	case files.Unavailable:
		r.Code, r.FixBy = "SFTP_UNAVAILABLE", byOperator
		r.Hint = "this device offers no SFTP, or not all of it: read files with ssh_run_readonly (cat), or tell the operator to install sftp-server and to set Subsystem sftp in sshd_config"
		r.NextTool = "ssh_run_readonly"
	case files.ChannelRefused:
		r.Code, r.Retriable, r.FixBy, r.Hint = "CHANNEL_REFUSED", true, byOperator, "nothing was done: try again, or ask the operator whether the login user may open sessions there"
	case files.Busy:
		r.Code, r.Retriable, r.RetryAfterS, r.Hint = "BUSY", true, 5, "wait for the other call to end"
	case files.Local:
		*r = t.internal("reading or writing the transfer directory", e)
	default:
		r.Code, r.FixBy = "SFTP_UNAVAILABLE", byOperator
		r.Hint = "the device's SFTP server says no more than that: the file system may be read-only or broken; tell the operator"
	}
}
