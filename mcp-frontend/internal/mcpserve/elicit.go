package mcpserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// ErrElicitationUnsupported says that the client has not declared that it can ask
// its user in this way, or that its protocol generation has no server requests.
var ErrElicitationUnsupported = errors.New("the client does not support elicitation")

// elicits reports whether c covers mode. An empty elicitation object, all that
// protocols before 2025-11-25 know, means forms.
func elicits(c mcp.ClientCapabilities, mode string) bool {
	switch e := c.Elicitation; {
	case e == nil:
		return false
	case mode == mcp.ElicitationModeURL:
		return e.URL != nil
	default:
		return e.Form != nil || e.URL == nil
	}
}

// RequestElicitation implements [server.SessionWithElicitation]: it asks the
// client's user and waits for the answer or ctx's end. Only clients of the
// older protocol generation can be asked in this way; a handler that returns an
// input_required result serves both.
func (r *request) RequestElicitation(ctx context.Context, ask mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	if server.IsModernRequest(ctx) || !elicits(r.client.capabilities, ask.Params.Mode) {
		return nil, ErrElicitationUnsupported
	}
	params, err := json.Marshal(ask.Params)
	if err != nil {
		return nil, fmt.Errorf("encoding the elicitation: %w", err)
	}
	id, answer, err := r.questions.ask()
	if err != nil {
		return nil, err
	}
	defer r.questions.forget(id)

	line := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	line = append(line, `,"method":"elicitation/create","params":`...)
	line = append(append(line, params...), "}\n"...)
	if err := r.out.enqueue(ctx, outgoing{line: line, req: r}); err != nil {
		return nil, err
	}
	select {
	case m := <-answer:
		return elicitationResult(m)
	case <-ctx.Done():
		r.withdraw(ctx, id)
		return nil, context.Cause(ctx)
	}
}

// withdraw tells the client that its answer is no longer wanted.
func (r *request) withdraw(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	line := []byte(`{"jsonrpc":"2.0","method":"` + methodCancelled + `","params":{"requestId":` + id +
		`,"reason":"the request that asked has ended"}}` + "\n")
	// It fails only when the client no longer reads, and so does not care.
	_ = r.out.enqueue(ctx, outgoing{line: line})
}

func elicitationResult(m message) (*mcp.ElicitationResult, error) {
	if m.Error != nil {
		var refusal struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(m.Error, &refusal); err != nil {
			return nil, fmt.Errorf("decoding the client's error: %w", err)
		}
		return nil, fmt.Errorf("the client answered the elicitation with error %d: %q", refusal.Code, clip(refusal.Message))
	}
	var result mcp.ElicitationResult
	if err := json.Unmarshal(m.Result, &result); err != nil {
		return nil, fmt.Errorf("decoding the client's answer: %w", err)
	}
	switch result.Action {
	case mcp.ElicitationResponseActionAccept, mcp.ElicitationResponseActionDecline, mcp.ElicitationResponseActionCancel:
		return &result, nil
	default:
		return nil, fmt.Errorf("the client answered the elicitation with action %q", clip(string(result.Action)))
	}
}

// questions are the requests of ours that one client has not answered yet. They
// belong to its connection: nobody else can answer them.
type questions struct {
	max int

	mu   sync.Mutex // guards what follows
	n    uint64
	open map[string]chan message // by the id's JSON: "s1" with its quotes
}

func newQuestions(limit int) *questions {
	return &questions{max: limit, open: make(map[string]chan message)}
}

func (q *questions) ask() (id string, answer <-chan message, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.open) >= q.max {
		return "", nil, fmt.Errorf("%d questions to this client are open, the most allowed", q.max)
	}
	q.n++
	id = `"s` + strconv.FormatUint(q.n, 10) + `"`
	ch := make(chan message, 1)
	q.open[id] = ch
	return id, ch, nil
}

func (q *questions) forget(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open, id)
}

// answer hands m to whoever asked and reports whether anybody did. Only the
// first answer counts.
func (q *questions) answer(m message) bool {
	q.mu.Lock()
	ch, asked := q.open[string(m.ID)]
	delete(q.open, string(m.ID))
	q.mu.Unlock()
	if asked {
		ch <- m // never blocks: one place, one answer
	}
	return asked
}
