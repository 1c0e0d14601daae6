package mcpserve_test

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

func TestProgressArrivesCompleteAndInOrder(t *testing.T) {
	const steps = 20_000
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{
		"report": func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			for i := range steps {
				if err := mcpserve.Progress(ctx, float64(i+1), steps, "step"); err != nil {
					return nil, err
				}
			}
			return mcp.NewToolResultText("done"), nil
		},
	})})
	w.mustSend(t, call("1", "report", `"progressToken":9007199254740993`))
	for i := range steps {
		m := w.mustRecv(t)
		if m.Params.Progress != float64(i+1) || string(m.Params.ProgressToken) != "9007199254740993" {
			t.Fatalf("message %d: got %+v %s", i+1, m.Params, m.ID)
		}
	}
	if m := w.mustRecv(t); m.text() != "done" {
		t.Errorf("got %q, want done", m.text())
	}
}

func TestProgressRules(t *testing.T) {
	results := make(chan []error, 1)
	outlived := make(chan context.Context, 2)
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{
		"report": func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			outlived <- ctx
			var errs []error
			for _, p := range []float64{0, 1.5, 1.5, 1, math.NaN(), math.Inf(1), 2e21} {
				errs = append(errs, mcpserve.Progress(ctx, p, 0, "a\nb\xff"))
			}
			results <- errs
			return mcp.NewToolResultText("done"), nil
		},
	})})
	w.mustSend(t, call("1", "report", `"progressToken":"t<>"`))
	for _, want := range []string{
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t<>","progress":0,"message":"a\nb\ufffd"}}`,
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t<>","progress":1.5,"message":"a\nb\ufffd"}}`,
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t<>","progress":2000000000000000000000,"message":"a\nb\ufffd"}}`,
	} {
		if got, err := w.line(); got != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	w.mustRecv(t)
	for i, err := range next(t, results) {
		if want := i >= 2 && i <= 5; errors.Is(err, mcpserve.ErrProgress) != want {
			t.Errorf("report %d: got %v, want an error: %v", i, err, want)
		}
	}
	if err := mcpserve.Progress(next(t, outlived), 3e21, 0, ""); err == nil {
		t.Error("progress after the answer: got nil, want an error")
	}
	w.wantOnlyPong(t)

	for _, meta := range []string{``, `"progressToken":null`, `"progressToken":{"a":1}`} {
		w.mustSend(t, call("2", "report", meta))
		if m := w.mustRecv(t); m.text() != "done" {
			t.Errorf("without a token: got %q %q, want done alone", m.Method, m.text())
		}
		if err := errors.Join(next(t, results)...); err != nil {
			t.Errorf("without a token: got %v, want nil", err)
		}
		next(t, outlived)
	}
}

// Several goroutines of one request may report; what arrives still increases.
func TestProgressFromManyGoroutines(t *testing.T) {
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{
		"report": func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			var group sync.WaitGroup
			for g := range 8 {
				group.Go(func() {
					for i := range 100 {
						_ = mcpserve.Progress(ctx, float64(8*i+g+1), 0, "")
					}
				})
			}
			group.Wait()
			return mcp.NewToolResultText("done"), nil
		},
	})})
	w.mustSend(t, call("1", "report", `"progressToken":1`))
	for last := 0.0; ; {
		m := w.mustRecv(t)
		if m.Method == "" {
			break
		}
		if m.Params.Progress <= last {
			t.Fatalf("got %v after %v", m.Params.Progress, last)
		}
		last = m.Params.Progress
	}
}

// flood reports until that fails and says why.
func flood(began chan<- string, failed chan<- error) tools {
	return tools{"quick": quick, "flood": func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		began <- ""
		var err error
		for i := 0; err == nil; i++ {
			err = mcpserve.Progress(ctx, float64(i), 0, strings.Repeat("x", 4096))
		}
		failed <- err
		return nil, err
	}}
}

// A client that reads nothing holds its handler, until it cancels.
func TestProgressWaitsUntilCancelled(t *testing.T) {
	began, failed := make(chan string, 1), make(chan error, 1)
	w := connect(t, mcpserve.Config{MCP: newMCP(flood(began, failed))})
	w.mustSend(t, call("1", "flood", `"progressToken":1`))
	next(t, began)
	w.mustSend(t, cancelLine("1"))
	if err := next(t, failed); !errors.Is(err, mcpserve.ErrCancelled) {
		t.Errorf("got %v, want ErrCancelled", err)
	}
}

// A client that stops reading is cut off; another does not notice.
func TestClientThatStopsReading(t *testing.T) { overEach(t, testClientThatStopsReading) }

func testClientThatStopsReading(t *testing.T, dial dialFunc) {
	began, failed := make(chan string, 1), make(chan error, 1)
	address, _ := serveUnix(t, newServer(t, mcpserve.Config{WriteTimeout: 300 * time.Millisecond, MCP: newMCP(flood(began, failed))}))
	deaf, other := dial(t, address), dial(t, address)
	deaf.mustSend(t, call("1", "flood", `"progressToken":1`))
	next(t, began)
	for {
		select {
		case err := <-failed:
			if !errors.Is(err, mcpserve.ErrDisconnected) {
				t.Errorf("got %v, want ErrDisconnected", err)
			}
		default:
			other.mustSend(t, call("1", "quick", ""))
			if m := other.mustRecv(t); m.text() != "done" {
				t.Fatalf("the other client got %+v", m)
			}
			continue
		}
		break
	}
	if _, err := io.Copy(io.Discard, deaf); err != nil { // what was under way, then the end
		t.Errorf("reading the rest: %v", err)
	}
	other.wantOnlyPong(t)
}

// Without deadlines a timer does the same, and also if the Write never returns.
func TestWriteWithoutDeadline(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	reader, closable := io.Pipe()
	defer func() { _ = reader.Close() }()
	for name, w := range map[string]io.Writer{"closable": closable, "stuck": stuckWriter{stuck}} {
		t.Run(name, func(t *testing.T) {
			began, failed := make(chan string, 1), make(chan error, 1)
			s := newServer(t, mcpserve.Config{WriteTimeout: 50 * time.Millisecond, MCP: newMCP(flood(began, failed))})
			r, in := io.Pipe()
			go func() { _, _ = io.WriteString(in, call("1", "flood", `"progressToken":1`)+"\n") }()
			err := s.ServeConn(t.Context(), r, w, mcpserve.Peer{})
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("ServeConn: got %v, want os.ErrDeadlineExceeded", err)
			}
			if err := next(t, failed); !errors.Is(err, mcpserve.ErrDisconnected) {
				t.Errorf("Progress: got %v, want ErrDisconnected", err)
			}
		})
	}
}

type stuckWriter struct{ release chan struct{} }

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

// A stop is not held up by a client that reads nothing.
func TestStopWithClientThatStopsReading(t *testing.T) {
	overEach(t, testStopWithClientThatStopsReading)
}

func testStopWithClientThatStopsReading(t *testing.T, dial dialFunc) {
	began, failed := make(chan string, 1), make(chan error, 1)
	address, stop := serveUnix(t, newServer(t, mcpserve.Config{EOFGrace: 50 * time.Millisecond, MCP: newMCP(flood(began, failed))}))
	dial(t, address).mustSend(t, call("1", "flood", `"progressToken":1`))
	next(t, began)
	started := time.Now()
	stop()
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if err := next(t, failed); !errors.Is(err, mcpserve.ErrStopping) && !errors.Is(err, mcpserve.ErrDisconnected) {
		t.Errorf("got %v, want ErrStopping", err)
	}
}
