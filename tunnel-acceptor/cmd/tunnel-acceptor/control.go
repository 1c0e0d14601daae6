package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
	tunnelv1 "github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/tunnel/v1"
)

// The sockets in the run directory.
const (
	controlSocket = "control.sock"
	dialSocket    = "dial.sock"
)

// askTimeout bounds a question to the running acceptor.
const askTimeout = 5 * time.Second

type runDirFlag struct {
	RunDir string `default:"run/acceptor" placeholder:"DIR" help:"Directory of the unix sockets (default run/acceptor)."`
}

// ask runs question against the running acceptor.
func (f runDirFlag) ask(ctx context.Context, question func(ctx context.Context, conn *grpc.ClientConn) error) error {
	path := filepath.Join(f.RunDir, controlSocket)
	probe, err := localsocket.Dial(ctx, path)
	if err != nil {
		return fmt.Errorf("no acceptor serves on %s: %w", path, err)
	}
	_ = probe.Close()
	conn, err := grpc.NewClient("passthrough:///"+controlSocket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's mode and the peer's uid guard it
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return localsocket.Dial(ctx, path) }))
	if err != nil {
		return fmt.Errorf("asking the acceptor: %w", err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := question(ctx, conn); err != nil {
		return fmt.Errorf("the acceptor on %s does not answer (is its --allow-uid right?): %s", path, status.Convert(err).Message())
	}
	return nil
}

type healthcheckCmd struct{ runDirFlag }

// Run fails unless the acceptor serves.
func (c *healthcheckCmd) Run(ctx context.Context) error {
	var answer *healthpb.HealthCheckResponse
	err := c.ask(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		answer, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	})
	if err != nil {
		return err
	}
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the acceptor is %s", answer.GetStatus())
	}
	return nil
}

type listCmd struct {
	runDirFlag
	JSON bool `name:"json" help:"Print JSON."`
}

// Run prints the tunnels.
func (c *listCmd) Run(ctx context.Context, streams program.Streams) error {
	var answer *tunnelv1.ListTunnelsResponse
	err := c.ask(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		answer, err = tunnelv1.NewTunnelServiceClient(conn).ListTunnels(ctx, &tunnelv1.ListTunnelsRequest{})
		return err
	})
	if err != nil {
		return err
	}
	tunnels := make([]tunnelv1.TunnelJSON, 0, len(answer.GetSnapshot().GetTunnels()))
	for _, t := range answer.GetSnapshot().GetTunnels() {
		tunnels = append(tunnels, t.AsJSON())
	}
	if c.JSON {
		encoder := json.NewEncoder(streams.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"tunnels": tunnels})
	}
	return table(streams.Out, tunnels)
}

func table(w io.Writer, tunnels []tunnelv1.TunnelJSON) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "DEVICE\tPORT\tSTATE\tSINCE\tFROM\tSTREAMS\tLAST LOSS")
	for _, t := range tunnels {
		loss := "-"
		if t.LastDown != nil {
			loss = ago(*t.LastDown) + ": " + t.LastDownReason
		}
		since, from := "-", "-"
		if t.Since != nil {
			since, from = ago(*t.Since), t.RemoteAddress
		}
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%d\t%s\n", t.Device, t.Port, t.State, since, from, t.OpenStreams, loss)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(tunnels) == 0 {
		_, err := fmt.Fprintln(w, "(no tunnel is granted by name, and none is up)")
		return err
	}
	return nil
}

func ago(t time.Time) string { return time.Since(t).Round(time.Second).String() + " ago" }
