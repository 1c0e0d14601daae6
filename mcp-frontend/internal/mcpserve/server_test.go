package mcpserve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

func TestNewRefuses(t *testing.T) {
	good := newMCP(nil)
	for name, cfg := range map[string]mcpserve.Config{
		"no MCP":   {},
		"no log":   {MCP: good},
		"negative": {MCP: good, MaxInFlight: -1},
	} {
		if _, err := mcpserve.New(cfg); err == nil {
			t.Errorf("%s: New accepted it", name)
		}
	}
}

func TestOneClientTooMany(t *testing.T) {
	address, _ := serveUnix(t, newServer(t, mcpserve.Config{MaxConns: 1}))
	first := dial(t, address)
	first.wantOnlyPong(t)
	second := dial(t, address)
	m := second.mustRecv(t)
	if m.Error == nil || m.Error.Code != -32000 || !strings.HasPrefix(m.Error.Message, "1 clients are connected") {
		t.Errorf("got %+v, want error -32000", m.Error)
	}
	second.wantEOF(t)
	first.wantOnlyPong(t)
}

func TestPeerRefused(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- newServer(t, mcpserve.Config{}).Serve(ctx, ln, func(net.Conn) (mcpserve.Peer, error) {
			return mcpserve.Peer{}, errors.New("not you")
		})
	}()
	dial(t, ln.Addr().String()).wantEOF(t)
	cancel()
	if err := next(t, served); err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
}

// A listener that fails for good ends Serve, and with it the conversations.
func TestListenerCloses(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	s := newServer(t, mcpserve.Config{})
	go func() {
		served <- s.Serve(t.Context(), ln, func(net.Conn) (mcpserve.Peer, error) { return mcpserve.Peer{}, nil })
	}()
	w := dial(t, ln.Addr().String())
	w.wantOnlyPong(t)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next(t, served); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: got %v, want net.ErrClosed", err)
	}
	w.wantEOF(t)
}

// On one connection every request has the caller that it names itself, or that
// initialize named.
func TestCallerPerRequest(t *testing.T) {
	callers := make(chan mcpserve.Caller, 2)
	hooks := &server.Hooks{}
	hooks.AddOnRegisterSession(func(ctx context.Context, _ server.ClientSession) { callers <- mcpserve.CallerFrom(ctx) })
	srv := server.NewMCPServer("test", "1", server.WithHooks(hooks))
	srv.AddTool(mcp.NewTool("who"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		callers <- mcpserve.CallerFrom(ctx)
		return mcp.NewToolResultText("ok"), nil
	})
	w := connect(t, mcpserve.Config{MCP: srv})
	w.mustGreet(t, `{"elicitation":{}}`)
	opened := next(t, callers)
	if len(opened.Session) < 20 || opened.PeerUID != 1000 || opened.RequestID != "" {
		t.Errorf("in the session hook: got %+v", opened)
	}

	ask := func(line string) mcpserve.Caller {
		w.mustSend(t, line)
		w.mustRecv(t)
		return next(t, callers)
	}
	base := mcpserve.Caller{Session: opened.Session, PeerUID: 1000, HasPeerUID: true}
	legacy := base
	legacy.RequestID, legacy.ClientName, legacy.ClientVersion, legacy.Elicitation = `1`, "legacy", "1", true
	modern := base
	modern.RequestID, modern.ClientName, modern.ClientVersion, modern.Modern = `"1"`, "modern", "9", true
	formless := modern
	formless.RequestID = `3`

	for i, test := range []struct {
		line string
		want mcpserve.Caller
	}{
		{call(`1`, "who", ""), legacy},
		{call(`"1"`, "who", modernMeta+`{}`), modern},
		{call(`3`, "who", modernMeta+`{"elicitation":{"url":{}}}`), formless},
		{call(`1`, "who", ""), legacy}, // the modern requests left no trace
	} {
		if diff := cmp.Diff(test.want, ask(test.line)); diff != "" {
			t.Errorf("caller %d (-want +got):\n%s", i, diff)
		}
	}
	if got := mcpserve.CallerFrom(t.Context()); got != (mcpserve.Caller{}) {
		t.Errorf("outside: got %+v, want the zero Caller", got)
	}
}

// A subscription's id is the request's: mcp-go puts it into the acknowledgement.
func TestSubscriptionKeepsItsID(t *testing.T) {
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
	w.mustSend(t, `{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":{"notifications":{},"_meta":{`+modernMeta+`{}}}}`)
	for _, want := range []string{`"method":"notifications/subscriptions/acknowledged"`, `"id":"sub","result":`} {
		line, err := w.line()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(line, want) || !strings.Contains(line, `"io.modelcontextprotocol/subscriptionId":"sub"`) {
			t.Errorf("got %s, want %s and the subscription's id", line, want)
		}
	}
}

// What a handler or a broadcast sends through mcp-go comes before the result.
func TestNotificationsThroughMCP(t *testing.T) {
	srv := newMCP(nil)
	srv.AddNotificationHandler("notifications/panic", func(context.Context, mcp.JSONRPCNotification) { panic("in a notification") })
	srv.AddTool(mcp.NewTool("notify"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for range 100 {
			if err := srv.SendNotificationToClient(ctx, "notifications/message", map[string]any{"message": "m"}); err != nil {
				return nil, err
			}
		}
		if err := srv.SendNotificationToClient(ctx, "notifications/message", map[string]any{"message": func() {}}); err != nil {
			return nil, err
		}
		return mcp.NewToolResultText("done"), nil
	})
	w := connect(t, mcpserve.Config{MCP: srv})
	w.mustGreet(t, `{}`)
	w.mustSend(t, `{"jsonrpc":"2.0","method":"notifications/panic"}`, call("1", "notify", ""))
	for range 100 {
		if m := w.mustRecv(t); m.Method != "notifications/message" || m.Params.Message != "m" {
			t.Fatalf("got %q %+v, want the notifications first", m.Method, m.Error)
		}
	}
	if m := w.mustRecv(t); m.text() != "done" {
		t.Errorf("got %q %+v, want done", m.Method, m.Error)
	}
	w.wantOnlyPong(t)
}

// flakyListener fails once, as one without file descriptors does.
type flakyListener struct {
	net.Listener
	failed bool
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestAcceptFailsForAMoment(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	s := newServer(t, mcpserve.Config{})
	go func() {
		served <- s.Serve(ctx, &flakyListener{Listener: ln}, func(net.Conn) (mcpserve.Peer, error) { return mcpserve.Peer{}, nil })
	}()
	dial(t, ln.Addr().String()).wantOnlyPong(t)
	cancel()
	if err := next(t, served); err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
}

// Whatever a client sends, it gets JSON lines back and the conversation ends.
func FuzzConversation(f *testing.F) {
	for _, line := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`, `{"id":"s1","result":{}}`, `[{}]`, `{"id":1e400,"method":"x"}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, call(`"a"`, "quick", modernMeta+`{}`),
	} {
		f.Add(line + "\n" + line)
	}
	s := newServer(f, mcpserve.Config{MaxLineBytes: 1000, MCP: newMCP(tools{"quick": quick})})
	f.Fuzz(func(t *testing.T, input string) {
		var output bytes.Buffer
		if err := s.ServeConn(t.Context(), strings.NewReader(input), &output, mcpserve.Peer{}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(output.String()) {
			if !json.Valid([]byte(line)) || !strings.HasSuffix(line, "\n") {
				t.Errorf("got %q for %q", line, input)
			}
		}
	})
}

// Who keeps something for a conversation learns when nothing more comes from it.
func TestEnded(t *testing.T) {
	ended, sessions := make(chan string, 1), make(chan string, 1)
	w := connect(t, mcpserve.Config{
		Ended: func(session string) { ended <- session },
		MCP: newMCP(tools{"who": func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			sessions <- mcpserve.CallerFrom(ctx).Session
			return mcp.NewToolResultText("ok"), nil
		}}),
	})
	w.mustGreet(t, `{}`)
	w.mustSend(t, call("1", "who", ""))
	w.mustRecv(t)
	session := next(t, sessions)
	select {
	case <-ended:
		t.Fatal("it ended while it went on")
	default:
	}
	w.hangUp(t)
	if got := next(t, ended); got != session {
		t.Errorf("got %q, want %q", got, session)
	}
}
