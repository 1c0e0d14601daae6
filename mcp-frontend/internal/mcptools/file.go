package mcptools

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/files"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

const (
	// maxTransfer bounds a transfer, which otherwise may take as long as data
	// moves; stallTransfer is for how long it may not.
	maxTransfer   = 24 * time.Hour
	stallTransfer = time.Minute
)

// fileCall is one call of an SFTP tool on its way: judge, record, act, record.
type fileCall struct {
	tools   *tools
	began   time.Time
	device  string
	ask     pathJudge
	record  audit.Record // what every record of this call says
	started bool         // transfer_started is on record
	verdict policy.Verdict
	unkept  error // why it could not be recorded
}

// pathJudge is how a tool asks the policy about a path.
type pathJudge func(p *policy.Policy, resolved string) policy.Verdict

// fileResult is what an SFTP tool answers, and what is recorded of it.
type fileResult struct {
	value  any
	bytes  int64
	sha256 string
}

// deniedPath is the policy's no.
type deniedPath struct{ policy.Verdict }

func (d deniedPath) Error() string { return d.Reason }

func (t *tools) newFileCall(ctx context.Context, tool, device, path string, ask pathJudge) *fileCall {
	c := &fileCall{tools: t, began: time.Now(), device: device, ask: ask, record: t.record(ctx, "")}
	c.record.Tool, c.record.RunID, c.record.Device, c.record.Path = tool, rand.Text(), clip(device), clip(path)
	return c
}

// do connects, and lets act do its work in an SFTP session that ends with the
// time limit.
func (c *fileCall) do(ctx context.Context, path string, timeout time.Duration, act func(s *files.Session, r files.Request) (fileResult, error)) result {
	if _, err := c.tools.cfg.Pool.Device(c.device); err != nil {
		return c.failed("transfer_failed", "not_connected", connectError(err))
	}
	waiting, cancel := context.WithTimeout(ctx, min(timeout, maxConnect)+maxConnect)
	defer cancel()
	lease, err := c.tools.cfg.Pool.Acquire(waiting, c.device)
	if err != nil {
		return c.failed("transfer_failed", notConnectedOutcome(err), connectError(err))
	}
	c.record.TunnelID = lease.TunnelID
	running, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	session, err := files.Open(running, lease.Client, sync.OnceFunc(lease.Release))
	if err != nil {
		return c.failedFile(err)
	}
	defer session.Close()
	seen, err := act(session, files.Request{Path: path, Judge: c.judge, Permit: c.permit})
	if err != nil {
		return c.failedFile(err)
	}
	return c.finished(seen)
}

// judge asks the policy of now.
func (c *fileCall) judge(resolved string) error {
	c.verdict = c.ask(c.tools.cfg.Policy(c.device), resolved)
	c.record.Decision, c.record.Rule, c.record.Path = string(c.verdict.Decision), c.verdict.Rule, resolved
	if c.verdict.Decision != policy.Allow {
		return deniedPath{c.verdict}
	}
	return nil
}

// permit puts the call on record before anything is opened.
func (c *fileCall) permit(string) error {
	started := c.record
	started.Event = "transfer_started"
	_, c.unkept = c.tools.cfg.Record(started)
	c.started = c.unkept == nil
	return c.unkept
}

// failedFile answers what went wrong in the session.
func (c *fileCall) failedFile(err error) result {
	if c.unkept != nil {
		return failure(auditUnavailable(c.unkept))
	}
	e, ok := errors.AsType[*files.Error](err)
	if !ok {
		return c.failed("transfer_failed", "failed", c.tools.internal("working on a file", err))
	}
	event, outcome := "transfer_failed", fileOutcomes[e.Kind]
	switch {
	case c.started:
		event = "transfer_finished"
	case e.Kind == files.Denied:
		event = "transfer_denied"
	}
	if outcome == "" {
		outcome = "failed"
	}
	return c.failed(event, outcome, c.tools.fileError(c.record.Tool, e))
}

// failed records and answers an error. What had begun is told even if that
// cannot be recorded.
func (c *fileCall) failed(event, outcome string, e toolError) result {
	r := c.record
	r.Event, r.Outcome, r.Reason, r.DurationMS = event, outcome, clip(e.Code+": "+e.Message), time.Since(c.began).Milliseconds()
	if _, err := c.tools.cfg.Record(r); err != nil && !c.started {
		return failure(auditUnavailable(err))
	}
	return failure(e)
}

func (c *fileCall) finished(seen fileResult) result {
	r := c.record
	r.Event, r.Outcome, r.DurationMS = "transfer_finished", "completed", time.Since(c.began).Milliseconds()
	r.Bytes, r.SHA256 = seen.bytes, seen.sha256
	if _, err := c.tools.cfg.Record(r); err != nil { // it is done: the model must learn that
		c.tools.cfg.Log.Error("a finished transfer could not be recorded", "run_id", r.RunID, "error", err)
	}
	return result{value: seen.value}
}

// fileTimeout is how long a call may work on one file.
func (t *tools) fileTimeout(device string) time.Duration {
	l := t.cfg.Limits(device)
	if l.DefaultTimeout == 0 {
		l.DefaultTimeout = time.Minute // of a device that has gone: Acquire finds out
	}
	if l.MaxTimeout > 0 {
		return min(l.DefaultTimeout, l.MaxTimeout)
	}
	return l.DefaultTimeout
}

// refuseFile answers arguments that do not fit, and records that it did.
func (t *tools) refuseFile(tool string) func(context.Context, json.RawMessage, string) result {
	return func(ctx context.Context, raw json.RawMessage, problem string) result {
		var args struct {
			Device     string `json:"device"`
			Path       string `json:"path"`
			RemotePath string `json:"remote_path"`
		}
		_ = json.Unmarshal(raw, &args) // some of them have the wrong type, which is the problem
		c := t.newFileCall(ctx, tool, args.Device, args.Path+args.RemotePath, nil)
		return c.failed("transfer_denied", "denied", invalidArgument(problem))
	}
}

// report tells the client how far a transfer is, once a second, until stopped.
func (t *tools) report(ctx context.Context, moved *progressed) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	if t.cfg.Progress != nil {
		reporting.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if done, total := moved.done.Load(), moved.total.Load(); done > 0 {
					t.cfg.Progress(ctx, float64(done), fmt.Sprintf("%d of %d bytes", done, total))
				}
			}
		})
	}
	return func() {
		cancel()
		reporting.Wait()
	}
}
