package mcpserve_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// tools are the handlers of a test's own MCP server, by name.
type tools map[string]server.ToolHandlerFunc

func newMCP(handlers tools) *server.MCPServer {
	srv := server.NewMCPServer("test", "1", server.WithToolCapabilities(false))
	for name, handler := range handlers {
		srv.AddTool(mcp.NewTool(name), handler)
	}
	return srv
}

func newServer(tb testing.TB, cfg mcpserve.Config) *mcpserve.Server {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MCP == nil {
		cfg.MCP = newMCP(nil)
	}
	s, err := mcpserve.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// serveUnix serves s on a unix socket until the test's end.
func serveUnix(tb testing.TB, s *mcpserve.Server) (address string, stop func()) {
	tb.Helper()
	address = filepath.Join(tb.TempDir(), "mcp.sock")
	ln, err := (&net.ListenConfig{}).Listen(tb.Context(), "unix", address)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(ctx, ln, func(net.Conn) (mcpserve.Peer, error) {
			return mcpserve.Peer{UID: 1000, HasUID: true}, nil
		})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			tb.Errorf("Serve: got %v, want nil", err)
		}
	}
	tb.Cleanup(stop)
	return address, stop
}

// A wire is a client that writes and reads raw lines. Its methods return errors
// so that goroutines may use it; must and want fail the test.
type wire struct {
	net.Conn
	lines *bufio.Reader
}

func dial(tb testing.TB, address string) *wire {
	tb.Helper()
	conn, err := (&net.Dialer{}).DialContext(tb.Context(), "unix", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return newWire(conn)
}

func newWire(conn net.Conn) *wire { return &wire{Conn: conn, lines: bufio.NewReader(conn)} }

// connect is a wire to a server of its own.
func connect(tb testing.TB, cfg mcpserve.Config) *wire {
	tb.Helper()
	address, _ := serveUnix(tb, newServer(tb, cfg))
	return dial(tb, address)
}

func (w *wire) send(lines ...string) error {
	if err := w.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

func (w *wire) line() (string, error) {
	if err := w.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	line, err := w.lines.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// incoming is any message from the server.
type incoming struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		ProgressToken json.RawMessage `json:"progressToken"`
		Progress      float64         `json:"progress"`
		Message       string          `json:"message"`
		RequestID     json.RawMessage `json:"requestId"`
	} `json:"params"`
	Result *struct {
		IsError    bool   `json:"isError"`
		ResultType string `json:"resultType"`
		State      string `json:"requestState"`
		Content    []struct {
			Text string `json:"text"`
		} `json:"content"`
	} `json:"result"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func (m incoming) text() string {
	if m.Result == nil || len(m.Result.Content) == 0 {
		return ""
	}
	return m.Result.Content[0].Text
}

func (w *wire) recv() (m incoming, err error) {
	line, err := w.line()
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		return m, fmt.Errorf("decoding %q: %w", line, err)
	}
	return m, nil
}

func (w *wire) mustSend(tb testing.TB, lines ...string) {
	tb.Helper()
	if err := w.send(lines...); err != nil {
		tb.Fatalf("sending: %v", err)
	}
}

func (w *wire) mustRecv(tb testing.TB) incoming {
	tb.Helper()
	m, err := w.recv()
	if err != nil {
		tb.Fatalf("receiving: %v", err)
	}
	return m
}

// wantEOF says that the server has nothing more to say.
func (w *wire) wantEOF(tb testing.TB) {
	tb.Helper()
	if line, err := w.line(); !errors.Is(err, io.EOF) {
		tb.Errorf("got %q, %v, want EOF", line, err)
	}
}

// wantOnlyPong says that the server has sent nothing up to now.
func (w *wire) wantOnlyPong(tb testing.TB) {
	tb.Helper()
	w.mustSend(tb, `{"jsonrpc":"2.0","id":"pong?","method":"ping"}`)
	if m := w.mustRecv(tb); string(m.ID) != `"pong?"` {
		tb.Errorf("got a message with id %s, method %q, want the answer to ping", m.ID, m.Method)
	}
}

func (w *wire) hangUp(tb testing.TB) {
	tb.Helper()
	half, ok := w.Conn.(interface{ CloseWrite() error })
	if !ok {
		tb.Fatalf("%T has no CloseWrite", w.Conn)
	}
	if err := half.CloseWrite(); err != nil {
		tb.Fatal(err)
	}
}

const modernMeta = `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"modern","version":"9"},"io.modelcontextprotocol/clientCapabilities":`

// call is a tools/call line; meta holds the members of _meta.
func call(id, tool, meta string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"` + tool + `","arguments":{},"_meta":{` + meta + `}}}`
}

func cancelLine(id string) string {
	return `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`
}

// greet does the older generation's handshake.
func (w *wire) greet(name, capabilities string) error {
	err := w.send(`{"jsonrpc":"2.0","id":"hello","method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"`+name+`","version":"1"},"capabilities":`+capabilities+`}}`,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	if err != nil {
		return err
	}
	m, err := w.recv()
	if err == nil && (string(m.ID) != `"hello"` || m.Error != nil) {
		err = fmt.Errorf("initialize: got id %s, error %v", m.ID, m.Error)
	}
	return err
}

func (w *wire) mustGreet(tb testing.TB, capabilities string) {
	tb.Helper()
	if err := w.greet("legacy", capabilities); err != nil {
		tb.Fatal(err)
	}
}

// quick answers at once with a fixed text.
func quick(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	return mcp.NewToolResultText("done"), nil
}

// untilCancelled is a handler that says when it began, waits for its context's
// end and says why it came.
func untilCancelled(began chan<- string, causes chan<- error) server.ToolHandlerFunc {
	return func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		began <- mcpserve.CallerFrom(ctx).RequestID
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return mcp.NewToolResultText("too late"), nil
	}
}

func next[T any](tb testing.TB, from <-chan T) T {
	tb.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		tb.Fatal("nothing came")
		panic("unreachable")
	}
}
