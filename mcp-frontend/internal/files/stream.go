package files

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
)

// maxQueued is how much may wait, in each direction.
const maxQueued = 256 << 10

var errTooMuch = errors.New("the device sends more than is taken")

// stream is a channel whose reads and writes end at once when it is aborted,
// also when the device reads nothing, sends nothing and closes nothing.
type stream struct {
	channel ssh.Channel
	in, out queue
	reading []byte       // what Read has taken from in and not returned
	spare   []byte       // the room of that
	budget  atomic.Int64 // bytes that may still be received; 0 = any number
}

// newStream serves channel until it is aborted and the device has closed it,
// which it does at the latest with the connection.
func newStream(channel ssh.Channel) *stream {
	s := &stream{channel: channel}
	s.in.changed.L, s.out.changed.L = &s.in.mu, &s.out.mu
	go s.receive()
	go s.send()
	go func() { _, _ = io.Copy(io.Discard, channel.Stderr()) }()
	return s
}

func (s *stream) receive() {
	piece := make([]byte, packetSize)
	for {
		n, err := s.channel.Read(piece)
		if left := s.budget.Load(); left > 0 && s.budget.Add(-int64(n)) <= 0 {
			s.abort(errTooMuch)
		}
		_ = s.in.put(piece[:n]) // once aborted, what still comes is dropped, so that the channel can end
		if err != nil {
			s.abort(io.ErrUnexpectedEOF)
			return
		}
	}
}

// send sends what is queued in pieces as large as they come: pkg/sftp writes
// the header and the data of a packet apart.
func (s *stream) send() {
	var piece []byte
	for {
		var err error
		if piece, err = s.out.take(piece); err != nil {
			return
		}
		if _, err := s.channel.Write(piece); err != nil {
			s.abort(err)
		}
	}
}

// Read implements io.Reader, for one goroutine.
func (s *stream) Read(p []byte) (int, error) {
	if len(s.reading) == 0 {
		var err error
		if s.spare, err = s.in.take(s.spare); err != nil {
			return 0, err
		}
		s.reading = s.spare
	}
	n := copy(p, s.reading)
	s.reading = s.reading[n:]
	return n, nil
}

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	if err := s.out.put(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.abort(io.ErrClosedPipe)
	return nil
}

// abort ends the stream for its user at once, and for the device as soon as it
// takes notice. The first reason counts.
func (s *stream) abort(why error) {
	if s.out.end(why, true) {
		s.in.end(why, false)
		go func() { _ = s.channel.Close() }() // it may block while the connection does
	}
}

// why returns what ended the stream, nil while it works.
func (s *stream) why() error { return s.out.ended() }

// queue holds bytes between two goroutines.
type queue struct {
	mu      sync.Mutex // guards all below
	changed sync.Cond
	queued  []byte
	err     error // no more is put
}

// put waits for room and queues p.
func (q *queue) put(p []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && len(q.queued) > 0 && len(q.queued)+len(p) > maxQueued {
		q.changed.Wait()
	}
	if q.err != nil {
		return q.err
	}
	q.queued = append(q.queued, p...)
	q.changed.Broadcast()
	return nil
}

// take waits for something and takes all of it. What the caller took before is
// given back as room.
func (q *queue) take(room []byte) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queued) == 0 {
		if q.err != nil {
			return nil, q.err
		}
		q.changed.Wait()
	}
	taken := q.queued
	q.queued = room[:0]
	q.changed.Broadcast()
	return taken, nil
}

// end lets no more in, and says whether it was the first to. drop forgets what
// is queued.
func (q *queue) end(why error, drop bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false
	}
	q.err = why
	if drop {
		q.queued = nil
	}
	q.changed.Broadcast()
	return true
}

func (q *queue) ended() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}
