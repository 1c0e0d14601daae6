package mcpserve

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// The causes (context.Cause) with which a request's context ends early.
var (
	// ErrCancelled says that the client sent notifications/cancelled for the request.
	ErrCancelled = errors.New("cancelled by the client")
	// ErrDisconnected says that the client closed the conversation or stopped reading.
	ErrDisconnected = errors.New("the client disconnected")
	// ErrStopping says that the server is told to stop and the grace is over.
	ErrStopping = errors.New("the server is stopping")
)

// abandonAfter is how long a Read or Write that cannot be interrupted for
// certain may take to return after the conversation's end.
const abandonAfter = 250 * time.Millisecond

// A conn is one conversation.
type conn struct {
	*Server
	log     *slog.Logger
	session *session
	calls   *calls
	out     *writer
	cancel  context.CancelCauseFunc // ends every request
	story   story
}

// ServeConn serves one conversation until r's end of file, ctx's end or a failed
// write, and returns nil for the first two. When it returns, its goroutines have
// ended, r and w must not be used any more, and it has closed neither if they
// have deadlines.
//
// At end of file and at ctx's end nothing more is read; running requests may
// finish within the grace, then they are cancelled and waited for: a handler
// that ignores its context holds ServeConn. After a failed write they are
// cancelled at once.
//
// A Read that is under way is ended by SetReadDeadline or, where r has none,
// Close. The Read of an os.Stdin in blocking mode obeys neither: its goroutine is
// abandoned, and whatever it still reads is thrown away. Likewise a Write: by
// SetWriteDeadline or else by a timer that closes w and ends the conversation.
// Nothing else is ever left behind.
func (s *Server) ServeConn(ctx context.Context, r io.Reader, w io.Writer, peer Peer) error {
	c := s.newConn(w, peer)
	// Requests have ctx's values but not its end: they have a grace.
	requests, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	c.cancel = cancel
	requests = s.cfg.MCP.WithContext(requests, c.session)
	if err := s.cfg.MCP.RegisterSession(requests, c.session); err != nil {
		return fmt.Errorf("registering the session: %w", err)
	}
	defer s.cfg.MCP.UnregisterSession(requests, c.session.SessionID())
	s.open.Add(1)
	defer s.open.Add(-1)
	c.log.Debug("conversation begins")
	defer c.log.Debug("conversation ended")
	reason := endedByClient
	defer func() { c.story.end(reason) }()

	go c.out.run()
	reading := make(chan struct{})
	var readErr error
	go func() {
		defer close(reading)
		readErr = c.read(requests, r)
		if s.cfg.Ended != nil {
			s.cfg.Ended(c.session.id)
		}
	}()

	select {
	case <-reading:
		c.finish(ErrDisconnected, s.cfg.EOFGrace)
		c.out.finish()
		if readErr != nil {
			reason = endedByRead
		}
		return readErr
	case <-c.out.ended:
		c.calls.close()
		certain := interrupt(r)
		c.finish(ErrDisconnected, 0)
		await(reading, certain)
		c.out.finish()
		reason = endedByWrite
		return c.out.err
	case <-ctx.Done():
		c.calls.close() // before the interruption: it is not a failed read
		certain := interrupt(r)
		c.finish(ErrStopping, s.cfg.EOFGrace)
		await(reading, certain)
		c.out.finish()
		reason = endedByStop
		return nil
	}
}

func (s *Server) newConn(w io.Writer, peer Peer) *conn {
	c := &conn{Server: s, calls: newCalls(s.cfg.MaxInFlight)}
	c.session = newSession(peer, s.cfg.MaxInFlight)
	c.log = s.cfg.Log.With("session", c.session.id, "peer_uid", peer.UID)
	c.out = newWriter(w, s.cfg.WriteTimeout, c.session.notes, c.calls.admit, c.log)
	c.session.out = c.out
	c.story.start = time.Now()
	return c
}

// finish lets running requests end by themselves for a while, then cancels them
// and waits for the rest.
func (c *conn) finish(cause error, grace time.Duration) {
	c.calls.close()
	idle := make(chan struct{})
	go func() {
		c.calls.running.Wait()
		close(idle)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-c.out.ended:
	}
	c.cancel(cause)
	if errors.Is(cause, ErrStopping) {
		// A stop does not wait a whole WriteTimeout for a client that reads nothing.
		c.out.hurry(grace)
	}
	<-idle
}

// read handles the client's lines until end of file (nil), the conversation's
// end (nil) or a failed read.
func (c *conn) read(ctx context.Context, r io.Reader) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("panic while reading", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("panic while reading from the client")
		}
	}()
	lines := lineReader{r: bufio.NewReaderSize(r, 32<<10), max: c.cfg.MaxLineBytes}
	for {
		line, err := lines.next()
		switch {
		case c.calls.isClosed():
			return nil
		case errors.Is(err, errLineTooLong):
			c.refuse(nil, mcp.INVALID_REQUEST, fmt.Sprintf("a message of more than %d bytes was skipped: send less at a time", c.cfg.MaxLineBytes))
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading from the client: %w", err)
		default:
			c.handle(ctx, line)
		}
	}
}

// handle acts on one line. It never waits for a handler, except for that of
// initialize, of ping and of a notification.
func (c *conn) handle(ctx context.Context, line []byte) {
	m, fault := parse(line)
	switch {
	case fault != nil:
		c.refuse(m.ID, fault.code, fault.text)
	case m.kind() == isResponse:
		if !c.session.questions.answer(m) {
			c.unasked.Add(1)
			c.log.Debug("dropped a response to nothing asked")
		}
	case m.kind() == isNotification && m.Method == methodCancelled:
		c.calls.cancel(m.Params.RequestID)
	case m.kind() == isNotification:
		c.notify(ctx, m.Method, line)
	case m.kind() == isRequest:
		c.start(ctx, m, line)
	}
}

// notify hands a notification to mcp-go, whose handlers run in the read loop so
// that notifications keep their order.
func (c *conn) notify(ctx context.Context, method string, line []byte) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("panic in a notification handler", "method", clip(method), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	c.cfg.MCP.HandleMessage(ctx, line)
}

// refuse answers a message that starts no request. A nil id is sent as null.
func (c *conn) refuse(id json.RawMessage, code int, text string) {
	c.out.send(outgoing{line: errorLine(id, code, text)})
}

// interrupt makes a blocked Read return and reports whether it certainly will.
func interrupt(r io.Reader) bool {
	if d, ok := r.(interface{ SetReadDeadline(t time.Time) error }); ok && d.SetReadDeadline(time.Unix(1, 0)) == nil {
		return true
	}
	if closer, ok := r.(io.Closer); ok {
		closeQuietly(closer)
	}
	return false
}

// await waits for done, only for a moment if it may never come.
func await(done <-chan struct{}, certain bool) {
	if certain {
		<-done
		return
	}
	timer := time.NewTimer(abandonAfter)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
