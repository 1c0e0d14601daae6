package files

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
)

// maxPending is how much may wait to be sent.
const maxPending = 256 << 10

var errTooMuch = errors.New("the device sends more than is taken")

// stream is a channel whose reads and writes end at once when it is aborted,
// also when the device reads nothing, sends nothing and closes nothing. What is
// written is sent in pieces as large as they come, as pkg/sftp writes the
// header and the data of a packet apart.
type stream struct {
	channel ssh.Channel
	in      *io.PipeReader
	budget  atomic.Int64 // bytes that may still be received; 0 = any number

	mu      sync.Mutex // guards all below
	changed sync.Cond  // pending or err did
	pending []byte
	err     error // ends reads and writes
}

// newStream serves channel until it is aborted and the device has closed it,
// which it does at the latest with the connection.
func newStream(channel ssh.Channel) *stream {
	in, received := io.Pipe()
	s := &stream{channel: channel, in: in}
	s.changed.L = &s.mu
	go s.receive(received)
	go s.send()
	go func() { _, _ = io.Copy(io.Discard, channel.Stderr()) }()
	return s
}

func (s *stream) receive(to *io.PipeWriter) {
	piece := make([]byte, packetSize)
	for {
		n, err := s.channel.Read(piece)
		if left := s.budget.Load(); left > 0 && s.budget.Add(-int64(n)) <= 0 {
			s.abort(errTooMuch)
		}
		if n > 0 {
			_, _ = to.Write(piece[:n]) // once aborted, what still comes is dropped, so that the channel can end
		}
		if err != nil {
			s.abort(io.ErrUnexpectedEOF)
			return
		}
	}
}

func (s *stream) send() {
	var piece []byte
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && s.err == nil {
			s.changed.Wait()
		}
		if s.err != nil {
			s.mu.Unlock()
			_ = s.channel.Close()
			return
		}
		piece, s.pending = s.pending, piece[:0]
		s.changed.Broadcast()
		s.mu.Unlock()
		if _, err := s.channel.Write(piece); err != nil {
			s.abort(err)
		}
	}
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) { return s.in.Read(p) }

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && len(s.pending) > 0 && len(s.pending)+len(p) > maxPending {
		s.changed.Wait()
	}
	if s.err != nil {
		return 0, s.err
	}
	s.pending = append(s.pending, p...)
	s.changed.Broadcast()
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
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = why
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	if !first {
		return
	}
	_ = s.in.CloseWithError(why)
	go func() { _ = s.channel.Close() }() // it may block while the connection does
}

// why returns what ended the stream, nil while it works.
func (s *stream) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
