package mcptools

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

const defaultOutputBytes = 16 << 10

type runArgs struct {
	Device         string  `json:"device"`
	Command        string  `json:"command"`
	Cwd            string  `json:"cwd"`
	Stdin          *string `json:"stdin"`
	TimeoutS       int     `json:"timeout_s"`
	MaxOutputBytes *int    `json:"max_output_bytes"`
	DryRun         bool    `json:"dry_run"`
	ApprovalID     string  `json:"approval_id"`
}

// runResult is what ssh_run answers.
type runResult struct {
	RunID       string       `json:"run_id"`
	Device      string       `json:"device"`
	Via         string       `json:"via"`
	Outcome     string       `json:"outcome"`
	ExitCode    *int         `json:"exit_code"`
	Signal      string       `json:"signal"`
	Executed    string       `json:"executed"`
	RemoteState string       `json:"remote_state"`
	Stdout      string       `json:"stdout"`
	Stderr      string       `json:"stderr"`
	StdoutBytes int64        `json:"stdout_bytes"`
	StderrBytes int64        `json:"stderr_bytes"`
	Encoding    string       `json:"encoding"`
	Truncated   bool         `json:"truncated"`
	OutputID    string       `json:"output_id"`
	DurationMS  int64        `json:"duration_ms"`
	Connect     string       `json:"connect"`
	Policy      policyResult `json:"policy"`
	Limits      *limits      `json:"limits,omitempty"`
	AuditSeq    uint64       `json:"audit_seq"`
	Error       *toolError   `json:"error,omitempty"`
}

type policyResult struct {
	Decision   string `json:"decision"`
	Rule       string `json:"rule"`
	ApprovalID string `json:"approval_id,omitempty"`
}

type limits struct {
	TimeoutS       int `json:"timeout_s"`
	MaxOutputBytes int `json:"max_output_bytes"`
}

// aRun is one run on its way through the tool.
type aRun struct {
	order
	args    runArgs
	timeout time.Duration
	output  int
	keeper  keeper
	result  runResult
}

// run is ssh_run and ssh_run_readonly: judge, connect, record, run, record.
func (t *tools) run(tool string, ask judge) func(context.Context, runArgs) result {
	return func(ctx context.Context, args runArgs) result { return t.runOne(ctx, tool, ask, args) }
}

func (t *tools) runOne(ctx context.Context, tool string, ask judge, args runArgs) result {
	r := t.newRun(ctx, tool, ask, args)
	if _, err := t.cfg.Pool.Device(args.Device); err != nil {
		return r.failed("run_failed", string(remote.NotConnected), connectError(err))
	}
	if e := r.bound(t.cfg.Limits(args.Device)); e != nil {
		return r.failed("run_denied", "denied", *e)
	}
	denied := r.judge()
	if args.DryRun && r.verdict.Decision != policy.Deny {
		return r.dryRun()
	}
	if r.verdict.Decision == policy.Approve {
		var question *mcp.CallToolResult
		if question, denied = r.approve(ctx, args.ApprovalID); question != nil {
			return result{question: question}
		}
		defer r.forgo()
		r.result.Policy = r.decision()
	}
	if denied != nil {
		return r.failed("run_denied", "denied", *denied)
	}
	// A call waits for its turn no longer than for connecting and running.
	waiting, cancel := context.WithTimeout(ctx, r.timeout+maxConnect)
	defer cancel()
	lease, err := t.cfg.Pool.Acquire(waiting, args.Device)
	if err != nil {
		return r.failed("run_failed", notConnectedOutcome(err), connectError(err))
	}
	release := sync.OnceFunc(lease.Release)
	r.connected(lease)
	if e := r.judgeAgain(); e != nil {
		release()
		return r.failed("run_denied", "denied", *e)
	}
	if e := r.settleShell(waiting, lease); e != nil {
		release()
		return r.failed("run_failed", string(remote.NotConnected), *e)
	}
	if e := r.redeem(); e != nil {
		release()
		return r.failed("run_denied", "denied", *e)
	}

	running, stop := context.WithTimeout(ctx, r.timeout)
	defer stop()
	command := r.toSend(ctx, release)
	command.Spare, command.Lost = lease.Spare, lease.Lost
	command.Stopping = func() { r.note("run_stopping") }
	var unrecorded error // read after Run, which waits for Permit
	command.Permit = func() error {
		started := r.record
		started.Event = "run_started"
		r.result.AuditSeq, unrecorded = t.cfg.Record(started)
		return unrecorded
	}
	seen := remote.Run(running, lease.Client, command)
	if unrecorded != nil {
		return r.failed("", string(remote.NotConnected), auditUnavailable(unrecorded))
	}
	return r.finished(seen)
}

// refuseRun answers arguments that do not fit with all that a run's result
// has. Of the arguments it keeps what can be read.
func (t *tools) refuseRun(tool string) func(context.Context, json.RawMessage, string) result {
	return func(ctx context.Context, raw json.RawMessage, problem string) result {
		var args runArgs
		_ = json.Unmarshal(raw, &args) // some of them have the wrong type, which is the problem
		return t.newRun(ctx, tool, nil, args).failed("run_denied", "denied", invalidArgument(problem))
	}
}

// maxConnect is more than any device's connect timeout with its retries.
const maxConnect = time.Minute

func (t *tools) newRun(ctx context.Context, tool string, ask judge, args runArgs) *aRun {
	r := &aRun{order: t.newOrder(ctx, tool, ask, args.Device, args.Command, args.Cwd), args: args}
	r.keeper = keeper{tools: t, id: outputs.NewID()}
	r.result = runResult{
		RunID: rand.Text(), Device: args.Device, Executed: string(remote.No), RemoteState: string(remote.StateUnknown),
		Encoding: "utf-8", Policy: r.decision(),
	}
	r.record.RunID = r.result.RunID
	if args.Stdin != nil {
		sum := sha256.Sum256([]byte(*args.Stdin))
		r.record.StdinBytes, r.record.StdinSHA256 = int64(len(*args.Stdin)), hex.EncodeToString(sum[:])
	}
	return r
}

// clip bounds what a call that is refused can add to the audit: a flood of
// refused calls must not push older records out. What runs is recorded whole.
func clip(text string) string {
	const limit = 2 << 10
	if len(text) <= limit {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%s... (%d bytes, sha256 %x)", strings.ToValidUTF8(text[:limit], ""), len(text), sum)
}

func (r *aRun) judge() *toolError {
	e := r.order.judge()
	r.result.Policy = r.decision()
	return e
}

// judgeAgain judges by the policy and the limits of now, if they have changed.
func (r *aRun) judgeAgain() *toolError {
	if !r.outdated() {
		return nil
	}
	if e := r.bound(r.tools.cfg.Limits(r.device)); e != nil {
		return e
	}
	return r.judge()
}

func (r *aRun) dryRun() result {
	r.result.Outcome = "dry_run"
	r.result.Limits = &limits{TimeoutS: seconds(r.timeout), MaxOutputBytes: r.output}
	record := r.record
	record.Event, record.Outcome, record.Executed = "run_dry", "dry_run", string(remote.No)
	seq, err := r.tools.cfg.Record(record)
	if err != nil {
		return r.failed("", string(remote.NotConnected), auditUnavailable(err))
	}
	r.result.AuditSeq = seq
	return result{value: r.result}
}

func (r *aRun) connected(lease *sshpool.Lease) {
	r.result.Via, r.result.Connect = string(lease.Device.Mode), connectWord(lease)
	r.record.TunnelID = lease.TunnelID
}

func (r *aRun) toSend(ctx context.Context, done func()) remote.Command {
	c := remote.Command{
		Text: r.text, MaxOutput: r.output, Spill: r.keeper.spill, Done: done, Posix: r.shell == remote.Posix, Setsid: r.setsid,
	}
	if quote := quoter(r.shell); quote != nil && !r.verdict.Verbatim {
		c.Posix, c.Quote = true, quote
	}
	if r.args.Stdin != nil {
		c.Stdin = []byte(*r.args.Stdin)
	}
	if r.tools.cfg.Progress != nil {
		c.Progress = func(line string) { r.tools.cfg.Progress(ctx, time.Since(r.began).Seconds(), line) }
	}
	return c
}

// failed answers a run that never began. event is "" if it cannot be recorded.
func (r *aRun) failed(event, outcome string, e toolError) result {
	r.result.Outcome, r.result.Error = outcome, &e
	r.result.DurationMS = time.Since(r.began).Milliseconds()
	if event == "" {
		return result{value: r.result, isError: true}
	}
	record := r.record
	record.Event, record.Outcome, record.Executed = event, outcome, string(remote.No)
	record.Reason, record.DurationMS = clip(e.Code+": "+e.Message), r.result.DurationMS
	seq, err := r.tools.cfg.Record(record)
	if err != nil {
		unavailable := auditUnavailable(err)
		r.result.Error = &unavailable
	}
	r.result.AuditSeq = seq
	return result{value: r.result, isError: true}
}

// finished answers a run that was sent to the device.
func (r *aRun) finished(seen remote.Result) result {
	res := &r.result
	res.Outcome, res.Executed, res.RemoteState = string(seen.Outcome), string(seen.Executed), string(seen.State)
	res.ExitCode, res.Signal = seen.ExitCode, seen.Signal
	res.OutputID = r.keeper.keep(seen)
	stdout, stderr := seen.Stdout.Bytes(), seen.Stderr.Bytes()
	res.Stdout, res.Stderr = string(stdout), string(stderr)
	if !isText(stdout) || !isText(stderr) {
		res.Encoding = "base64"
		res.Stdout, res.Stderr = base64.StdEncoding.EncodeToString(stdout), base64.StdEncoding.EncodeToString(stderr)
	}
	res.StdoutBytes, res.StderrBytes = seen.Stdout.Total(), seen.Stderr.Total()
	res.Truncated = seen.Stdout.Truncated() || seen.Stderr.Truncated()
	res.DurationMS = time.Since(r.began).Milliseconds()
	res.Error = runError(seen, r.timeout, r.tools.cfg.Limits(res.Device).MaxTimeout)

	record := r.record
	record.Event, record.Outcome, record.Executed = "run_finished", res.Outcome, res.Executed
	record.ExitCode, record.Signal, record.DurationMS = seen.ExitCode, seen.Signal, res.DurationMS
	if res.Error != nil {
		record.Reason = res.Error.Code + ": " + res.Error.Message + "; remote state " + res.RemoteState
	}
	record.Bytes, record.SHA256 = res.StdoutBytes, seen.Stdout.SHA256()
	record.StderrBytes, record.StderrSHA256 = res.StderrBytes, seen.Stderr.SHA256()
	if seq, err := r.tools.cfg.Record(record); err == nil {
		res.AuditSeq = seq
	} else { // it has run: the model must learn how it ended
		r.tools.cfg.Log.Error("a finished run could not be recorded", "run_id", res.RunID, "error", err)
	}
	return result{value: *res, isError: res.Error != nil}
}
