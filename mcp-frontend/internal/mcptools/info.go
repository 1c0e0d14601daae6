package mcptools

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

type infoArgs struct {
	Device  string `json:"device"`
	Refresh bool   `json:"refresh"`
}

// infoResult is what ssh_device_info answers.
type infoResult struct {
	Device      string     `json:"device"`
	Mode        string     `json:"mode"`
	State       string     `json:"state"`
	Failures    int        `json:"failures"`
	LastError   string     `json:"last_error"`
	RetryAfterS int        `json:"retry_after_s"`
	Connect     string     `json:"connect"`
	Policy      []string   `json:"policy"`
	Cached      bool       `json:"cached"`
	ProbedAt    *time.Time `json:"probed_at,omitempty"`
	LoginShell  string     `json:"login_shell,omitempty"`
	HostKey     *hostKey   `json:"host_key,omitempty"`
	facts
	Error *toolError `json:"error,omitempty"`
}

type hostKey struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
}

// probed is what a device was found to be.
type probed struct {
	at      time.Time
	shell   remote.Shell
	hostKey hostKey
	facts   facts
}

// infoTimeout bounds the probe.
const infoTimeout = 20 * time.Second

// deviceInfo asks the device once, and then only if it is told to.
func (t *tools) deviceInfo(ctx context.Context, args infoArgs) result {
	r := t.record(ctx, "tool_called")
	r.Tool, r.Device = "ssh_device_info", clip(args.Device)
	if _, err := t.cfg.Record(r); err != nil {
		return failure(auditUnavailable(err))
	}
	d, err := t.cfg.Pool.Device(args.Device)
	if err != nil {
		return failure(connectError(err))
	}
	res := infoResult{Device: d.Name, Mode: string(d.Mode), Policy: t.cfg.Policy(d.Name).Words()}
	if known, ok := t.probed.Load(d.Login()); ok && !args.Refresh {
		res.Cached = true
		found, _ := known.(probed)
		res.found(found)
	} else {
		res.Error = t.probe(ctx, r, d.Name, &res)
	}
	if t.cfg.Tunnels != nil {
		t.cfg.Tunnels.Settle(ctx)
	}
	now := t.describe(t.cfg.Pool.StatusOf(d))
	res.State, res.Failures, res.LastError, res.RetryAfterS = now.State, now.Failures, now.LastError, now.RetryAfterS
	return result{value: res, isError: res.Error != nil}
}

func (res *infoResult) found(p probed) {
	res.ProbedAt, res.LoginShell, res.HostKey, res.facts = &p.at, string(p.shell), &p.hostKey, p.facts
}

// probe connects, records, and asks. As it runs on the device, it is on record
// before and after.
func (t *tools) probe(ctx context.Context, about audit.Record, name string, res *infoResult) *toolError {
	waiting, cancel := context.WithTimeout(ctx, maxConnect)
	defer cancel()
	lease, err := t.cfg.Pool.Acquire(waiting, name)
	if err != nil {
		e := connectError(err)
		return &e
	}
	release := sync.OnceFunc(lease.Release)
	res.Connect = connectWord(lease)
	res.HostKey = shownKey(lease.HostKey)
	login, err := t.shellOf(waiting, lease)
	if err != nil {
		release()
		return shellUnknown(err)
	}
	shell := login.kind
	res.LoginShell = string(shell)
	command := remote.Command{Text: factsProbe, Posix: true, MaxOutput: factsOutput, Done: release, Quote: quoter(shell)}
	command.Spare, command.Lost, command.Setsid = lease.Spare, lease.Lost, login.setsid
	if shell != remote.Posix && command.Quote == nil {
		release()
		return unsupportedShell(lease, shell, "no facts are known; ask the operator")
	}
	about.TunnelID, about.Command = lease.TunnelID, factsProbe
	var unrecorded error // read after Run, which waits for Permit
	command.Permit = func() error {
		unrecorded = t.note(about, "probe_started")
		return unrecorded
	}
	began := time.Now()
	running, stop := context.WithTimeout(ctx, infoTimeout)
	defer stop()
	seen := remote.Run(running, lease.Client, command)
	if unrecorded != nil {
		e := auditUnavailable(unrecorded)
		return &e
	}
	about.Command = "" // it stands in probe_started
	about.Outcome, about.Executed, about.ExitCode = string(seen.Outcome), string(seen.Executed), seen.ExitCode
	about.Bytes, about.SHA256, about.DurationMS = seen.Stdout.Total(), seen.Stdout.SHA256(), time.Since(began).Milliseconds()
	if err := t.note(about, "probe_finished"); err != nil { // it has run: the model may as well know the answer
		t.cfg.Log.Error("a finished probe could not be recorded", "device", name, "error", err)
	}
	if e := runError(seen, infoTimeout, 0); e != nil {
		if seen.Outcome == remote.TimedOut {
			e.Hint = "the device may be overloaded, or its file system may hang; " + stateHint(seen)
		}
		return e
	}
	found, ok := parseFacts(string(seen.Stdout.Bytes()))
	if !ok {
		e := unsupportedShell(lease, shell, "no facts are known; ask the operator what the login user's shell is, and whether sshd forces a command")
		e.Message = fmt.Sprintf("the login shell of %s on %s did not run the probe", lease.Device.User, lease.Device.Name)
		return e
	}
	answer := probed{at: time.Now().UTC().Truncate(time.Second), shell: shell, facts: found, hostKey: *res.HostKey}
	t.probed.Store(lease.Device.Login(), answer)
	res.found(answer)
	return nil
}

// note records a step of what about says.
func (t *tools) note(about audit.Record, event string) error {
	about.Event = event
	_, err := t.cfg.Record(about)
	return err
}

func connectWord(lease *sshpool.Lease) string {
	if lease.Reused {
		return "reused"
	}
	return "new"
}

// shownKey is a host key as ssh-keygen -l shows it; of a certificate its key.
func shownKey(key ssh.PublicKey) *hostKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return &hostKey{Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)}
}
