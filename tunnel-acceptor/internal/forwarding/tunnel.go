package forwarding

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// maxPendingOpens bounds the goroutines that a device which does not answer
// can pin.
const maxPendingOpens = 16

// tunnel is one forward that a session holds.
type tunnel struct {
	session    *session
	key        registry.Key
	id         string
	label      string // as the device sent it, echoed byte for byte
	attachment *registry.Attachment
	streams    atomic.Int64
	pending    atomic.Int64
}

// forwardedChannel is the payload of forwarded-tcpip (RFC 4254 section 7.2).
type forwardedChannel struct {
	Label      string
	Port       uint32
	OriginAddr string
	OriginPort uint32
}

func (t *tunnel) stats() registry.Stats {
	c := t.session.conn
	return registry.Stats{
		LastSeen:    time.Unix(0, c.lastRead.Load()),
		RTT:         time.Duration(t.session.rtt.Load()),
		OpenStreams: uint32(max(0, t.streams.Load())),
		BytesIn:     c.in.Load(),
		BytesOut:    c.out.Load(),
	}
}

// open opens a stream to what the device forwards. Its errors wrap those of
// package registry.
func (t *tunnel) open(ctx context.Context) (registry.Stream, error) {
	if t.streams.Add(1) > int64(t.session.server.cfg.MaxStreams) {
		t.streams.Add(-1)
		return nil, registry.ErrTooManyStreams
	}
	t.session.streams.Add(1)
	release := sync.OnceFunc(func() {
		t.session.streams.Add(-1)
		t.streams.Add(-1)
	})
	s, err := t.openChannel(ctx, release)
	if err != nil {
		release()
		return nil, err
	}
	return s, nil
}

func (t *tunnel) openChannel(ctx context.Context, release func()) (registry.Stream, error) {
	if t.pending.Add(1) > maxPendingOpens {
		t.pending.Add(-1)
		return nil, fmt.Errorf("%w: %d streams already wait for it", registry.ErrNoAnswer, maxPendingOpens)
	}
	type opened struct {
		stream *stream
		err    error
	}
	server := t.session.server
	ctx, cancel := context.WithTimeout(ctx, server.delays.open)
	defer cancel()
	result := make(chan opened)
	// Nobody waits for this goroutine, as it may never end: x/crypto forgets a
	// channel that is opened just while its read loop ends.
	go func() {
		defer t.pending.Add(-1)
		defer server.recoverConn(t.session.conn, "channel open")
		unanswered := time.AfterFunc(server.delays.answer, func() {
			t.session.conn.close("the device left a stream unanswered")
		})
		defer unanswered.Stop()
		ch, reqs, err := t.session.ssh.OpenChannel("forwarded-tcpip", ssh.Marshal(forwardedChannel{
			Label: t.label, Port: uint32(t.key.Port),
			// The originator is ours to name; clients refuse its port 0.
			OriginAddr: "127.0.0.1", OriginPort: uint32(t.key.Port),
		}))
		o := opened{err: err}
		if err == nil {
			o.stream = t.newStream(ch, reqs, release)
		}
		select {
		case result <- o:
		case <-ctx.Done(): // too late: nobody waits
			if o.stream != nil {
				_ = o.stream.Close()
			}
		}
	}()
	select {
	case o := <-result:
		var refused *ssh.OpenChannelError
		switch {
		case errors.As(o.err, &refused):
			return nil, fmt.Errorf("%w: %s", registry.ErrRefused, printable(refused.Message, 200))
		case o.err != nil:
			return nil, fmt.Errorf("%w: its connection ended", registry.ErrNoAnswer)
		}
		return o.stream, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			server.cfg.Registry.SetSuspect(t.attachment, true) // until checkAlive knows better
		}
		t.session.start(t.session.askForLife) // find out now whether it is still there
		return nil, fmt.Errorf("%w within %s", registry.ErrNoAnswer, server.delays.open)
	case <-t.session.ctx.Done():
		return nil, fmt.Errorf("%w: its connection ended", registry.ErrNoAnswer)
	}
}

// stream is one channel to a device.
type stream struct {
	ssh.Channel
	release func()
}

// newStream takes over a channel. What the device may send beside plain data
// is read and dropped: unread, it would stall the channel.
func (t *tunnel) newStream(ch ssh.Channel, reqs <-chan *ssh.Request, release func()) *stream {
	t.session.start(func() { ssh.DiscardRequests(reqs) })
	t.session.start(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) })
	return &stream{Channel: ch, release: release}
}

func (s *stream) Close() error {
	s.release()
	return s.Channel.Close()
}
