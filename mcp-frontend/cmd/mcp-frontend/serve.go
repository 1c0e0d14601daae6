package main

import (
	"context"
	"net"
	"os"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/operator"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type socketFlag struct {
	MCPSocket string `name:"mcp-socket" default:"run/mcp.sock" placeholder:"FILE" help:"Unix socket between the daemon and its clients (default run/mcp.sock)."`
}

type serveCmd struct {
	gatewayFlags
	socketFlag
	operatorFlag
	OperatorUID *uint32 `placeholder:"UID" help:"The only uid that may decide by the operator socket (default this process's own)."`
}

// Run is the daemon: it serves attached clients until ctx ends.
func (c *serveCmd) Run(ctx context.Context, streams program.Streams) error {
	log := c.New(streams.Err)
	g, err := c.open(log)
	if err != nil {
		return err
	}
	defer g.close()
	own := uint32(os.Getuid())
	ln, err := localsocket.Listen(ctx, c.MCPSocket, c.dirMode(own), 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = ln.Close() }()
	operators, err := c.listenOperator(ctx, g, own)
	if err != nil {
		return err
	}
	operatorSocket := ""
	if operators != nil {
		defer func() { _ = operators.Close() }()
		g.operator, operatorSocket = true, c.operatorSocket().Value
	}
	ln = localsocket.Only(ln, []uint32{own}, func(uid uint32) {
		log.Warn("refused a client of another user", "uid", uid)
		_, _ = g.append(audit.Record{Event: "socket_peer_denied", PeerUID: &uid, Reason: "mcp.sock"})
	})
	log.Info("ready", "mcp_socket", c.MCPSocket, "operator_socket", operatorSocket, "acceptor_dir", c.AcceptorDir)
	parts := []func(context.Context) error{func(ctx context.Context) error {
		return g.mcp.Serve(ctx, ln, func(net.Conn) (mcpserve.Peer, error) { return mcpserve.Peer{UID: own, HasUID: true}, nil })
	}}
	if operators != nil {
		server := operator.Server{Approvals: g.waiting, Log: log}
		parts = append(parts, func(ctx context.Context) error { return server.Serve(ctx, operators) })
	}
	return g.run(ctx, parts...)
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
	_, err := c.ask(ctx, "ping", "{}", healthTimeout)
	return err
}
