package sshpool

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry is one of connections.json.
type entry map[string]any

// direct is a device that is s, with more fields on top.
func direct(t *testing.T, name string, s *sshdtest.Server, more entry) entry {
	t.Helper()
	e := entry{"name": name, "mode": "direct", "user": sshdtest.Plain(t), "host": s.Host, "port": s.Port, "id_file": s.UserKey.Path}
	maps.Copy(e, more)
	return e
}

func deviceSet(t *testing.T, entries ...entry) *connections.Set {
	t.Helper()
	text, err := json.Marshal(append([]entry{}, entries...)) // [] and not null
	if err != nil {
		t.Fatal(err)
	}
	set, err := connections.Parse(filepath.Join(t.TempDir(), "connections.json"), text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// knownHosts is a file of these lines.
func knownHosts(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "known_hosts")
	sshdtest.Write(t, path, strings.Join(lines, "\n")+"\n", 0o644)
	return path
}

// newPool returns a pool that is closed with the test. Of cfg what is missing
// is filled in.
func newPool(t *testing.T, cfg Config) *Pool {
	t.Helper()
	cfg.LoadKey, cfg.Log = keyfile.Load, slog.New(slog.DiscardHandler)
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// onePool has one device "edge" that is s, with more fields, and knows lines.
func onePool(t *testing.T, s *sshdtest.Server, more entry, lines ...string) *Pool {
	t.Helper()
	return newPool(t, Config{Devices: deviceSet(t, direct(t, "edge", s, more)), KnownHosts: knownHosts(t, lines...)})
}

// bounded is a context for what must not take long.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func acquire(t *testing.T, p *Pool, name string) *Lease {
	t.Helper()
	lease, err := p.Acquire(bounded(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// mustFail is the *Error that Acquire ends with.
func mustFail(t *testing.T, p *Pool, name string, want Code) *Error {
	t.Helper()
	lease, err := p.Acquire(bounded(t), name)
	if err == nil {
		lease.Release()
		t.Fatalf("got a lease, want %s", want)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %T, want *Error: %v", err, err)
	}
	if e.Code != want {
		t.Fatalf("got %v, want %s", e, want)
	}
	if e.Hint == "" || e.FixBy == "" || e.Stage == "" {
		t.Errorf("%+v says too little", e)
	}
	return e
}

// works says whether the lease's connection runs a command.
func works(t *testing.T, l *Lease) {
	t.Helper()
	session, err := l.Client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.Output("echo works")
	if err != nil || string(out) != "works\n" {
		t.Fatalf("got %q, %v", out, err)
	}
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in: %s", want, text)
		}
	}
}
