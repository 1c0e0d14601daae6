// Package tunnelv1 is the generated code of tunnel.v1, and its JSON form.
package tunnelv1

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// TunnelJSON is a Tunnel as operators and agents see it: in the acceptor's
// list --json, and in the frontend's ssh_list_devices.
type TunnelJSON struct {
	ID             string     `json:"id,omitempty"`
	Device         string     `json:"device"`
	Port           uint32     `json:"port"`
	Generation     uint64     `json:"generation"`
	State          string     `json:"state"`
	Since          *time.Time `json:"since,omitempty"`
	LastSeen       *time.Time `json:"last_seen,omitempty"`
	RTTMS          float64    `json:"rtt_ms,omitempty"`
	RemoteAddress  string     `json:"remote_address,omitempty"`
	KeyFingerprint string     `json:"key_fingerprint,omitempty"`
	ClientVersion  string     `json:"client_version,omitempty"`
	OpenStreams    uint32     `json:"open_streams"`
	BytesIn        uint64     `json:"bytes_in"`
	BytesOut       uint64     `json:"bytes_out"`
	LastDown       *time.Time `json:"last_down,omitempty"`
	LastDownReason string     `json:"last_down_reason,omitempty"`
	Flaps24h       uint32     `json:"flaps_24h"`
}

// AsJSON returns t for encoding/json.
func (t *Tunnel) AsJSON() TunnelJSON {
	j := TunnelJSON{
		ID: t.GetId(), Device: t.GetDevice(), Port: t.GetPort(), Generation: t.GetGeneration(),
		State: t.GetState().Word(),
		Since: when(t.GetSince()), LastSeen: when(t.GetLastSeen()),
		RemoteAddress: t.GetRemoteAddress(), KeyFingerprint: t.GetKeyFingerprint(), ClientVersion: t.GetClientVersion(),
		OpenStreams: t.GetOpenStreams(), BytesIn: t.GetBytesIn(), BytesOut: t.GetBytesOut(),
		LastDown: when(t.GetLastDown()), LastDownReason: t.GetLastDownReason(), Flaps24h: t.GetFlaps_24H(),
	}
	if t.GetRtt() != nil {
		j.RTTMS = float64(t.GetRtt().AsDuration().Microseconds()) / 1000
	}
	return j
}

// Word is the state as it is written: up, suspect, draining or down.
func (s TunnelState) Word() string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TUNNEL_STATE_"))
}

func when(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}
