package forwarding

import (
	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"
)

// forwardsOnly is what OpenSSH prints when somebody asks for more than a forward.
const forwardsOnly = "this gateway accepts reverse forwards only (ssh -N -R)"

// maxRefusedChannels ends a connection that keeps asking: each refusal costs
// the library memory until the connection ends.
const maxRefusedChannels = 64

// channelHandlers refuse every channel that a client can open: RFC 4254
// section 5.1 reason 1 for what we know and do not offer, 3 for the rest.
func (s *Server) channelHandlers() map[string]gliderssh.ChannelHandler {
	refuse := func(reason ssh.RejectionReason, text string) gliderssh.ChannelHandler {
		return func(_ *gliderssh.Server, _ *ssh.ServerConn, ch ssh.NewChannel, ctx gliderssh.Context) {
			c := connOf(ctx)
			done, ok := c.begin()
			if !ok {
				return
			}
			defer done()
			defer s.recoverConn(c, "channel")
			// Counted first: a peer that reads nothing makes Reject block, and
			// must not collect goroutines so.
			if c.refused.Add(1) > maxRefusedChannels {
				c.close("it kept opening channels that are refused")
				return
			}
			_ = ch.Reject(reason, text)
			s.channelRefused(c, ch.ChannelType())
		}
	}
	prohibited := refuse(ssh.Prohibited, forwardsOnly)
	return map[string]gliderssh.ChannelHandler{
		"session":                        prohibited,
		"direct-tcpip":                   prohibited,
		"direct-streamlocal@openssh.com": prohibited,
		"tun@openssh.com":                prohibited,
		"default":                        refuse(ssh.UnknownChannelType, "unknown channel type"),
	}
}

func (s *Server) channelRefused(c *conn, channelType string) {
	event := Event{Name: "channel_refused", Remote: c.remote.String(), Reason: printable(channelType, 64)}
	c.mu.Lock()
	if c.grant != nil {
		event.Device, event.Fingerprint = c.grant.Device, c.grant.Fingerprint
	}
	c.mu.Unlock()
	_ = s.cfg.Record(event)
}

// requestHandlers answer the global requests. All but forwards are refused,
// and every one counts as a sign of life.
func (s *Server) requestHandlers() map[string]gliderssh.RequestHandler {
	handle := func(f func(*session, *ssh.Request) (bool, []byte)) gliderssh.RequestHandler {
		return func(ctx gliderssh.Context, _ *gliderssh.Server, req *ssh.Request) (ok bool, payload []byte) {
			c := connOf(ctx)
			done, running := c.begin()
			if !running {
				return false, nil
			}
			defer done()
			defer s.recoverConn(c, "request")
			session := s.sessionOf(ctx, c)
			if session == nil {
				return false, nil
			}
			return f(session, req)
		}
	}
	return map[string]gliderssh.RequestHandler{
		"tcpip-forward":        handle((*session).handleForward),
		"cancel-tcpip-forward": handle((*session).handleCancel),
		hostKeysProve:          handle((*session).handleProve),
		keepalive:              handle(func(*session, *ssh.Request) (bool, []byte) { return true, nil }),
		"streamlocal-forward@openssh.com": handle(func(s *session, _ *ssh.Request) (bool, []byte) {
			if s.asked() {
				s.deny(0, "a unix socket forward")
			}
			return false, nil
		}),
		"default": handle(func(*session, *ssh.Request) (bool, []byte) { return false, nil }),
	}
}
