package tunnelapi

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	tunnelv1 "github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/tunnel/v1"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// serveControl serves control.sock over r and returns a client of it.
func serveControl(t *testing.T, r *registry.Registry) (*Control, *grpc.ClientConn) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	c := NewControl(r, []string{"ssh-ed25519 AAAA"})
	c.heartbeat = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return c, conn
}

type watch = grpc.ServerStreamingClient[tunnelv1.WatchTunnelsResponse]

func startWatch(t *testing.T, conn *grpc.ClientConn) watch {
	t.Helper()
	stream, err := tunnelv1.NewTunnelServiceClient(conn).WatchTunnels(t.Context(), &tunnelv1.WatchTunnelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func receive(t *testing.T, stream watch) *tunnelv1.WatchTunnelsResponse {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A watch is the whole state first, then each change, and a heartbeat when
// there is none.
func TestWatchIsSnapshotThenChangesThenHeartbeats(t *testing.T) {
	r := registry.New()
	r.SetGranted([]registry.Key{{Device: "edge", Port: 22222}})
	_, conn := serveControl(t, r)
	stream := startWatch(t, conn)
	first := receive(t, stream)
	list, err := tunnelv1.NewTunnelServiceClient(conn).ListTunnels(t.Context(), &tunnelv1.ListTunnelsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list.GetSnapshot(), first.GetSnapshot(), protocmp.Transform()); diff != "" {
		t.Errorf("the first message (-ListTunnels +watched):\n%s", diff)
	}
	if got := first.GetSnapshot().GetHostKeys(); len(got) != 1 {
		t.Errorf("host keys %q", got)
	}
	changes := make(chan *tunnelv1.WatchTunnelsResponse)
	beats := make(chan *tunnelv1.WatchTunnelsResponse, 100)
	go func() {
		defer close(changes)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if m.GetHeartbeat() != nil {
				beats <- m
				continue
			}
			changes <- m
		}
	}()
	d := attach(t, r, "edge", 22222)
	up := <-changes
	if got := up.GetUpsert(); got.GetState() != tunnelv1.TunnelState_TUNNEL_STATE_UP || got.GetGeneration() != 1 || got.GetId() != d.attachment.ID {
		t.Errorf("the tunnel that came up: %v", got)
	}
	r.Detach(d.attachment, "gone")
	if got := (<-changes).GetUpsert(); got.GetState() != tunnelv1.TunnelState_TUNNEL_STATE_DOWN || got.GetLastDownReason() != "gone" {
		t.Errorf("the tunnel that went down: %v", got)
	}
	r.SetGranted(nil)
	removed := <-changes
	want := &tunnelv1.TunnelRemoved{Device: "edge", Port: 22222}
	if diff := cmp.Diff(want, removed.GetRemoved(), protocmp.Transform()); diff != "" {
		t.Errorf("the slot that is no longer granted (-want +got):\n%s", diff)
	}
	for range 2 {
		beat := <-beats
		for beat.GetRevision() < removed.GetRevision() {
			beat = <-beats
		}
		if beat.GetRevision() != removed.GetRevision() || beat.GetEpoch() != first.GetEpoch() {
			t.Errorf("a heartbeat of epoch %s, revision %d; want %s, %d", beat.GetEpoch(), beat.GetRevision(), first.GetEpoch(), removed.GetRevision())
		}
	}
}

// A watcher that stops reading is ended, and whoever starts a new watch finds
// a whole snapshot again.
func TestSlowWatcherIsAborted(t *testing.T) {
	r := registry.New()
	r.SetGranted([]registry.Key{{Device: "edge", Port: 22222}})
	_, conn := serveControl(t, r)
	stream := startWatch(t, conn)
	receive(t, stream)
	for range 20_000 { // far more than the stream's flow control and the watcher's buffer hold
		attach(t, r, "edge", 22222)
	}
	var err error
	received := 0
	for ; err == nil; received++ {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Aborted || received > 19_000 {
		t.Errorf("after %d messages: %v; want ABORTED early", received, err)
	}
	if got := receive(t, startWatch(t, conn)).GetSnapshot().GetTunnels(); len(got) != 1 || got[0].GetGeneration() != 20_000 {
		t.Errorf("a new watch begins with %v", got)
	}
}

func TestWatchersAreBounded(t *testing.T) {
	_, conn := serveControl(t, registry.New())
	for range maxWatchers {
		receive(t, startWatch(t, conn))
	}
	if _, err := startWatch(t, conn).Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one watcher too many: %v, want RESOURCE_EXHAUSTED", err)
	}
}

// After a restart the epoch tells readers that revisions do not continue.
func TestEpochChangesWithTheProcess(t *testing.T) {
	epochs := make(map[string]bool)
	for range 3 {
		_, conn := serveControl(t, registry.New())
		epochs[receive(t, startWatch(t, conn)).GetEpoch()] = true
	}
	if len(epochs) != 3 || epochs[""] {
		t.Errorf("epochs of three starts: %v", epochs)
	}
}

func TestHealth(t *testing.T) {
	c, conn := serveControl(t, registry.New())
	check := func() healthpb.HealthCheckResponse_ServingStatus {
		t.Helper()
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetStatus()
	}
	if got := check(); got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("while serving: %v", got)
	}
	c.Draining()
	if got := check(); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("while draining: %v", got)
	}
}

// The end of the process ends its watchers, who would otherwise wait for ever.
func TestServeEndsWatchers(t *testing.T) {
	r := registry.New()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewControl(r, nil).Serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream := startWatch(t, conn)
	receive(t, stream)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := stream.Recv(); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v, want the server's end", err)
	}
}
