package mcptools

import (
	"context"
	"errors"
	"slices"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/tunnels"
)

type listArgs struct {
	Tag   string `json:"tag"`
	State string `json:"state"`
}

// device is one entry of ssh_list_devices.
type device struct {
	Name        string          `json:"name"`
	Mode        string          `json:"mode"`
	State       string          `json:"state"`
	Description string          `json:"description"`
	Tags        []string        `json:"tags"`
	Failures    int             `json:"failures"`
	LastError   string          `json:"last_error"`
	RetryAfterS int             `json:"retry_after_s"`
	Tunnel      *tunnels.Tunnel `json:"tunnel,omitempty"`
}

func (t *tools) listDevices(ctx context.Context, args listArgs) result {
	r := t.record(ctx, "tool_called")
	r.Tool = "ssh_list_devices"
	if _, err := t.cfg.Record(r); err != nil {
		return failure(auditUnavailable(err))
	}
	return result{value: map[string]any{"devices": t.devices(ctx, args)}}
}

// devices returns the devices that args asks for. Just after the start it
// waits a moment for the acceptor's word.
func (t *tools) devices(ctx context.Context, args listArgs) []device {
	if t.cfg.Tunnels != nil {
		t.cfg.Tunnels.Settle(ctx)
	}
	devices := make([]device, 0)
	for _, status := range t.cfg.Pool.Status() {
		d := t.describe(status)
		if (args.Tag == "" || slices.Contains(d.Tags, args.Tag)) && (args.State == "" || args.State == d.State) {
			devices = append(devices, d)
		}
	}
	return devices
}

// describe says what is known of a device without asking it.
func (t *tools) describe(s sshpool.Status) device {
	d := device{
		Name: s.Device.Name, Mode: string(s.Device.Mode), Description: s.Device.Description,
		Tags: append([]string{}, s.Device.Tags...), Failures: s.Failures, LastError: s.LastError,
		RetryAfterS: seconds(s.RetryAfter),
	}
	switch {
	case s.Device.Mode == "tunnel":
		d.State, d.Tunnel = t.tunnelState(s)
	case s.Connected:
		d.State = "up"
	case s.Failures > 0:
		d.State = "down"
	default:
		d.State = "unknown"
	}
	if s.RetryAfter > 0 {
		d.State = "backing_off"
	}
	if s.Unusable != nil {
		d.State, d.LastError = "misconfigured", s.Unusable.Error()
	}
	return d
}

func (t *tools) tunnelState(s sshpool.Status) (state string, tunnel *tunnels.Tunnel) {
	if t.cfg.Tunnels == nil {
		return "unknown", nil
	}
	found, err := t.cfg.Tunnels.Now(s.Device.Host, s.Device.Port)
	switch {
	case errors.Is(err, tunnels.ErrAcceptorDown):
		return "unknown", nil
	case err == nil:
		return "up", &found
	case found.Device == "": // the acceptor knows no such port
		return "down", nil
	}
	return "down", &found
}
