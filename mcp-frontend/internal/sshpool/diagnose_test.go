package sshpool

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

func (a *Attempt) said() string {
	var words []string
	for _, s := range a.Steps {
		word := s.Stage
		if s.Failure != nil {
			word += " " + string(s.Failure.Code)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// Acceptor and tunnel are told apart, also when the way in that seemed to be
// there is gone a moment later.
func TestDiagnoseTunnel(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	down := func(code Code) error {
		return &Error{Code: code, Stage: StageTunnel, Err: errors.New("down"), Hint: "wait", FixBy: "operator"}
	}
	for _, c := range []struct {
		name       string
		find, dial error
		want       string
	}{
		{"all is well", nil, nil, "config, acceptor, tunnel, dial, host_key, auth"},
		{"no acceptor", down(AcceptorDown), nil, "config, acceptor ACCEPTOR_DOWN"},
		{"no tunnel", down(TunnelDown), nil, "config, acceptor, tunnel TUNNEL_DOWN"},
		{"the acceptor goes", nil, down(AcceptorDown), "config, acceptor ACCEPTOR_DOWN"},
		{"the tunnel goes", nil, down(TunnelDown), "config, acceptor, tunnel TUNNEL_DOWN"},
		{"the device refuses", nil, down(DialFailed), "config, acceptor, tunnel, dial DIAL_FAILED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			through := &slot{id: "up", server: s, err: c.dial}
			p := newPool(t, Config{
				Devices:    deviceSet(t, direct(t, "edge", s, entry{"mode": "tunnel", "port": 22222})),
				KnownHosts: knownHosts(t, s.Known("edge")),
				DialTunnel: through.dial, TunnelID: through.tunnelID,
				FindTunnel: func(context.Context, string, uint16) error { return c.find },
			})
			a, err := p.Diagnose(bounded(t), "edge")
			if err != nil || a.said() != c.want {
				t.Errorf("got %s, %v; want %s", a.said(), err, c.want)
			}
			if a.Client != nil {
				defer func() { _, _ = a.Client.Close(), a.Client.Wait() }()
			}
			if (a.Client != nil) != (c.find == nil && c.dial == nil) || p.Status()[0].Failures != 0 || p.Status()[0].Connected {
				t.Errorf("client %v, %+v", a.Client != nil, p.Status()[0])
			}
		})
	}
}

// Each stage has its own time, and one diagnosis is one connection, which the
// pool does not keep.
func TestDiagnoseTimes(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, nil, s.Known("edge"))
	a, err := p.Diagnose(bounded(t), "edge")
	if err != nil || a.Client == nil {
		t.Fatalf("got %s, %v", a.said(), err)
	}
	defer func() { _, _ = a.Client.Close(), a.Client.Wait() }()
	for _, step := range a.Steps {
		if step.Took < 0 || step.Took == 0 && step.Stage != StageConfig {
			t.Errorf("%s took %v", step.Stage, step.Took)
		}
	}
	if _, err := p.Diagnose(bounded(t), "edg"); err == nil {
		t.Error("a device that is not there is diagnosed")
	}
	if s.Accepted() != 1 || p.Status()[0].Connected {
		t.Errorf("%d connections, %+v", s.Accepted(), p.Status()[0])
	}
}
