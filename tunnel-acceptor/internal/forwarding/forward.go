package forwarding

import (
	"fmt"
	"math"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// forwardRequest is the payload of tcpip-forward and cancel-tcpip-forward
// (RFC 4254 section 7.1).
type forwardRequest struct {
	Label string // the "address to bind"
	Port  uint32
}

// slotRequest is a forwardRequest that makes sense.
type slotRequest struct {
	label string // one of labels
	port  uint16 // 0 for the only one that is granted
}

// labels are the bind addresses that mean the device's own slot. OpenSSH sends
// "localhost" for -R PORT:…, and "" for -R '*:PORT:…'.
var labels = []string{"localhost", "127.0.0.1", "::1", "", "*"}

func parseForward(payload []byte) (slotRequest, error) {
	var r forwardRequest
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return slotRequest{}, fmt.Errorf("a malformed request: %w", err)
	}
	if r.Port > math.MaxUint16 {
		return slotRequest{}, fmt.Errorf("port %d", r.Port)
	}
	slot := slotRequest{r.Label, uint16(r.Port)}
	if !slices.Contains(labels, r.Label) {
		return slot, fmt.Errorf("bind address %q: use localhost, or none", printable(r.Label, 64))
	}
	return slot, nil
}

// maxForwardRequests ends a session that keeps asking for forwards and giving
// them back: each leaves a record, and a change that every watcher is told.
const maxForwardRequests = 128

// asked counts a request about forwards and says whether it may be answered.
func (s *session) asked() bool {
	if s.requests++; s.requests > maxForwardRequests {
		s.conn.close("it kept asking for forwards")
		return false
	}
	return true
}

// handleForward answers tcpip-forward. A refusal is an empty REQUEST_FAILURE;
// a success carries the port only if the device asked for port 0.
func (s *session) handleForward(req *ssh.Request) (ok bool, payload []byte) {
	if !s.asked() {
		return false, nil
	}
	r, err := parseForward(req.Payload)
	if err != nil {
		s.deny(r.port, err.Error())
		return false, nil
	}
	port, err := s.portFor(r, req.WantReply)
	if err != nil {
		s.deny(r.port, err.Error())
		return false, nil
	}
	s.mu.Lock()
	again := s.tunnels[port]
	s.mu.Unlock()
	if r.port == 0 {
		payload = ssh.Marshal(struct{ Port uint32 }{uint32(port)})
	}
	if again != nil {
		return true, payload // the same slot under another label: nothing to do
	}
	t := s.newTunnel(r, port)
	switch {
	case !s.server.cfg.Registry.Room(t.key, s.server.cfg.MaxTunnels):
		s.deny(r.port, "the device has its full number of tunnels")
		return false, nil
	case s.server.takeovers.denied(t.key):
		s.deny(r.port, "two machines share this key, and the other one keeps the port for now")
		return false, nil
	}
	event := s.event("forward_granted")
	event.Port, event.TunnelID = port, t.id
	if err := s.server.cfg.Record(event); err != nil {
		return false, nil
	}
	// The reply goes out before the tunnel is shown: a dial that follows must
	// not reach the device before it knows that its forward stands.
	if err := req.Reply(true, payload); err != nil {
		return false, nil
	}
	req.WantReply = false // so that gliderlabs does not answer a second time
	s.attach(t)
	return true, nil
}

// portFor returns the port that a request means and that is granted.
func (s *session) portFor(r slotRequest, wantReply bool) (uint16, error) {
	granted := s.id.grant.Ports
	if r.port != 0 {
		if !slices.Contains(granted, r.port) {
			return 0, fmt.Errorf("port %d is not granted to the device", r.port)
		}
		return r.port, nil
	}
	if len(granted) != 1 {
		return 0, fmt.Errorf("port 0, and the device has %d ports to choose from: name one", len(granted))
	}
	if !wantReply {
		return 0, fmt.Errorf("port 0 without asking which it became")
	}
	return granted[0], nil
}

// deny records a refused forward. A session that holds none is soon closed,
// so that the device tries again.
func (s *session) deny(port uint16, reason string) {
	event := s.event("forward_denied")
	event.Port, event.Reason = port, reason
	_ = s.server.cfg.Record(event)
	if len(s.held()) == 0 {
		s.conn.bound(false, s.server.delays.unboundAfterRefusal)
	}
}

// attach makes t the active tunnel of its slot.
func (s *session) attach(t *tunnel) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.tunnels[t.key.Port] = t
	// Under the lock, so that end finds every tunnel that was attached.
	generation, replaced := s.server.cfg.Registry.Attach(t.attachment)
	s.mu.Unlock()
	s.conn.bound(true, 0)
	s.start(s.askForLife) // to know the round-trip time
	if replaced != nil {
		s.server.takeovers.takeOver(t, generation, replaced)
	}
}

// handleCancel answers cancel-tcpip-forward, for the session's own forwards.
func (s *session) handleCancel(req *ssh.Request) (ok bool, payload []byte) {
	if !s.asked() {
		return false, nil
	}
	r, err := parseForward(req.Payload)
	if err != nil {
		return false, nil
	}
	port := r.port
	if port == 0 && len(s.id.grant.Ports) == 1 {
		port = s.id.grant.Ports[0]
	}
	s.mu.Lock()
	t := s.tunnels[port]
	s.mu.Unlock()
	if t == nil {
		return false, nil
	}
	event := s.event("forward_cancelled")
	event.Port, event.TunnelID = port, t.id
	_ = s.server.cfg.Record(event)
	s.mu.Lock()
	delete(s.tunnels, port)
	left := len(s.tunnels)
	s.mu.Unlock()
	s.server.cfg.Registry.Detach(t.attachment, "the device cancelled the forward")
	if left == 0 {
		s.conn.bound(false, s.server.delays.unboundAfterLogin)
	}
	return true, nil
}

// newTunnel prepares a tunnel for the slot (device, port).
func (s *session) newTunnel(r slotRequest, port uint16) *tunnel {
	t := &tunnel{
		session: s,
		key:     registry.Key{Device: s.id.grant.Device, Port: port},
		id:      registry.NewID(),
		label:   r.label,
	}
	t.attachment = &registry.Attachment{
		Key:            t.key,
		ID:             t.id,
		Loopback:       !s.id.grant.Certificate,
		RemoteAddress:  s.conn.remote.String(),
		KeyFingerprint: s.id.grant.Fingerprint,
		ClientVersion:  printable(string(s.ssh.ClientVersion()), 128),
		Open:           t.open,
		Stats:          t.stats,
		Owner:          t,
	}
	return t
}
