package mcpserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// A request is one request of a client. It is also the session that mcp-go sees
// while it handles the request: what a request of the newer protocol generation
// says about its client holds for that request alone.
type request struct {
	*session
	id     json.RawMessage
	method string
	inline bool // answered before the next line is read
	cancel context.CancelCauseFunc

	// token is the client's progress token, nil if it wants no progress. turn
	// holds the last progress and is taken by whoever sends the next.
	token json.RawMessage
	turn  chan float64

	// client is set by the goroutine in HandleMessage before a handler runs.
	client client

	cancelled bool // guarded by calls.mu
}

// start enters a request and runs it: the cancellation in the next line finds it.
func (c *conn) start(ctx context.Context, m message, line []byte) {
	r := &request{session: c.session, id: m.ID, method: m.Method, client: c.session.greeted()}
	r.inline = m.Method == string(mcp.MethodInitialize) || m.Method == string(mcp.MethodPing)
	if usableID(m.Params.Meta.ProgressToken) {
		r.token, r.turn = m.Params.Meta.ProgressToken, newTurn()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	r.cancel = cancel

	switch err := c.calls.begin(r); {
	case errors.Is(err, errTooMany):
		cancel(nil)
		c.refuse(r.id, codeBusy, fmt.Sprintf("%d requests are running on this connection, the most allowed: wait for one or cancel one, then send this one again", c.cfg.MaxInFlight))
	case errors.Is(err, errIDInUse):
		cancel(nil)
		c.refuse(r.id, mcp.INVALID_REQUEST, "this id belongs to a request that is still running: use a new one")
	case err != nil:
		cancel(nil)
	case r.inline:
		c.story.requests.Add(1)
		c.serve(ctx, r, line)
	default:
		c.story.requests.Add(1)
		go c.serve(ctx, r, line)
	}
}

// serve runs a request and sends its answer, exactly one, whatever happens.
func (c *conn) serve(ctx context.Context, r *request, line []byte) {
	defer c.calls.running.Done()
	var answer []byte
	defer func() {
		if answer == nil { // a panic, or a handler that called runtime.Goexit
			c.log.Error("panic in a request", "method", clip(r.method), "panic", fmt.Sprint(recover()), "stack", string(debug.Stack()))
			answer = errorLine(r.id, mcp.INTERNAL_ERROR, textInternal)
		}
		r.cancel(nil)
		c.out.send(outgoing{line: answer, req: r, last: true})
	}()
	answer = c.answer(ctx, r, line)
}

func (c *conn) answer(ctx context.Context, r *request, line []byte) []byte {
	greets := r.method == string(mcp.MethodInitialize)
	if !greets {
		c.tellBegin(r, line)
	}
	response := c.cfg.MCP.HandleMessage(c.cfg.MCP.WithContext(ctx, r), line)
	if _, ok := response.(mcp.JSONRPCResponse); ok && greets {
		c.session.greet(r.client)
	}
	if greets {
		c.tellBegin(r, line) // only now its client is known
	}
	answer, err := responseLine(r.id, response)
	if err != nil {
		c.log.Error("request without a usable response", "method", clip(r.method), "error", err)
		return errorLine(r.id, mcp.INTERNAL_ERROR, textInternal)
	}
	return answer
}

// What mcp-go asks of a session, per request.
var (
	_ server.SessionWithClientInfo      = (*request)(nil)
	_ server.SessionWithElicitation     = (*request)(nil)
	_ server.SessionWithProtocolVersion = (*request)(nil)
)

// GetClientInfo implements [server.SessionWithClientInfo].
func (r *request) GetClientInfo() mcp.Implementation { return r.client.info }

// SetClientInfo implements [server.SessionWithClientInfo].
func (r *request) SetClientInfo(info mcp.Implementation) { r.client.info = info }

// GetClientCapabilities implements [server.SessionWithClientInfo].
func (r *request) GetClientCapabilities() mcp.ClientCapabilities { return r.client.capabilities }

// SetClientCapabilities implements [server.SessionWithClientInfo].
func (r *request) SetClientCapabilities(c mcp.ClientCapabilities) { r.client.capabilities = c }

// ProtocolVersion implements [server.SessionWithProtocolVersion].
func (r *request) ProtocolVersion() string { return r.client.version }

// SetProtocolVersion is what mcp-go calls with the version that initialize agreed on.
func (r *request) SetProtocolVersion(version string) { r.client.version = version }
