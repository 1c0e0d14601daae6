package operator

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer serves a store until the test's end.
func newServer(t *testing.T) (*approvals.Store, string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store, err := approvals.New(approvals.Config{TTL: time.Hour, Log: log, Record: func(audit.Record) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "operator.sock")
	ln, err := localsocket.Listen(t.Context(), path, 0o700, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- Server{Approvals: store, Log: log}.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: got %v, want nil", err)
		}
	})
	return store, path
}

func say(t *testing.T, path, text string) string {
	t.Helper()
	conn, err := localsocket.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(4 * patience)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, text) // the server may close before it has read all
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return line
}

// The full list fits, whatever the requests hold.
func TestListOfAll(t *testing.T) {
	store, path := newServer(t)
	for n := range 64 {
		_, err := store.Ask(approvals.ViaOperator, approvals.Request{
			Act:       approvals.Act{Device: "edge", Tool: "ssh_run", Command: fmt.Sprint(n) + strings.Repeat("\x01", approvals.MaxCommand-2), Cwd: strings.Repeat("\x01", 4096)},
			Requester: approvals.Requester{Session: fmt.Sprint(n / 8), ClientName: strings.Repeat("\x01", 128)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	waiting, err := Client(path).List(t.Context())
	if err != nil || len(waiting) != 64 {
		t.Errorf("got %d and %v, want 64", len(waiting), err)
	}
	if _, err := Client(path).Deny(t.Context(), waiting[0].ID, strings.Repeat("x", maxReason+1)); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a reason that is too long: got %v", err)
	}
	if _, err := Client(path).Deny(t.Context(), waiting[0].ID, "no"); err != nil {
		t.Error(err)
	}
}

// What is no request is answered or cut off, and the next one is served.
func TestBadRequests(t *testing.T) {
	_, path := newServer(t)
	for text, want := range map[string]string{
		"hello\n": "no JSON",
		`{"do":"approve","id":"../../etc"}` + "\n":     "no such approval",
		`{"do":"shutdown"}` + "\n":                     "unknown request",
		strings.Repeat("x", 2*maxRequest) + "\n":       "",
		`{"do":"deny","id":"` + "\u202e" + `"}` + "\n": "no such approval",
	} {
		if got := say(t, path, text); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%.40q: got %q, want %q", text, got, want)
		}
	}
	// Peers that say nothing take all places, and lose them.
	for range maxConns {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	if got := say(t, path, `{"do":"list"}`+"\n"); !strings.Contains(got, `"approvals":[]`) {
		t.Errorf("behind silent peers: got %q", got)
	}
}
