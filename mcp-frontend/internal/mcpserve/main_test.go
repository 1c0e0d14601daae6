package mcpserve_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/server"
	"go.uber.org/goleak"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// roleVariable makes this program a server instead of a test: the benchmark of
// attach and scripts/conformance.sh need servers with a process of their own.
const roleVariable = "MCPSERVE_TEST_ROLE"

// The values of roleVariable. The first two are followed by the path of the
// unix socket to serve on, and say on stdout that they do; mcp-go's own
// transport serves on stdio.
const (
	roleQuick       = "quick "
	roleConformance = "conformance "
	roleMCPGo       = "mcp-go stdio"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := play(role); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// play serves until the process is ended.
func play(role string) error {
	if role == roleMCPGo {
		return server.NewStdioServer(newMCP(tools{"quick": quick})).Listen(context.Background(), os.Stdin, os.Stdout)
	}
	if socket, ok := strings.CutPrefix(role, roleQuick); ok {
		return serveAlone(newMCP(tools{"quick": quick}), socket)
	}
	if socket, ok := strings.CutPrefix(role, roleConformance); ok {
		return serveAlone(newConformanceMCP(), socket)
	}
	return fmt.Errorf("%s: no such role: %q", roleVariable, role)
}

func serveAlone(srv *server.MCPServer, socket string) error {
	s, err := mcpserve.New(mcpserve.Config{MCP: srv, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return s.Serve(context.Background(), ln, func(net.Conn) (mcpserve.Peer, error) { return mcpserve.Peer{}, nil })
}
