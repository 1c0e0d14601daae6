package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/operator"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type operatorFlag struct {
	OperatorSocket program.Path `placeholder:"FILE" help:"Unix socket by which an operator decides (default run/operator.sock)."`
}

func (f operatorFlag) operatorSocket() program.Path { return f.OperatorSocket.Or("run/operator.sock") }

func (f operatorFlag) client() (operator.Client, error) {
	path := f.operatorSocket().Value
	if path == "" {
		return "", errors.New("--operator-socket is empty: name the daemon's")
	}
	return operator.Client(path), nil
}

type approvalsCmd struct {
	operatorFlag
	JSON bool `name:"json" help:"Print JSON."`
}

// Run shows what waits for an operator.
func (c *approvalsCmd) Run(ctx context.Context, streams program.Streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	waiting, err := client.List(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(streams.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"approvals": waiting})
	}
	if len(waiting) == 0 {
		_, err := fmt.Fprintln(streams.Out, "nothing waits for an operator")
		return err
	}
	for _, a := range waiting {
		if err := showApproval(streams.Out, a); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(streams.Out, "decide with: mcp-frontend approve ID, or mcp-frontend deny ID --reason TEXT")
	return err
}

func showApproval(w io.Writer, a approvals.Approval) error {
	_, err := fmt.Fprintf(w, "%s  asked at %s, expires in %s\n", approvals.Visible(a.ID), a.Asked.Local().Format(time.DateTime), time.Until(a.Expires).Round(time.Second))
	for _, line := range a.Lines() {
		if err == nil {
			_, err = fmt.Fprintf(w, "    %-15s %s\n", line[0], line[1])
		}
	}
	return err
}

type approveCmd struct {
	operatorFlag
	ID string `arg:"" help:"Id of what waits, as approvals shows it."`
}

// Run says yes, once, to what waits under the id.
func (c *approveCmd) Run(ctx context.Context, streams program.Streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	a, err := client.Approve(ctx, c.ID)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(streams.Out, "approved %s, for one run on %s within %s: %s\n",
		approvals.Visible(a.ID), approvals.Visible(a.Device), time.Until(a.Expires).Round(time.Second), approvals.Visible(a.Command))
	return err
}

type denyCmd struct {
	operatorFlag
	ID     string `arg:"" help:"Id of what waits, or of what was approved and is not used yet."`
	Reason string `help:"Why, for the agent."`
}

// Run says no to what waits under the id.
func (c *denyCmd) Run(ctx context.Context, streams program.Streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	a, err := client.Deny(ctx, c.ID, c.Reason)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(streams.Out, "denied %s on %s: %s\n", approvals.Visible(a.ID), approvals.Visible(a.Device), approvals.Visible(a.Command))
	return err
}
