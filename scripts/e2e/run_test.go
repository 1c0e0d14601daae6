package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// runResult is what ssh_run returns, DESIGN section 6.
type runResult struct {
	isError bool

	RunID       string     `json:"run_id"`
	Device      string     `json:"device"`
	Via         string     `json:"via"`
	Outcome     string     `json:"outcome"`
	ExitCode    *int       `json:"exit_code"`
	Signal      *string    `json:"signal"`
	Executed    string     `json:"executed"`
	RemoteState string     `json:"remote_state"`
	Stdout      string     `json:"stdout"`
	Stderr      string     `json:"stderr"`
	StdoutBytes int64      `json:"stdout_bytes"`
	StderrBytes int64      `json:"stderr_bytes"`
	Encoding    string     `json:"encoding"`
	Truncated   bool       `json:"truncated"`
	OutputID    *string    `json:"output_id"`
	DurationMS  float64    `json:"duration_ms"`
	Connect     string     `json:"connect"`
	Policy      policy     `json:"policy"`
	AuditSeq    uint64     `json:"audit_seq"`
	Error       *toolError `json:"error"`
}

type policy struct {
	Decision string `json:"decision"`
	Rule     string `json:"rule"`
}

// toolError is an error that a model can act on.
type toolError struct {
	Code        string   `json:"code"`
	Message     string   `json:"message"`
	Stage       string   `json:"stage"`
	Retriable   *bool    `json:"retriable"`
	RetryAfterS *float64 `json:"retry_after_s"`
	Hint        string   `json:"hint"`
	NextTool    *string  `json:"next_tool"`
	FixBy       string   `json:"fix_by"`
	ApprovalID  string   `json:"approval_id"`
}

// run calls ssh_run. more adds to the arguments.
func (c *client) run(t *testing.T, device, command string, more ...args) runResult {
	t.Helper()
	arguments := args{"device": device, "command": command}
	for _, m := range more {
		maps.Copy(arguments, m)
	}
	return decodeRun(t, c.callTool(t, "ssh_run", arguments))
}

func decodeRun(t *testing.T, result *mcp.CallToolResult) runResult {
	t.Helper()
	run := decode[runResult](t, result)
	run.isError = result.IsError
	return run
}

// try is run for goroutines that must not end the test.
func (c *client) try(ctx context.Context, device, command string, more ...args) (runResult, error) {
	var run runResult
	arguments := args{"device": device, "command": command}
	for _, m := range more {
		maps.Copy(arguments, m)
	}
	result, err := c.CallTool(ctx, toolCall("ssh_run", arguments))
	if err != nil {
		return run, err
	}
	content, err := json.Marshal(result.StructuredContent)
	if err != nil {
		return run, err
	}
	run.isError = result.IsError
	return run, json.Unmarshal(content, &run)
}

// exited fails the test unless the command ran to its end with this code.
func (r runResult) exited(t *testing.T, code int) {
	t.Helper()
	if r.isError || r.Error != nil || r.Outcome != "exited" || r.Executed != "yes" || r.RemoteState != "exited" {
		t.Fatalf("the command did not run to its end: isError %v, outcome %q, executed %q, remote_state %q, error %+v, stderr %q",
			r.isError, r.Outcome, r.Executed, r.RemoteState, r.Error, r.Stderr)
	}
	if r.ExitCode == nil || *r.ExitCode != code {
		t.Fatalf("exit code: got %v, want %d (stdout %q, stderr %q)", show(r.ExitCode), code, r.Stdout, r.Stderr)
	}
	if r.Signal != nil && *r.Signal != "" {
		t.Fatalf("signal: got %q of a command that exited", *r.Signal)
	}
}

// refused fails the test unless the call ended with this code before anything
// ran, and says what happened and what to do next.
func (r runResult) refused(t *testing.T, code string) toolError {
	t.Helper()
	if r.Error == nil || !r.isError {
		t.Fatalf("got isError %v, error %+v, outcome %q, stdout %q; want the error %s", r.isError, r.Error, r.Outcome, r.Stdout, code)
	}
	e := *r.Error
	if e.Code != code {
		t.Fatalf("got the error %+v, want %s", e, code)
	}
	if r.Executed != "no" {
		t.Errorf("%s: executed: got %q, want no", code, r.Executed)
	}
	if e.Message == "" || e.Hint == "" || e.Stage == "" || e.Retriable == nil {
		t.Errorf("%s: message, hint, stage or retriable is missing: %+v", code, e)
	}
	if e.FixBy != "model" && e.FixBy != "operator" {
		t.Errorf("%s: fix_by: got %q, want model or operator", code, e.FixBy)
	}
	return e
}

// bytes returns a stream as the command wrote it.
func (r runResult) bytes(t *testing.T, stream string) []byte {
	t.Helper()
	switch r.Encoding {
	case "utf-8":
		return []byte(stream)
	case "base64":
		raw, err := base64.StdEncoding.DecodeString(stream)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	default:
		t.Fatalf("encoding: got %q, want utf-8 or base64", r.Encoding)
		return nil
	}
}

// mustWork proves that the server still serves: it runs a command on a device.
func (c *client) mustWork(t *testing.T, device string) runResult {
	t.Helper()
	run := c.run(t, device, "echo it works")
	run.exited(t, 0)
	if run.Stdout != "it works\n" {
		t.Fatalf("stdout: got %q", run.Stdout)
	}
	return run
}

// works is mustWork for polling: it returns what is wrong.
func (c *client) works(t *testing.T, device string) *toolError {
	t.Helper()
	return c.run(t, device, "true").Error
}

func show[T any](p *T) any {
	if p == nil {
		return "none"
	}
	return *p
}
