package mcpserve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
	"golang.org/x/sync/errgroup"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// 32 clients of both generations work at once; each hears of its own calls only.
func TestNothingCrosses(t *testing.T) {
	const clients, rounds, steps = 32, 5, 40
	began, causes := make(chan string, clients*rounds), make(chan error, clients*rounds)
	address, _ := serveUnix(t, newServer(t, mcpserve.Config{MCP: newMCP(tools{
		"report": func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			who := mcpserve.CallerFrom(ctx)
			for i := range steps {
				if err := mcpserve.Progress(ctx, float64(i+1), steps, who.RequestID); err != nil {
					return nil, err
				}
			}
			return mcp.NewToolResultText(who.RequestID + " " + who.ClientName), nil
		},
		"wait": untilCancelled(began, causes),
	})}))

	one := func(i int) error {
		w := dial(t, address)
		meta, name := modernMeta+`{}`, "modern"
		if i%2 == 0 {
			meta, name = `"x":1`, fmt.Sprintf("legacy-%d", i)
			if err := w.greet(name, `{}`); err != nil {
				return err
			}
		}
		for round := range rounds {
			id := fmt.Sprintf(`"%d-%d"`, i, round)
			waiting := fmt.Sprintf(`%d`, 1000*i+round)
			if err := w.send(call(waiting, "wait", meta), call(id, "report", meta+`,"progressToken":`+id), cancelLine(waiting)); err != nil {
				return err
			}
			for step := 1; ; step++ {
				m, err := w.recv()
				switch {
				case err != nil:
					return err
				case m.Method == "notifications/progress":
					if string(m.Params.ProgressToken) != id || m.Params.Message != id || m.Params.Progress != float64(step) {
						return fmt.Errorf("client %d got progress %+v, want token %s, progress %d", i, m.Params, id, step)
					}
					continue
				case string(m.ID) != id || m.text() != id+" "+name || step != steps+1:
					return fmt.Errorf("client %d got %s %q after %d steps, want %s %s", i, m.ID, m.text(), step-1, id, name)
				}
				break
			}
		}
		return nil
	}
	var group errgroup.Group
	for i := range clients {
		group.Go(func() error { return one(i) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for range clients * rounds {
		if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrCancelled) {
			t.Errorf("cause: got %v, want ErrCancelled", cause)
		}
	}
}

// A call and its cancellation in one write: the handler always learns of it, and
// the client never hears of the call again.
func TestCancelWrittenBackToBack(t *testing.T) {
	const pairs = 200
	began, causes := make(chan string, pairs), make(chan error, pairs)
	wait := untilCancelled(began, causes)
	w := connect(t, mcpserve.Config{MaxInFlight: pairs, MCP: newMCP(tools{
		"wait": func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			result, err := wait(ctx, r)
			if err := mcpserve.Progress(ctx, 1, 0, "too late"); !errors.Is(err, mcpserve.ErrCancelled) {
				t.Errorf("Progress after cancel: got %v, want ErrCancelled", err)
			}
			return result, err
		},
	})})
	var lines []string
	for i := range pairs {
		id := fmt.Sprint(i)
		lines = append(lines, call(id, "wait", `"progressToken":1`), cancelLine(id))
	}
	w.mustSend(t, lines...)
	for range pairs {
		if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrCancelled) {
			t.Errorf("cause: got %v, want ErrCancelled", cause)
		}
	}
	w.wantOnlyPong(t)
	w.hangUp(t)
	w.wantEOF(t)
}

func TestIDsComeBackAsTheyWereSent(t *testing.T) {
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
	for _, id := range []string{`1`, `"1"`, `0`, `-7`, `9007199254740993`, `18446744073709551617`, `1.50`, `1e2`, `1e400`, `"<a&b>"`, `"\u00e9 \"q\""`, `"é"`, `""`} {
		w.mustSend(t, call(id, "quick", ""))
		line, err := w.line()
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"jsonrpc":"2.0","id":` + id + `,`; !strings.HasPrefix(line, want) {
			t.Errorf("got %s, want it to begin with %s", line, want)
		}
	}
}

// Neither 1 and "1" nor two ids that are one float64 are the same request.
func TestCancelComparesRawIDs(t *testing.T) {
	began, causes := make(chan string, 4), make(chan error, 4)
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{"wait": untilCancelled(began, causes)})})
	for _, ids := range [][2]string{{`1`, `"1"`}, {`9007199254740993`, `9007199254740992`}} {
		w.mustSend(t, call(ids[0], "wait", ""))
		next(t, began)
		w.mustSend(t, cancelLine(ids[1]))
		w.wantOnlyPong(t)
		select {
		case cause := <-causes:
			t.Errorf("cancelling %s ended %s: %v", ids[1], ids[0], cause)
		default:
		}
		w.mustSend(t, cancelLine(ids[0]))
		if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrCancelled) {
			t.Errorf("cause: got %v, want ErrCancelled", cause)
		}
	}
}

func TestMessagesThatStartNothing(t *testing.T) {
	const invalid = `,"error":{"code":-32600,"message":`
	for _, test := range []struct{ name, line, want string }{
		{"not JSON", `{"jsonrpc":"2.0","id":1,`, `null,"error":{"code":-32700,"message":"the line is not valid JSON: send one JSON-RPC message per line"}}`},
		{"torn batch", `[{"jsonrpc":"2.0"`, `null,"error":{"code":-32700,"message":"the line is not valid JSON: send one JSON-RPC message per line"}}`},
		{"batch", ` [{"jsonrpc":"2.0","id":1,"method":"ping"}]`, `null` + invalid + `"batches are not supported: send each message on a line of its own"}}`},
		{"number", `5`, `null` + invalid + `"a message must be a JSON object"}}`},
		{"null", `null`, `null` + invalid + `"the message has no method"}}`},
		{"no method", `{"jsonrpc":"2.0","id":7}`, `7` + invalid + `"the message has no method"}}`},
		{"method of wrong type", `{"jsonrpc":"2.0","id":7,"method":3}`, `7` + invalid + `"method must not be of type number"}}`},
		{"params of wrong type", `{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}`, `7` + invalid + `"params must not be of type array"}}`},
		{"meta of wrong type", `{"jsonrpc":"2.0","params":{"_meta":"x"},"id":7,"method":"ping"}`, `7` + invalid + `"params._meta must not be of type string"}}`},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, `null` + invalid + `"id must be a string or a number of at most 1024 bytes"}}`},
		{"id object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, `null` + invalid + `"id must be a string or a number of at most 1024 bytes"}}`},
		{"long id", `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 1024) + `","method":"ping"}`, `null` + invalid + `"id must be a string or a number of at most 1024 bytes"}}`},
		{"request and response", `{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}`, `7` + invalid + `"a message with a method must not have a result or an error"}}`},
		{"version", `{"jsonrpc":"1.0","id":9007199254740993,"method":"ping"}`, `9007199254740993` + invalid + `"Invalid JSON-RPC version"}}`},
		{"9 MiB", `{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":"` + strings.Repeat("x", 9<<20) + `"}}`, `null` + invalid + `"a message of more than 8388608 bytes was skipped: send less at a time"}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := connect(t, mcpserve.Config{})
			w.mustSend(t, test.line)
			got, err := w.line()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(`{"jsonrpc":"2.0","id":`+test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			w.wantOnlyPong(t)
		})
	}
	t.Run("silent", func(t *testing.T) {
		w := connect(t, mcpserve.Config{})
		w.mustSend(t, "", " \r", cancelLine(`5`), cancelLine(`null`), `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`, `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"?"}}`)
		w.wantOnlyPong(t)
	})
}

func TestLimitInFlight(t *testing.T) {
	began, causes := make(chan string, 2), make(chan error, 2)
	w := connect(t, mcpserve.Config{MaxInFlight: 2, MCP: newMCP(tools{"wait": untilCancelled(began, causes), "quick": quick})})
	w.mustSend(t, call("1", "wait", ""), call("2", "wait", ""), call("3", "quick", ""))
	m := w.mustRecv(t)
	if string(m.ID) != "3" || m.Error == nil || m.Error.Code != -32000 || !strings.HasPrefix(m.Error.Message, "2 requests are running") {
		t.Errorf("the one over: got %s %+v, want error -32000", m.ID, m.Error)
	}
	w.wantOnlyPong(t) // also with no place left
	next(t, began)
	next(t, began)
	w.mustSend(t, cancelLine("2"))
	if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrCancelled) {
		t.Errorf("cause: got %v, want ErrCancelled", cause)
	}
	// The place is free as soon as the handler's end is known; until then it is refused.
	for id := 10; ; id++ {
		w.mustSend(t, call(fmt.Sprint(id), "quick", ""))
		if m := w.mustRecv(t); m.Error == nil {
			break
		}
	}
	w.mustSend(t, call("1", "quick", ""))
	m = w.mustRecv(t)
	if string(m.ID) != "1" || m.Error == nil || m.Error.Code != -32600 {
		t.Errorf("id in use: got %s %+v, want error -32600", m.ID, m.Error)
	}
	w.mustSend(t, cancelLine("1"))
}

// Whoever has read an answer may use its id and its place again at once.
func TestPlaceIsFreeWithTheAnswer(t *testing.T) {
	w := connect(t, mcpserve.Config{MaxInFlight: 1, MCP: newMCP(tools{"quick": quick})})
	for range 500 {
		w.mustSend(t, call("1", "quick", ""))
		if m := w.mustRecv(t); m.text() != "done" {
			t.Fatalf("got %+v, want done", m.Error)
		}
	}
}

func TestPanicsEndTheirRequestOnly(t *testing.T) {
	var log strings.Builder
	w := connect(t, mcpserve.Config{Log: slog.New(slog.NewTextHandler(&log, nil)), MCP: newMCP(tools{
		"panic": func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("secret") },
		"goexit": func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			runtime.Goexit()
			return nil, errors.New("unreachable")
		},
		"unencodable": func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultStructured(map[string]any{"f": func() {}}, "x"), nil
		},
	})})
	for _, tool := range []string{"panic", "goexit", "unencodable"} {
		w.mustSend(t, call("5", tool, ""))
		m := w.mustRecv(t)
		if string(m.ID) != "5" || m.Error == nil || m.Error.Code != -32603 || m.Error.Message != "internal error: the request failed inside the server; its log says why" {
			t.Errorf("%s: got %s %+v", tool, m.ID, m.Error)
		}
		w.wantOnlyPong(t)
	}
	if text := log.String(); !strings.Contains(text, "secret") || !strings.Contains(text, "conn_test.go") {
		t.Errorf("the log lacks the panic or its stack: %s", text)
	}
}

func TestInitializeIsAnsweredFirst(t *testing.T) {
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
	w.mustSend(t, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","clientInfo":{"name":"c","version":"1"},"capabilities":{}}}`,
		call("1", "quick", ""), `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	if m := w.mustRecv(t); string(m.ID) != "0" {
		t.Errorf("first answer: got id %s, want 0", m.ID)
	}
}

// At end of file a call may still finish; one that does not is cancelled.
func TestEndOfFile(t *testing.T) { overEach(t, testEndOfFile) }

func testEndOfFile(t *testing.T, dial dialFunc) {
	began, causes := make(chan string, 1), make(chan error, 1)
	finish := make(chan struct{})
	address, _ := serveUnix(t, newServer(t, mcpserve.Config{EOFGrace: 200 * time.Millisecond, MCP: newMCP(tools{
		"wait": untilCancelled(began, causes),
		"soon": func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-finish
			return mcp.NewToolResultText("in time"), nil
		},
	})}))
	w := dial(t, address)
	w.mustSend(t, call("1", "wait", ""))
	next(t, began)
	// The last line has no newline.
	if _, err := io.WriteString(w, call("2", "soon", "")); err != nil {
		t.Fatal(err)
	}
	w.hangUp(t)
	close(finish)
	if m := w.mustRecv(t); string(m.ID) != "2" || m.text() != "in time" {
		t.Errorf("got %s %q, want the answer to 2", m.ID, m.text())
	}
	if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrDisconnected) {
		t.Errorf("cause: got %v, want ErrDisconnected", cause)
	}
}

// A client that is gone altogether ends its calls too, after the same grace.
func TestClientDies(t *testing.T) { overEach(t, testClientDies) }

func testClientDies(t *testing.T, dial dialFunc) {
	began, causes := make(chan string, 1), make(chan error, 1)
	address, _ := serveUnix(t, newServer(t, mcpserve.Config{EOFGrace: 10 * time.Millisecond, MCP: newMCP(tools{"wait": untilCancelled(began, causes)})}))
	w := dial(t, address)
	w.mustSend(t, call("1", "wait", ""))
	next(t, began)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrDisconnected) {
		t.Errorf("cause: got %v, want ErrDisconnected", cause)
	}
}

func TestStop(t *testing.T) { overEach(t, testStop) }

func testStop(t *testing.T, dial dialFunc) {
	began, causes := make(chan string, 1), make(chan error, 1)
	s := newServer(t, mcpserve.Config{EOFGrace: 50 * time.Millisecond, MCP: newMCP(tools{"wait": untilCancelled(began, causes)})})
	address, stop := serveUnix(t, s)
	w := dial(t, address)
	w.mustSend(t, call("1", "wait", ""))
	next(t, began)
	if got := s.Stats().Open; got != 1 {
		t.Errorf("open: got %d, want 1", got)
	}
	stop()
	if cause := next(t, causes); !errors.Is(cause, mcpserve.ErrStopping) {
		t.Errorf("cause: got %v, want ErrStopping", cause)
	}
	if m := w.mustRecv(t); m.text() != "too late" { // the client is still there to hear it
		t.Errorf("got %q, want the cancelled call's result", m.text())
	}
	w.wantEOF(t)
	if got := s.Stats().Open; got != 0 {
		t.Errorf("open: got %d, want 0", got)
	}
}

// stuckReader is a Read that nothing interrupts, as that of a blocking stdin.
type stuckReader struct{ release chan struct{} }

func (r stuckReader) Read([]byte) (int, error) {
	<-r.release
	return 0, io.EOF
}

func TestStopWithUninterruptibleReader(t *testing.T) {
	r := stuckReader{make(chan struct{})}
	defer close(r.release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newServer(t, mcpserve.Config{}).ServeConn(ctx, r, io.Discard, mcpserve.Peer{}); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestOverPipes(t *testing.T) {
	s := newServer(t, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
	input := call("1", "quick", "") + "\n" + call("2", "quick", "")
	answers := func(t *testing.T, r io.Reader, w io.WriteCloser, out io.Reader) {
		t.Helper()
		served := make(chan error, 1)
		go func() {
			served <- s.ServeConn(t.Context(), r, w, mcpserve.Peer{})
			_ = w.Close()
		}()
		got, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := next(t, served); err != nil {
			t.Errorf("ServeConn: got %v, want nil", err)
		}
		if n := strings.Count(string(got), `"text":"done"`); n != 2 {
			t.Errorf("got %d answers, want 2: %s", n, got)
		}
	}
	t.Run("os.Pipe", func(t *testing.T) {
		r, in := osPipe(t)
		out, w := osPipe(t)
		if _, err := io.WriteString(in, input); err != nil {
			t.Fatal(err)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		answers(t, r, w, out)
	})
	t.Run("io.Pipe", func(t *testing.T) {
		out, w := io.Pipe()
		answers(t, strings.NewReader(input), w, out)
	})
	t.Run("net.Pipe", func(t *testing.T) {
		client, conn := net.Pipe()
		go func() { _, _ = io.WriteString(client, input+"\n") }()
		served := make(chan error, 1)
		go func() { served <- s.ServeConn(t.Context(), conn, conn, mcpserve.Peer{}) }()
		w := newWire(client)
		w.mustRecv(t)
		w.mustRecv(t)
		_ = client.Close()
		if err := next(t, served); err != nil {
			t.Errorf("ServeConn: got %v, want nil", err)
		}
	})
}

func osPipe(tb testing.TB) (r, w *os.File) {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}
