package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/tunnels"
)

// dialTunnel is the pool's way through a tunnel; it says what went wrong in
// the pool's terms.
func (g *gateway) dialTunnel(ctx context.Context, host string, port uint16) (net.Conn, string, error) {
	conn, tunnel, err := g.tunnels.Dial(ctx, host, port)
	return conn, tunnel.ID, tunnelError(tunnel, err)
}

// findTunnel says in the pool's terms why there is nothing to dial.
func (g *gateway) findTunnel(ctx context.Context, host string, port uint16) error {
	tunnel, err := g.tunnels.Find(ctx, host, port)
	return tunnelError(tunnel, err)
}

func (g *gateway) tunnelID(host string, port uint16) string {
	tunnel, err := g.tunnels.Now(host, port)
	if err != nil {
		return ""
	}
	return tunnel.ID
}

func tunnelError(tunnel tunnels.Tunnel, err error) error {
	var refused *tunnels.RefusedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tunnels.ErrAcceptorDown):
		return &sshpool.Error{
			Code: sshpool.AcceptorDown, Stage: sshpool.StageAcceptor, Err: err, Retriable: true, FixBy: "operator",
			Hint: "tell the operator that tunnel-acceptor is not running; direct devices still work",
		}
	case errors.Is(err, tunnels.ErrTunnelDown) && tunnel.Device == "":
		return &sshpool.Error{
			Code: sshpool.TunnelDown, Stage: sshpool.StageTunnel, Retriable: true, FixBy: "operator",
			Err:  fmt.Errorf("%w, and the acceptor grants this port to no device by name", err),
			Hint: "tell the operator: connections.json or the acceptor's authorized_keys may have the wrong port or name (tunnel-acceptor list shows what is granted), or a device with a certificate has not come yet",
		}
	case errors.Is(err, tunnels.ErrTunnelDown):
		return &sshpool.Error{
			Code: sshpool.TunnelDown, Stage: sshpool.StageTunnel, Err: tunnelStory(tunnel, err), Retriable: true, FixBy: "operator",
			Hint: "the device opens its tunnel by itself when it can; being offline is normal. Work on another device, or look again later with ssh_list_devices",
		}
	case errors.As(err, &refused):
		stage := sshpool.StageTunnel
		return &sshpool.Error{
			Code: sshpool.DialFailed, Stage: stage, Err: fmt.Errorf("the tunnel is up, but %w", refused), Retriable: true, FixBy: "operator",
			Hint: "ask the operator whether sshd runs on the device, at the address that its ssh -R names",
		}
	}
	return err
}

// tunnelStory adds what the acceptor knows of the tunnel's last loss.
func tunnelStory(tunnel tunnels.Tunnel, err error) error {
	if tunnel.LastDown == nil {
		return fmt.Errorf("%w; none was seen since the acceptor started", err)
	}
	return fmt.Errorf("%w; it was lost at %s: %s", err, tunnel.LastDown.Format("2006-01-02 15:04:05Z"), strings.TrimSpace(tunnel.LastDownReason))
}
