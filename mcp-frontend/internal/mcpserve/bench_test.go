package mcpserve_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// BenchmarkNoop compares a call that does nothing with mcp-go's own transport,
// over the same unix socket, with 1 and with 32 calls in flight.
func BenchmarkNoop(b *testing.B) {
	transports := []struct {
		name  string
		serve func(context.Context, net.Conn) error
	}{
		{"ours", func(ctx context.Context, conn net.Conn) error {
			s := newServer(b, mcpserve.Config{MCP: newMCP(tools{"quick": quick})})
			return s.ServeConn(ctx, conn, conn, mcpserve.Peer{})
		}},
		{"mcp-go", func(ctx context.Context, conn net.Conn) error {
			s := server.NewStdioServer(newMCP(tools{"quick": quick}))
			s.SetErrorLogger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))
			return s.Listen(ctx, conn, conn)
		}},
	}
	for _, inFlight := range []int{1, 32} {
		for _, transport := range transports {
			b.Run(fmt.Sprintf("%d/%s", inFlight, transport.name), func(b *testing.B) {
				ln, err := (&net.ListenConfig{}).Listen(b.Context(), "unix", filepath.Join(b.TempDir(), "s"))
				if err != nil {
					b.Fatal(err)
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					if conn, err := ln.Accept(); err == nil {
						_ = transport.serve(context.WithoutCancel(b.Context()), conn)
						_ = conn.Close()
					}
				}()
				w := dial(b, ln.Addr().String())
				roundTrips(b, w, inFlight)
				_, _ = w.Close(), ln.Close()
				<-done
			})
		}
	}
}

// roundTrips keeps inFlight calls under way. Answers may overtake each other.
func roundTrips(b *testing.B, w *wire, inFlight int) {
	b.Helper()
	lines := bufio.NewReader(w)
	sent := make([]time.Time, inFlight) // by id
	next := func(id int) {
		sent[id] = time.Now()
		if _, err := io.WriteString(w, call(strconv.Itoa(id), "quick", "")+"\n"); err != nil {
			b.Fatal(err)
		}
	}
	var took []time.Duration
	for id := range inFlight {
		next(id)
	}
	for b.Loop() {
		id := answeredID(b, lines)
		took = append(took, time.Since(sent[id]))
		next(id)
	}
	for range inFlight {
		answeredID(b, lines)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
}

// answeredID reads an answer and returns its id. It is quicker than a decoder.
func answeredID(b *testing.B, lines *bufio.Reader) int {
	b.Helper()
	line, err := lines.ReadSlice('\n')
	if err != nil {
		b.Fatal(err)
	}
	prefix := len(`{"jsonrpc":"2.0","id":`)
	end := prefix + slices.Index(line[prefix:], ',')
	id, err := strconv.Atoi(string(line[prefix:end]))
	if err != nil {
		b.Fatal(err)
	}
	return id
}
