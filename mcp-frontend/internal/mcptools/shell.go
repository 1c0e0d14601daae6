package mcptools

import (
	"context"
	"fmt"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
)

// login is whose shell was probed.
type login struct{ device, user, host string }

// settleShell finds out what reads the command on the device: what was judged
// as POSIX must be read by a POSIX shell.
func (o *order) settleShell(ctx context.Context, lease *sshpool.Lease) *toolError {
	shell, err := o.tools.shellOf(ctx, lease)
	if err != nil {
		return shellUnknown(err)
	}
	o.shell, o.setsid = shell.kind, shell.setsid
	asItIs := o.verdict.Verbatim && o.cwd == "" // whatever the shell is, it reads its own text
	if o.shell == remote.Posix || asItIs || quoter(o.shell) != nil && !o.verdict.Verbatim {
		return nil
	}
	return unsupportedShell(lease, shell.kind, `nothing has run; ask the operator to give the login user a POSIX shell, or to set "shell": true in the device's policy`)
}

func shellUnknown(err error) *toolError {
	return &toolError{
		Code: "CONNECTION_LOST", Message: fmt.Sprintf("asking for the login shell: %v", err), Stage: "exec", Retriable: true,
		Hint: "nothing has run: call again", FixBy: byModel,
	}
}

func unsupportedShell(lease *sshpool.Lease, shell remote.Shell, hint string) *toolError {
	return &toolError{
		Code: "UNSUPPORTED_SHELL", Stage: "exec", FixBy: byOperator, Hint: hint,
		Message: fmt.Sprintf("the login shell of %s on %s does not read POSIX commands (%s)", lease.Device.User, lease.Device.Name, shell),
	}
}

// loginShell is what reads commands on a device.
type loginShell struct {
	kind   remote.Shell
	setsid bool // its commands need setsid(1) to be stopped for certain
}

// shellOf returns the login shell, and asks the device once for what is not
// declared.
func (t *tools) shellOf(ctx context.Context, lease *sshpool.Lease) (loginShell, error) {
	d := lease.Device
	key := login{d.Name, d.User, fmt.Sprintf("%s:%d", d.Host, d.Port)}
	if known, ok := t.shells.Load(key); ok {
		shell, _ := known.(loginShell)
		return shell, nil
	}
	shell := loginShell{kind: remote.Shell(d.LoginShell)}
	if shell.kind != "" && (shell.kind != remote.Posix || remote.LeadsGroups(lease.Client)) {
		return shell, nil
	}
	// One caller asks, the others wait: each has the right to one channel, which
	// is for its command.
	release, err := lease.Spare(ctx)
	if err != nil {
		return shell, err
	}
	defer release()
	if known, ok := t.shells.Load(key); ok {
		shell, _ := known.(loginShell)
		return shell, nil
	}
	probed := t.record(ctx, "shell_probed") // it runs on the device, so it is on record first
	probed.Device, probed.TunnelID = d.Name, lease.TunnelID
	if _, err := t.cfg.Record(probed); err != nil {
		return shell, err
	}
	if shell.kind == "" {
		shell.kind, err = remote.ProbeShell(ctx, lease.Client)
	}
	if err == nil && shell.kind == remote.Posix && !remote.LeadsGroups(lease.Client) {
		shell.setsid, err = remote.ProbeSetsid(ctx, lease.Client)
	}
	if err == nil && shell.kind != remote.Other { // that one may have been a passing failure
		t.shells.Store(key, shell)
	}
	return shell, err
}

// quoter returns how a POSIX text is put to a shell that is none; nil for
// POSIX itself, and for shells that no quoting is known for.
func quoter(shell remote.Shell) func(string) string {
	if shell != remote.Fish && shell != remote.Csh {
		return nil
	}
	return func(posix string) string {
		text, err := policy.QuoteFor(string(shell), posix)
		if err != nil {
			return posix // both shells are known to QuoteFor
		}
		return text
	}
}
