package mcpserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

const (
	writeChunk = 64 << 10 // written at once, and what a client must read within the timeout
	keepBuffer = 1 << 20  // a larger buffer is given back after use
	queueLen   = 64       // messages; whoever has one more waits
)

// outgoing is a line on its way to the client, with the request that it is for,
// if any, and whether it is that request's answer.
type outgoing struct {
	line []byte
	req  *request
	last bool
}

// A writer is all that writes to one client. What is queued at the same time
// leaves in one Write, in the order it was queued.
type writer struct {
	w       io.Writer
	timeout time.Duration
	notes   <-chan mcp.JSONRPCNotification
	admit   func(outgoing) bool
	log     *slog.Logger

	queue   chan outgoing
	closing chan struct{} // nothing more will be queued
	done    chan struct{} // run has returned
	buf     []byte        // run's own

	ended   chan struct{} // nothing more will be written; err says why
	endOnce sync.Once
	err     error

	certain bool // deadlines work: a Write always returns
	mu      sync.Mutex
	by      time.Time       // guarded by mu: the last moment for all writes, if set
	arm     func(time.Time) // called under mu: ends a Write at that time; zero: no longer
}

func newWriter(w io.Writer, timeout time.Duration, notes <-chan mcp.JSONRPCNotification, admit func(outgoing) bool, log *slog.Logger) *writer {
	out := &writer{
		w: w, timeout: timeout, notes: notes, admit: admit, log: log,
		queue:   make(chan outgoing, queueLen),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	d, ok := w.(interface{ SetWriteDeadline(t time.Time) error })
	if ok && d.SetWriteDeadline(time.Time{}) == nil {
		out.certain = true
		out.arm = func(t time.Time) { _ = d.SetWriteDeadline(t) } // just tried; a closed w fails the Write
		return out
	}
	timer := time.AfterFunc(time.Hour, out.giveUp)
	timer.Stop()
	out.arm = func(t time.Time) {
		if timer.Stop(); !t.IsZero() {
			timer.Reset(time.Until(t))
		}
	}
	return out
}

// send queues a line and waits for room, as long as anything is written.
func (w *writer) send(m outgoing) {
	select {
	case w.queue <- m:
	case <-w.ended:
	}
}

// enqueue is send bounded by ctx.
func (w *writer) enqueue(ctx context.Context, m outgoing) error {
	select {
	case w.queue <- m:
		return nil
	case <-w.ended:
		return ErrDisconnected
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hurry ends all writing after d.
func (w *writer) hurry(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by = time.Now().Add(d)
	w.arm(w.by)
}

// finish writes what is queued and waits for the end of run. Nothing may be
// queued after it.
func (w *writer) finish() {
	close(w.closing)
	select {
	case <-w.done:
	case <-w.ended:
		await(w.done, w.certain)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arm(time.Time{})
}

func (w *writer) run() {
	defer close(w.done)
	defer func() {
		if p := recover(); p != nil { // encoding a notification runs foreign code
			w.log.Error("panic while writing", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			w.end(errors.New("panic while writing to the client"))
		}
	}()
	for open := true; open; {
		select {
		case m := <-w.queue:
			w.add(m)
		case n := <-w.notes:
			w.addNote(n)
		case <-w.closing:
			open = false
		}
		for w.addQueued() {
			if len(w.buf) >= writeChunk && !w.flush() {
				return
			}
		}
		if !w.flush() {
			return
		}
	}
	w.end(nil)
}

// addQueued adds one line that is there already.
func (w *writer) addQueued() bool {
	select {
	case m := <-w.queue:
		w.add(m)
		return true
	case n := <-w.notes:
		w.addNote(n)
		return true
	default:
		return false
	}
}

// add puts a line into the buffer, after the notifications that its request sent
// through mcp-go before it.
func (w *writer) add(m outgoing) {
	for {
		select {
		case n := <-w.notes:
			w.addNote(n)
			continue
		default:
		}
		break
	}
	if w.admit(m) {
		w.buf = append(w.buf, m.line...)
	}
}

func (w *writer) addNote(n mcp.JSONRPCNotification) {
	line, err := json.Marshal(n)
	if err != nil {
		w.log.Error("dropped a notification that cannot be encoded", "method", n.Method, "error", err)
		return
	}
	w.buf = append(append(w.buf, line...), '\n')
}

// flush writes the buffer and reports whether the client still reads.
func (w *writer) flush() bool {
	for rest := w.buf; len(rest) > 0; {
		part := rest[:min(len(rest), writeChunk)]
		if err := w.write(part); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = w.tooSlow()
			}
			w.end(fmt.Errorf("writing to the client: %w", err))
			return false
		}
		rest = rest[len(part):]
	}
	w.buf = w.buf[:0]
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	return true
}

func (w *writer) write(part []byte) error {
	w.mu.Lock()
	by := time.Now().Add(w.timeout)
	if !w.by.IsZero() {
		by = w.by
	}
	w.arm(by)
	w.mu.Unlock()

	_, err := w.w.Write(part)
	if !w.certain {
		w.mu.Lock()
		w.arm(time.Time{})
		w.mu.Unlock()
	}
	select {
	case <-w.ended: // given up meanwhile
		return w.err
	default:
		return err
	}
}

// giveUp ends a conversation whose Write takes too long and has no deadline.
func (w *writer) giveUp() {
	w.end(fmt.Errorf("writing to the client: %w", w.tooSlow()))
	if closer, ok := w.w.(io.Closer); ok {
		closeQuietly(closer)
	}
}

func (w *writer) tooSlow() error {
	return fmt.Errorf("cut off, it read less than %d KiB in %v: %w", writeChunk>>10, w.timeout, os.ErrDeadlineExceeded)
}

// end says that nothing more will be written. The first reason counts.
func (w *writer) end(err error) {
	w.endOnce.Do(func() {
		w.err = err
		close(w.ended)
	})
}
