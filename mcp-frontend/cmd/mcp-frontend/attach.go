package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// attachPatience is how long a client waits for a daemon that is starting.
const attachPatience = 10 * time.Second

type attachCmd struct{ socketFlag }

// Run carries bytes between the process's streams and the daemon's socket. It
// prints nothing of its own on stdout.
func (c *attachCmd) Run(ctx context.Context, streams program.Streams) error {
	conn, err := c.dial(ctx, streams.Err)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	inputEnded := make(chan struct{})
	go func() { // reads stdin, which nothing can interrupt: it ends with the process
		_, _ = io.Copy(conn, streams.In)
		close(inputEnded)
		if half, ok := conn.(*net.UnixConn); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(streams.Out, conn)
	select {
	case <-inputEnded:
		return nil // the client left, and the daemon has answered all
	case <-ctx.Done():
		return nil
	default:
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("the conversation broke: %w", err)
	}
	return fmt.Errorf("the daemon on %s ended the conversation", c.MCPSocket)
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
