package sshpool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// Step is one stage of an attempt to connect, and how long it took.
type Step struct {
	Stage   string
	Took    time.Duration
	Failure *Error // nil if the stage was passed
}

// Attempt is a connection of its own, beside the one that the pool keeps.
type Attempt struct {
	// Steps are the stages that were tried, in order; the last one may have
	// failed. In direct mode there is neither acceptor nor tunnel.
	Steps []Step
	// Client is nil unless all of them were passed. Close it.
	Client   *ssh.Client
	Device   connections.Device
	TunnelID string
}

// maxAttempt bounds an attempt where the device's own timeout is longer.
const maxAttempt = 20 * time.Second

// Diagnose connects to the device once, stage by stage, whatever has failed
// before. It uses neither the warm connection nor the cooldown, and its
// failures count nowhere; a success ends the cooldown, as any other does. A
// jump host is reached as for any call. It takes 22 s at most, and no longer
// than the device's connect_timeout_s and two seconds for the acceptor. Its
// error is DEVICE_NOT_FOUND.
func (p *Pool) Diagnose(ctx context.Context, name string) (*Attempt, error) {
	d, err := p.Device(name)
	if err != nil {
		return nil, err
	}
	a := &Attempt{Device: d}
	a.run(ctx, p)
	if a.Client != nil {
		if l, err := p.link(name); err == nil {
			l.reached()
		}
	}
	return a, nil
}

func (a *Attempt) run(ctx context.Context, p *Pool) {
	began := time.Now()
	signer, err := p.signer(a.Device)
	if err != nil {
		a.failed(began, StageConfig, keyError(err))
		return
	}
	hosts, err := loadHostKeys(p.knownHosts(a.Device), a.Device)
	began = a.passed(began, StageConfig)
	if a.Device.Mode == connections.Tunnel && p.cfg.FindTunnel != nil {
		var failure *Error
		if found := p.cfg.FindTunnel(ctx, a.Device.Host, a.Device.Port); errors.As(found, &failure) {
			a.failed(began, wayIn(failure), failure)
			return
		}
		began = a.passed(began, StageAcceptor)
		began = a.passed(began, StageTunnel)
	}
	ctx, cancel := context.WithTimeout(ctx, min(a.Device.ConnectTimeout, maxAttempt))
	defer cancel()
	nc, tunnelID, failure := p.dial(ctx, a.Device)
	if failure != nil {
		a.failed(began, wayIn(failure), failure)
		return
	}
	a.TunnelID = tunnelID
	began = a.passed(began, StageDial)
	if err != nil { // of the known_hosts file: what is dialled cannot be verified
		_ = nc.Close()
		a.failed(began, StageHostKey, knownHostsError(err))
		return
	}
	client, failure := handshake(ctx, nc, a.Device, signer, hosts)
	if verified := hosts.verified; !verified.IsZero() {
		a.Steps = append(a.Steps, Step{Stage: StageHostKey, Took: verified.Sub(began)})
		began = verified
	}
	switch {
	case failure == nil:
		a.passed(began, StageAuth)
		a.Client = client
	case hosts.verified.IsZero():
		a.failed(began, StageHostKey, failure) // the key exchange, whose end shows the host key
	default:
		a.failed(began, StageAuth, failure)
	}
}

func (a *Attempt) passed(began time.Time, stage string) time.Time {
	now := time.Now()
	a.Steps = append(a.Steps, Step{Stage: stage, Took: now.Sub(began)})
	return now
}

// failed notes the stage that failed. One of the way in that seemed to be
// passed, and turned out not to be, is taken back with what follows it.
func (a *Attempt) failed(began time.Time, stage string, failure *Error) {
	if stage == StageTunnel && !a.tried(StageAcceptor) {
		began = a.passed(began, StageAcceptor)
	}
	for i, step := range a.Steps {
		if step.Stage == stage {
			a.Steps = a.Steps[:i]
			break
		}
	}
	a.Steps = append(a.Steps, Step{Stage: stage, Took: time.Since(began), Failure: failure})
}

func (a *Attempt) tried(stage string) bool {
	for _, step := range a.Steps {
		if step.Stage == stage {
			return true
		}
	}
	return false
}

// wayIn is the stage at which the dial failed: that a device refuses what
// comes through its tunnel is no fault of the tunnel.
func wayIn(failure *Error) string {
	switch failure.Code {
	case AcceptorDown:
		return StageAcceptor
	case TunnelDown:
		return StageTunnel
	default:
		return StageDial
	}
}

func knownHostsError(err error) *Error {
	return &Error{
		Code: HostKeyUnknown, Stage: StageHostKey, Err: err, FixBy: "operator",
		Hint: "ask the operator to mend the known_hosts file; nothing is connected without it",
	}
}

// throughJump names the jump host in what failed there.
func throughJump(jump string, err error) error {
	var failure *Error
	if !errors.As(err, &failure) {
		return fmt.Errorf("through %s: %w", jump, err)
	}
	named := *failure
	named.Err = fmt.Errorf("through the jump host %s: %w", jump, failure.Err)
	return &named
}
