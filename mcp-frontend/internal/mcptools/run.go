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

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// Limits bound a run on a device.
type Limits struct {
	DefaultTimeout time.Duration
	MaxTimeout     time.Duration // 0 = no bound but the schema's
	MaxOutputBytes int64         // of each stream; 0 = no bound but the schema's
}

const defaultOutputBytes = 16 << 10

type runArgs struct {
	Device         string  `json:"device"`
	Command        string  `json:"command"`
	Cwd            string  `json:"cwd"`
	Stdin          *string `json:"stdin"`
	TimeoutS       int     `json:"timeout_s"`
	MaxOutputBytes *int    `json:"max_output_bytes"`
	DryRun         bool    `json:"dry_run"`
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
	Decision string `json:"decision"`
	Rule     string `json:"rule"`
}

type limits struct {
	TimeoutS       int `json:"timeout_s"`
	MaxOutputBytes int `json:"max_output_bytes"`
}

// aRun is one run on its way through the tool.
type aRun struct {
	tools   *tools
	began   time.Time
	args    runArgs
	judged  *policy.Policy
	verdict policy.Verdict
	text    string // what is sent
	timeout time.Duration
	output  int
	shell   remote.Shell
	keeper  keeper
	record  audit.Record // what every record of this run says
	result  runResult
}

// judge is how a tool asks the policy about a command.
type judge func(p *policy.Policy, command string) policy.Verdict

// run is ssh_run and ssh_run_readonly: judge, connect, record, run, record.
func (t *tools) run(tool string, ask judge) func(context.Context, runArgs) result {
	return func(ctx context.Context, args runArgs) result { return t.runOne(ctx, tool, ask, args) }
}

func (t *tools) runOne(ctx context.Context, tool string, ask judge, args runArgs) result {
	r := t.newRun(ctx, tool, args)
	if _, err := t.cfg.Pool.Device(args.Device); err != nil {
		return r.failed("run_failed", string(remote.NotConnected), connectError(err))
	}
	if e := r.bound(t.cfg.Limits(args.Device)); e != nil {
		return r.failed("run_denied", "denied", *e)
	}
	denied := r.judge(ask, t.cfg.Policy(args.Device))
	if args.DryRun && r.verdict.Decision != policy.Deny {
		return r.dryRun()
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
	if e := r.judgeAgain(ask); e != nil {
		release()
		return r.failed("run_denied", "denied", *e)
	}
	if e := r.settleShell(waiting, lease); e != nil {
		release()
		return r.failed("run_failed", string(remote.NotConnected), *e)
	}

	running, stop := context.WithTimeout(ctx, r.timeout)
	defer stop()
	command := r.command(ctx, release)
	command.Spare = lease.Spare
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
		return t.newRun(ctx, tool, args).failed("run_denied", "denied", invalidArgument(problem))
	}
}

// maxConnect is more than any device's connect timeout with its retries.
const maxConnect = time.Minute

func (t *tools) newRun(ctx context.Context, tool string, args runArgs) *aRun {
	r := &aRun{tools: t, began: time.Now(), args: args, record: t.record(ctx, "")}
	r.keeper = keeper{tools: t, id: outputs.NewID()}
	r.result = runResult{
		RunID: rand.Text(), Device: args.Device, Executed: string(remote.No), RemoteState: string(remote.StateUnknown),
		Encoding: "utf-8", Policy: policyResult{Decision: "none", Rule: "not judged"},
	}
	r.record.Tool, r.record.RunID = tool, r.result.RunID
	r.record.Device, r.record.Command, r.record.Cwd = clip(args.Device), clip(args.Command), clip(args.Cwd)
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
	r.result.Via, r.result.Connect = string(lease.Device.Mode), "new"
	if lease.Reused {
		r.result.Connect = "reused"
	}
	r.record.TunnelID = lease.TunnelID
}

func (r *aRun) command(ctx context.Context, done func()) remote.Command {
	c := remote.Command{
		Text: r.text, MaxOutput: r.output, Spill: r.keeper.spill, Done: done, Posix: r.shell == remote.Posix,
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
