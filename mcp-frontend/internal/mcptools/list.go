package mcptools

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/tunnels"
)

type listArgs struct {
	Tag   string `json:"tag"`
	State string `json:"state"`
}

// device is one entry of ssh_list_devices.
type device struct {
	Name        string   `json:"name"`
	Mode        string   `json:"mode"`
	State       string   `json:"state"`
	Description string   `json:"description"`
	Tags        []string `json:"tags"`
	Failures    int      `json:"failures"`
	LastError   string   `json:"last_error"`
	RetryAfterS int      `json:"retry_after_s"`
	Tunnel      *tunnel  `json:"tunnel,omitempty"`
}

// tunnel is what an agent needs to know of a reverse tunnel.
type tunnel struct {
	ID             string     `json:"id,omitempty"`
	Device         string     `json:"device"`
	Port           uint32     `json:"port"`
	Generation     uint64     `json:"generation"`
	State          string     `json:"state"`
	Since          *time.Time `json:"since,omitempty"`
	RemoteAddress  string     `json:"remote_address,omitempty"`
	LastDown       *time.Time `json:"last_down,omitempty"`
	LastDownReason string     `json:"last_down_reason,omitempty"`
	Flaps24h       uint32     `json:"flaps_24h"`
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
		t.describeTunnel(s, &d)
	case s.Connected:
		d.State = "up"
	case s.LastCode != "":
		d.State = "down"
	default:
		d.State = "unknown"
	}
	switch {
	case s.Unusable != nil:
		d.State, d.LastError = "misconfigured", "KEY_UNUSABLE: "+s.Unusable.Error()
	case s.LastCode == sshpool.HostKeyUnknown || s.LastCode == sshpool.HostKeyMismatch:
		d.State = "misconfigured" // it stays so until an operator acts
	case s.RetryAfter > 0:
		d.State = "backing_off"
	}
	return d
}

// describeTunnel adds what the acceptor says of the device.
func (t *tools) describeTunnel(s sshpool.Status, d *device) {
	if t.cfg.Tunnels == nil {
		d.State, d.LastError = "unknown", "ACCEPTOR_DOWN: this gateway runs without a tunnel acceptor"
		return
	}
	found, err := t.cfg.Tunnels.Now(s.Device.Host, s.Device.Port)
	if errors.Is(err, tunnels.ErrAcceptorDown) {
		d.State, d.LastError = "unknown", "ACCEPTOR_DOWN: "+err.Error()
		return
	}
	d.State = "down"
	if err == nil {
		d.State = "up"
		if s.LastCode == sshpool.TunnelDown || s.LastCode == sshpool.AcceptorDown {
			d.LastError = "" // that is over
		}
	}
	if found.Device != "" { // otherwise the acceptor knows no such port
		d.Tunnel = &tunnel{
			ID: found.ID, Device: found.Device, Port: found.Port, Generation: found.Generation, State: found.State,
			Since: found.Since, RemoteAddress: found.RemoteAddress,
			LastDown: found.LastDown, LastDownReason: found.LastDownReason, Flaps24h: found.Flaps24h,
		}
	}
}
