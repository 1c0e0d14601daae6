package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type socketFlag struct {
	MCPSocket string `name:"mcp-socket" default:"run/mcp.sock" placeholder:"FILE" help:"Unix socket between the daemon and its clients."`
}

type serveCmd struct {
	gatewayFlags
	socketFlag
}

// Run is the daemon: it serves attached clients until ctx ends.
func (c *serveCmd) Run(ctx context.Context, streams program.Streams) error {
	log := c.New(streams.Err)
	g, err := c.open(log)
	if err != nil {
		return err
	}
	defer g.close()
	ln, err := localsocket.Listen(ctx, c.MCPSocket, 0o700, 0o600)
	if err != nil {
		return err
	}
	own := uint32(os.Getuid())
	ln = localsocket.Only(ln, []uint32{own}, func(uid uint32) { log.Warn("refused a client of another user", "uid", uid) })
	log.Info("ready", "mcp_socket", c.MCPSocket, "acceptor_dir", c.AcceptorDir)
	return g.run(ctx, func(ctx context.Context) error {
		return g.mcp.Serve(ctx, ln, func(net.Conn) (mcpserve.Peer, error) { return mcpserve.Peer{UID: own, HasUID: true}, nil })
	})
}

type stdioCmd struct{ gatewayFlags }

// Run serves the one client on stdin and stdout until it ends the input.
func (c *stdioCmd) Run(ctx context.Context, streams program.Streams) error {
	log := c.New(streams.Err)
	g, err := c.open(log)
	if err != nil {
		return err
	}
	defer g.close()
	log.Info("ready", "client", "stdio", "acceptor_dir", c.AcceptorDir)
	return g.run(ctx, func(ctx context.Context) error {
		return g.mcp.ServeConn(ctx, streams.In, streams.Out, mcpserve.Peer{})
	})
}

type healthcheckCmd struct{ socketFlag }

// healthTimeout bounds a health check.
const healthTimeout = 3 * time.Second

// Run asks the daemon for a sign of life, as any MCP client may.
func (c *healthcheckCmd) Run(ctx context.Context) error {
	conn, err := localsocket.Dial(ctx, c.MCPSocket)
	if err != nil {
		return fmt.Errorf("no daemon serves on %s: %w", c.MCPSocket, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(healthTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, `{"jsonrpc":"2.0","id":1,"method":"ping"}`+"\n"); err != nil {
		return fmt.Errorf("asking the daemon: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 64<<10)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the daemon does not answer: %w", err)
	}
	var answer struct {
		Result *json.RawMessage
	}
	if json.Unmarshal(line, &answer) != nil || answer.Result == nil {
		return errors.New("the daemon gave an answer that is none")
	}
	return nil
}
