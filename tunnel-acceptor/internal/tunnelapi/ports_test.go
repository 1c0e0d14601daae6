package tunnelapi

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

func address(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func listening(port uint16) bool {
	conn, err := net.Dial("tcp", address(port))
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// A tunnel's port is a real one of this machine while the tunnel is up, and
// only if 127.0.0.1:PORT means it.
func TestLoopbackPorts(t *testing.T) {
	g := &gateway{t: t, registry: registry.New()}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before, later, certified := freePort(t), freePort(t), freePort(t)
	first := attach(t, g.registry, "before", before)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ports := NewPorts(NewDial(g.registry, g.record, slog.New(slog.DiscardHandler)))
	go func() { done <- ports.Serve(ctx) }()

	var busy uint16
	if _, err := fmt.Sscanf(taken.Addr().String(), "127.0.0.1:%d", &busy); err != nil {
		t.Fatal(err)
	}
	attach(t, g.registry, "busy", busy) // whoever listens there already keeps the port
	c := attach(t, g.registry, "certified", certified)
	g.registry.Detach(c.attachment, "")
	c.attachment.Loopback = false
	g.registry.Attach(c.attachment)
	second := attach(t, g.registry, "later", later)
	for _, d := range []*device{first, second} {
		port := d.attachment.Port
		waitFor(t, "the port", func() bool { return listening(port) })
		for len(d.streams) > 0 {
			_ = (<-d.streams).Close()
		}
		conn, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		far := <-d.streams
		for got := ""; got != "question"; far = <-d.streams { // past those that only looked
			_, _ = io.WriteString(conn, "question")
			_ = conn.(*net.TCPConn).CloseWrite()
			data, _ := io.ReadAll(far)
			got = string(data)
			if got == "question" {
				break
			}
		}
		_, _ = io.WriteString(far, "answer")
		_ = far.Close()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "answer" {
			t.Errorf("port %d: read %q, %v", port, got, err)
		}
		_ = conn.Close()
	}
	if listening(certified) {
		t.Error("a certified device's port is listened on")
	}
	attach(t, g.registry, "later", later) // a takeover
	if !listening(later) {
		t.Error("a takeover closed the port")
	}
	g.registry.Detach(first.attachment, "gone")
	waitFor(t, "the port to close", func() bool { return !listening(before) })
	g.registry.Drain()
	waitFor(t, "the other port to close", func() bool { return !listening(later) })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if got := strings.Join(g.events(), " "); !strings.Contains(got, "dial_open") || !strings.Contains(got, "dial_close") {
		t.Errorf("recorded %s", got)
	}
}
