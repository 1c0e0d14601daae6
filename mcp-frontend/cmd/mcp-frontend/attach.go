package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// attachPatience is how long a client waits for a daemon that is starting.
const attachPatience = 10 * time.Second

type attachCmd struct{ socketFlag }

// Run hands the process's streams over to the daemon, or carries their bytes
// where that cannot be: files, terminals, a daemon that knows no handover. It
// prints nothing of its own on stdout.
func (c *attachCmd) Run(ctx context.Context, streams program.Streams) error {
	conn, err := c.dial(ctx, streams.Err)
	if err != nil {
		return err
	}
	defer closeWith(ctx, conn)()
	taken, err := mcpserve.HandOver(conn, streams.In, streams.Out)
	if errors.Is(err, mcpserve.ErrNotTaken) {
		if conn, err = c.dial(ctx, streams.Err); err != nil {
			return err
		}
		defer closeWith(ctx, conn)()
	}
	var inputEnded bool
	switch {
	case taken:
		inputEnded = mcpserve.InputEnded(conn)
	case err == nil:
		inputEnded, err = carry(conn, streams)
	}
	switch {
	case inputEnded, ctx.Err() != nil: // the client left, and the daemon has answered all; or a signal came
		return nil
	case err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF):
		return fmt.Errorf("the conversation broke: %w", err)
	}
	return fmt.Errorf("the daemon on %s ended the conversation", c.MCPSocket)
}

// closeWith closes conn at ctx's end, or when the function it returns is called.
func closeWith(ctx context.Context, conn net.Conn) (closeNow func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return func() {
		stop()
		_ = conn.Close()
	}
}

// carry carries bytes both ways until the daemon has no more, and reports
// whether the client had ended its input by then.
func carry(conn net.Conn, streams program.Streams) (inputEnded bool, err error) {
	ended := make(chan struct{})
	go func() { // reads stdin, which nothing can interrupt: it ends with the process
		_, _ = io.Copy(conn, streams.In)
		close(ended)
		if half, ok := conn.(*net.UnixConn); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(streams.Out, conn)
	select {
	case <-ended:
		return true, err
	default:
		return false, err
	}
}

func (c *attachCmd) dial(ctx context.Context, says io.Writer) (net.Conn, error) {
	deadline := time.Now().Add(attachPatience)
	for waited := false; ; waited = true {
		conn, err := localsocket.Dial(ctx, c.MCPSocket)
		if err == nil {
			return conn, nil
		}
		if !waited {
			_, _ = fmt.Fprintf(says, "mcp-frontend: waiting up to %s for a daemon on %s\n", attachPatience, c.MCPSocket)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no daemon serves on %s (start mcp-frontend serve): %w", c.MCPSocket, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped while waiting for a daemon on %s", c.MCPSocket)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
