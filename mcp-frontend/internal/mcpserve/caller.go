package mcpserve

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// Caller describes who asks, for the audit. The client's name and version are
// its own claim: record them, never decide by them.
type Caller struct {
	Session       string // the connection's unguessable id
	ClientName    string // clipped to a reasonable length
	ClientVersion string // clipped to a reasonable length
	PeerUID       uint32
	HasPeerUID    bool
	RequestID     string // the id's JSON as it was sent: 1 or "1"; "" outside a request
	Modern        bool   // the request is of protocol 2026-07-28 or newer
	Elicitation   bool   // the client can show a form to its user
}

// CallerFrom returns the caller of the request that ctx belongs to. It also
// works in mcp-go's session hooks, without a request; elsewhere it returns the
// zero Caller.
func CallerFrom(ctx context.Context) Caller {
	switch s := server.ClientSessionFromContext(ctx).(type) {
	case *request:
		who := s.client
		modern := server.RequestProtocolInfoFromContext(ctx)
		if modern != nil && modern.Modern {
			who = client{}
			if modern.ClientInfo != nil {
				who.info = *modern.ClientInfo
			}
			if modern.ClientCapabilities != nil {
				who.capabilities = *modern.ClientCapabilities
			}
		}
		caller := s.caller(who)
		caller.RequestID = string(s.id)
		caller.Modern = modern != nil && modern.Modern
		return caller
	case *session:
		return s.caller(s.greeted())
	default:
		return Caller{}
	}
}

func (s *session) caller(who client) Caller {
	return Caller{
		Session:       s.id,
		ClientName:    clip(who.info.Name),
		ClientVersion: clip(who.info.Version),
		PeerUID:       s.peer.UID,
		HasPeerUID:    s.peer.HasUID,
		Elicitation:   elicits(who.capabilities, mcp.ElicitationModeForm),
	}
}
