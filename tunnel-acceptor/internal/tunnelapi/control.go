// Package tunnelapi is what the acceptor offers on its two unix sockets:
// control.sock tells which tunnels are up (gRPC, read-only), dial.sock is the
// way in to one of them (HTTP CONNECT). It reads the registry and knows
// nothing of SSH; it takes no orders.
//
// It assumes that the listeners it is given let in only peers that may know.
package tunnelapi

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tunnelv1 "github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/tunnel/v1"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

const (
	heartbeatInterval = 5 * time.Second
	maxWatchers       = 16
)

// Control serves control.sock.
type Control struct {
	tunnelv1.UnimplementedTunnelServiceServer
	registry *registry.Registry
	hostKeys []string
	health   *health.Server
	watchers chan struct{}
	// heartbeat is how long a watcher hears nothing at most.
	heartbeat time.Duration
}

// NewControl returns a service over r. hostKeys are the acceptor's own, in
// authorized_keys format.
func NewControl(r *registry.Registry, hostKeys []string) *Control {
	return &Control{
		registry: r, hostKeys: hostKeys, health: health.NewServer(),
		watchers: make(chan struct{}, maxWatchers), heartbeat: heartbeatInterval,
	}
}

// Draining turns the health service to NOT_SERVING.
func (c *Control) Draining() { c.health.Shutdown() }

// Serve serves ln until ctx ends; nil if ctx told it to stop.
func (c *Control) Serve(ctx context.Context, ln net.Listener) error {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<10), grpc.MaxConcurrentStreams(64))
	tunnelv1.RegisterTunnelServiceServer(server, c)
	healthpb.RegisterHealthServer(server, c.health)
	stopped := context.AfterFunc(ctx, server.Stop) // not GracefulStop: watches never end by themselves
	defer stopped()
	err := server.Serve(ln)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ListTunnels implements tunnel.v1.
func (c *Control) ListTunnels(context.Context, *tunnelv1.ListTunnelsRequest) (*tunnelv1.ListTunnelsResponse, error) {
	return &tunnelv1.ListTunnelsResponse{Snapshot: c.snapshot(c.registry.List())}, nil
}

// WatchTunnels implements tunnel.v1.
func (c *Control) WatchTunnels(_ *tunnelv1.WatchTunnelsRequest, stream grpc.ServerStreamingServer[tunnelv1.WatchTunnelsResponse]) error {
	select {
	case c.watchers <- struct{}{}:
		defer func() { <-c.watchers }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d watchers are connected, which is the limit", maxWatchers)
	}
	snapshot, watcher := c.registry.Watch()
	defer watcher.Close()
	revision := snapshot.Revision
	first := &tunnelv1.WatchTunnelsResponse{
		Epoch: snapshot.Epoch, Revision: revision,
		Event: &tunnelv1.WatchTunnelsResponse_Snapshot{Snapshot: c.snapshot(snapshot)},
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	for {
		change, err := nextWithin(stream.Context(), watcher, c.heartbeat)
		event := &tunnelv1.WatchTunnelsResponse{Epoch: snapshot.Epoch}
		switch {
		case errors.Is(err, registry.ErrSlowWatcher):
			return status.Error(codes.Aborted, err.Error())
		case stream.Context().Err() != nil:
			return status.FromContextError(stream.Context().Err()).Err()
		case err != nil:
			event.Event = &tunnelv1.WatchTunnelsResponse_Heartbeat{Heartbeat: &tunnelv1.Heartbeat{}}
		case change.Upsert != nil:
			revision = change.Revision
			event.Event = &tunnelv1.WatchTunnelsResponse_Upsert{Upsert: message(*change.Upsert)}
		default:
			revision = change.Revision
			event.Event = &tunnelv1.WatchTunnelsResponse_Removed{Removed: &tunnelv1.TunnelRemoved{
				Device: change.Removed.Device, Port: uint32(change.Removed.Port),
			}}
		}
		event.Revision = revision
		if err := stream.Send(event); err != nil {
			return err
		}
	}
}

// nextWithin waits for a change for at most d.
func nextWithin(ctx context.Context, w *registry.Watcher, d time.Duration) (registry.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return w.Next(ctx)
}

func (c *Control) snapshot(s registry.Snapshot) *tunnelv1.Snapshot {
	tunnels := make([]*tunnelv1.Tunnel, 0, len(s.Tunnels))
	for _, t := range s.Tunnels {
		tunnels = append(tunnels, message(t))
	}
	return &tunnelv1.Snapshot{Epoch: s.Epoch, Revision: s.Revision, Tunnels: tunnels, HostKeys: c.hostKeys}
}

var states = map[registry.State]tunnelv1.TunnelState{
	registry.Up:       tunnelv1.TunnelState_TUNNEL_STATE_UP,
	registry.Suspect:  tunnelv1.TunnelState_TUNNEL_STATE_SUSPECT,
	registry.Draining: tunnelv1.TunnelState_TUNNEL_STATE_DRAINING,
	registry.Down:     tunnelv1.TunnelState_TUNNEL_STATE_DOWN,
}

func message(t registry.Tunnel) *tunnelv1.Tunnel {
	m := &tunnelv1.Tunnel{
		Id: t.ID, Device: t.Device, Port: uint32(t.Port), Generation: t.Generation,
		State: states[t.State], Loopback: t.Loopback,
		Since: timestamp(t.Since), LastSeen: timestamp(t.Stats.LastSeen),
		RemoteAddress: t.RemoteAddress, KeyFingerprint: t.KeyFingerprint, ClientVersion: t.ClientVersion,
		OpenStreams: t.Stats.OpenStreams, BytesIn: t.Stats.BytesIn, BytesOut: t.Stats.BytesOut,
		LastDown: timestamp(t.LastDown), LastDownReason: t.LastDownReason, Flaps_24H: t.Flaps24h,
	}
	if t.Stats.RTT > 0 {
		m.Rtt = durationpb.New(t.Stats.RTT)
	}
	return m
}

// timestamp leaves a time that never was unset.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
