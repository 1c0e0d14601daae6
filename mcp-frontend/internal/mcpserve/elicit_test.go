package mcpserve_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

var question = mcp.ElicitationParams{Message: "Restart?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{}}}

// asking is a server whose tool asks directly and says how that ended.
func asking(ended chan<- error) *server.MCPServer {
	srv := newMCP(nil)
	srv.AddTool(mcp.NewTool("ask"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		answer, err := srv.RequestElicitation(ctx, mcp.ElicitationRequest{Params: question})
		ended <- err
		if err != nil {
			return mcp.NewToolResultError(err.Error()), nil
		}
		return mcp.NewToolResultText(string(answer.Action)), nil
	})
	return srv
}

func TestElicitation(t *testing.T) {
	for _, test := range []struct{ name, answer, want string }{
		{"accept", `"result":{"action":"accept","content":{}}`, "accept"},
		{"decline", `"result":{"action":"decline"}`, "decline"},
		{"unknown action", `"result":{"action":"maybe"}`, `the client answered the elicitation with action "maybe"`},
		{"null", `"result":null`, `the client answered the elicitation with action ""`},
		{"error", `"error":{"code":-1,"message":"no user\n"}`, `the client answered the elicitation with error -1: "no user\n"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := connect(t, mcpserve.Config{MCP: asking(make(chan error, 1))})
			w.mustGreet(t, `{"elicitation":{}}`)
			w.mustSend(t, call("1", "ask", ""))
			if m := w.mustRecv(t); m.Method != "elicitation/create" || string(m.ID) != `"s1"` {
				t.Fatalf("got %s %s, want elicitation/create s1", m.Method, m.ID)
			}
			w.mustSend(t, `{"jsonrpc":"2.0","id":"s1",`+test.answer+`}`)
			if m := w.mustRecv(t); m.text() != test.want {
				t.Errorf("got %q, want %q", m.text(), test.want)
			}
		})
	}
}

func TestElicitationUnsupported(t *testing.T) {
	for name, capabilities := range map[string]string{"none": `{}`, "URLs only": `{"elicitation":{"url":{}}}`} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			w := connect(t, mcpserve.Config{MCP: asking(ended)})
			w.mustGreet(t, capabilities)
			w.mustSend(t, call("1", "ask", ""))
			if m := w.mustRecv(t); m.Method != "" || !m.Result.IsError {
				t.Errorf("got %q, want an error result", m.Method)
			}
			if err := next(t, ended); !errors.Is(err, mcpserve.ErrElicitationUnsupported) {
				t.Errorf("got %v, want ErrElicitationUnsupported", err)
			}
		})
	}
	// What a request of the newer generation declares holds for that one only.
	ended := make(chan error, 1)
	w := connect(t, mcpserve.Config{MCP: asking(ended)})
	w.mustGreet(t, `{}`)
	w.mustSend(t, call("1", "ask", modernMeta+`{"elicitation":{}}`))
	w.mustRecv(t)
	if err := next(t, ended); !errors.Is(err, server.ErrServerInitiatedRequestUnsupported) {
		t.Errorf("modern: got %v, want ErrServerInitiatedRequestUnsupported", err)
	}
	w.mustSend(t, call("2", "ask", ""))
	w.mustRecv(t)
	if err := next(t, ended); !errors.Is(err, mcpserve.ErrElicitationUnsupported) {
		t.Errorf("legacy after modern: got %v, want ErrElicitationUnsupported", err)
	}
}

// The same id from another connection is no answer, nor is a second one.
func TestElicitationAnsweredByAnother(t *testing.T) {
	s := newServer(t, mcpserve.Config{MCP: asking(make(chan error, 1))})
	address, _ := serveUnix(t, s)
	asked, other := dial(t, address), dial(t, address)
	asked.mustGreet(t, `{"elicitation":{}}`)
	other.mustGreet(t, `{"elicitation":{}}`)
	asked.mustSend(t, call("1", "ask", ""))
	asked.mustRecv(t)

	const accept = `{"jsonrpc":"2.0","id":"s1","result":{"action":"accept"}}`
	other.mustSend(t, accept)
	other.wantOnlyPong(t)
	asked.mustSend(t, strings.Replace(accept, `"s1"`, `1`, 1), strings.Replace(accept, `"s1"`, `"s2"`, 1))
	asked.wantOnlyPong(t)
	asked.mustSend(t, strings.Replace(accept, "accept", "decline", 1), accept)
	if m := asked.mustRecv(t); m.text() != "decline" {
		t.Errorf("got %q, want decline", m.text())
	}
	asked.wantOnlyPong(t)
	if got := s.Stats().Unasked; got != 4 {
		t.Errorf("unasked: got %d, want 4", got)
	}
}

func TestElicitationWithdrawn(t *testing.T) {
	ended := make(chan error, 1)
	w := connect(t, mcpserve.Config{MCP: asking(ended)})
	w.mustGreet(t, `{"elicitation":{"form":{}}}`)
	w.mustSend(t, call("1", "ask", ""))
	w.mustRecv(t)
	w.mustSend(t, cancelLine("1"))
	if m := w.mustRecv(t); m.Method != "notifications/cancelled" || string(m.Params.RequestID) != `"s1"` {
		t.Errorf("got %s %s, want s1 cancelled", m.Method, m.Params.RequestID)
	}
	if err := next(t, ended); !errors.Is(err, mcpserve.ErrCancelled) {
		t.Errorf("got %v, want ErrCancelled", err)
	}
	w.wantOnlyPong(t)
}

// One handler that asks by its result serves both generations.
func TestInputRequired(t *testing.T) {
	w := connect(t, mcpserve.Config{MCP: newMCP(tools{
		"ask": func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if answer := server.ElicitationResponse(r.Params.InputResponses, "q"); answer != nil {
				return mcp.NewToolResultText(r.Params.RequestState + " " + string(answer.Action)), nil
			}
			return server.NewInputRequestBuilder("state").Elicit("q", question).ToolResult(), nil
		},
	})})
	w.mustGreet(t, `{"elicitation":{}}`)
	w.mustSend(t, call("1", "ask", ""))
	m := w.mustRecv(t)
	w.mustSend(t, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"action":"accept"}}`)
	if m := w.mustRecv(t); m.text() != "state accept" {
		t.Errorf("legacy: got %q, want state accept", m.text())
	}
	meta := modernMeta + `{"elicitation":{}}`
	w.mustSend(t, call("2", "ask", meta))
	if m := w.mustRecv(t); m.Result == nil || m.Result.ResultType != "input_required" || m.Result.State != "state" {
		t.Errorf("modern: got %+v, want input_required", m.Result)
	}
	w.mustSend(t, strings.Replace(call("3", "ask", meta), `"arguments"`, `"inputResponses":{"q":{"action":"decline"}},"requestState":"state","arguments"`, 1))
	if m := w.mustRecv(t); m.text() != "state decline" {
		t.Errorf("modern: got %q, want state decline", m.text())
	}
}
