package operator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
)

// Client asks the daemon whose operator socket is at this path.
type Client string

// List returns what waits for an operator, oldest first.
func (c Client) List(ctx context.Context) ([]approvals.Approval, error) {
	return c.ask(ctx, request{Do: doList})
}

// Approve says yes to what waits under id, and returns it.
func (c Client) Approve(ctx context.Context, id string) (approvals.Approval, error) {
	return c.decide(ctx, request{Do: doApprove, ID: id})
}

// Deny says no, also to what was approved and is not used yet. The agent reads
// the reason, of at most 500 bytes.
func (c Client) Deny(ctx context.Context, id, reason string) (approvals.Approval, error) {
	return c.decide(ctx, request{Do: doDeny, ID: id, Reason: reason})
}

func (c Client) decide(ctx context.Context, r request) (approvals.Approval, error) {
	decided, err := c.ask(ctx, r)
	if err != nil {
		return approvals.Approval{}, err
	}
	if len(decided) != 1 {
		return approvals.Approval{}, errors.New("the daemon gave an answer that is none")
	}
	return decided[0], nil
}

func (c Client) ask(ctx context.Context, r request) ([]approvals.Approval, error) {
	conn, err := localsocket.Dial(ctx, string(c))
	if err != nil {
		return nil, fmt.Errorf("no daemon serves operators on %s: %w", string(c), err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the daemon on %s does not answer (does it take this uid as its operator?): %w", string(c), err)
	}
	var said answer
	if err := json.Unmarshal(line, &said); err != nil {
		return nil, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	if said.Error != "" {
		return nil, errors.New(said.Error)
	}
	return said.Approvals, nil
}
