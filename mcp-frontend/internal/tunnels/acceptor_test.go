package tunnels

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	tunnelv1 "github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/tunnel/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// acceptor is the other side of the two sockets, as the contract has it: it
// sends what a test tells it to, and answers CONNECT as the test says.
type acceptor struct {
	tunnelv1.UnimplementedTunnelServiceServer
	dir    string
	events chan *tunnelv1.WatchTunnelsResponse
	// answer gets each CONNECT, and owns the connection.
	answer func(request *http.Request, conn net.Conn)

	mu      sync.Mutex // guards all below
	watches int
	stop    func()
}

func newAcceptor(t *testing.T) *acceptor {
	t.Helper()
	return &acceptor{dir: t.TempDir(), events: make(chan *tunnelv1.WatchTunnelsResponse, 10)}
}

// WatchTunnels implements tunnelv1.TunnelServiceServer.
func (a *acceptor) WatchTunnels(_ *tunnelv1.WatchTunnelsRequest, stream grpc.ServerStreamingServer[tunnelv1.WatchTunnelsResponse]) error {
	a.mu.Lock()
	a.watches++
	a.mu.Unlock()
	for {
		select {
		case event, ok := <-a.events:
			if !ok {
				return nil
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// start serves both sockets until stopped, or the test ends.
func (a *acceptor) start(t *testing.T) {
	t.Helper()
	control := a.listen(t, "control.sock")
	dial := a.listen(t, "dial.sock")
	server := grpc.NewServer()
	tunnelv1.RegisterTunnelServiceServer(server, a)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(control) })
	serving.Go(func() {
		for {
			conn, err := dial.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { a.connect(conn) })
		}
	})
	stop := sync.OnceFunc(func() {
		server.Stop()
		_ = dial.Close()
		serving.Wait()
	})
	a.mu.Lock()
	a.stop = stop
	a.mu.Unlock()
	t.Cleanup(stop)
}

func (a *acceptor) listen(t *testing.T, name string) net.Listener {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(a.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (a *acceptor) connect(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err == nil && a.answer != nil {
		a.answer(request, conn)
	}
}

func (a *acceptor) watched() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.watches
}

// says answers every CONNECT with a status, and a line that says why.
func says(status int, why string) func(*http.Request, net.Conn) {
	return func(_ *http.Request, conn net.Conn) {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s\n", status, http.StatusText(status), len(why)+1, why)
	}
}

func up(device string, port uint32, generation uint64) *tunnelv1.Tunnel {
	return &tunnelv1.Tunnel{
		Id: fmt.Sprintf("%s-%d", device, generation), Device: device, Port: port, Generation: generation,
		State: tunnelv1.TunnelState_TUNNEL_STATE_UP, Loopback: true,
	}
}

func down(device string, port uint32) *tunnelv1.Tunnel {
	return &tunnelv1.Tunnel{Device: device, Port: port, State: tunnelv1.TunnelState_TUNNEL_STATE_DOWN, Loopback: true, LastDownReason: "gone"}
}

func snapshot(tunnels ...*tunnelv1.Tunnel) *tunnelv1.WatchTunnelsResponse {
	return &tunnelv1.WatchTunnelsResponse{Event: &tunnelv1.WatchTunnelsResponse_Snapshot{
		Snapshot: &tunnelv1.Snapshot{Tunnels: tunnels, HostKeys: []string{"ssh-ed25519 AAAA"}},
	}}
}

func upsert(t *tunnelv1.Tunnel) *tunnelv1.WatchTunnelsResponse {
	return &tunnelv1.WatchTunnelsResponse{Event: &tunnelv1.WatchTunnelsResponse_Upsert{Upsert: t}}
}

func removed(device string, port uint32) *tunnelv1.WatchTunnelsResponse {
	return &tunnelv1.WatchTunnelsResponse{Event: &tunnelv1.WatchTunnelsResponse_Removed{
		Removed: &tunnelv1.TunnelRemoved{Device: device, Port: port},
	}}
}

// follow runs a directory of a until the test ends.
func follow(t *testing.T, a *acceptor, change ...func(*Directory)) *Directory {
	t.Helper()
	d := New(a.dir, slog.New(slog.DiscardHandler))
	for _, f := range change {
		f(d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	return d
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t *testing.T, what string, met func() bool) {
	t.Helper()
	sshdtest.Eventually(t, what, met)
}
