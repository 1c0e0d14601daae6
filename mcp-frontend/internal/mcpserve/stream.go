package mcpserve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var errNoStream = errors.New("neither a pipe nor a socket")

// A stream is a pipe or a socket that another process gave us, with deadlines.
//
// They need non-blocking mode, which belongs to the open file description and
// so to every process that shares it. A pipe must come with a description of its
// own. That of a socket cannot be had: it keeps the mode that it has, and each
// call says for itself that it must not block.
type stream struct {
	file   *os.File
	socket syscall.RawConn // nil for a pipe
}

// openStream takes fd over, also when it fails.
func openStream(fd int) (*stream, error) {
	var stat unix.Stat_t
	err := unix.Fstat(fd, &stat)
	flags, flagsErr := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	blocking := flags&unix.O_NONBLOCK == 0
	isSocket := stat.Mode&unix.S_IFMT == unix.S_IFSOCK
	switch err = errors.Join(err, flagsErr); {
	case err != nil:
	case !isSocket && stat.Mode&unix.S_IFMT != unix.S_IFIFO:
		err = errNoStream
	case !isSocket && blocking:
		err = errors.New("a pipe in blocking mode")
	case blocking:
		err = unix.SetNonblock(fd, true) // os.NewFile asks, only once
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	s := &stream{file: os.NewFile(uintptr(fd), "stream")}
	if isSocket {
		if blocking {
			err = unix.SetNonblock(fd, false)
		}
		var rawErr error
		s.socket, rawErr = s.file.SyscallConn()
		err = errors.Join(err, rawErr)
	}
	if err = errors.Join(err, s.file.SetDeadline(time.Time{})); err != nil { // fails if there are none
		_ = s.file.Close()
		return nil, fmt.Errorf("preparing a stream: %w", err)
	}
	return s, nil
}

func (s *stream) Read(p []byte) (n int, err error) {
	if s.socket == nil {
		return s.file.Read(p)
	}
	waitErr := s.socket.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waitErr != nil:
		return 0, waitErr
	case err != nil:
		return 0, os.NewSyscallError("recvfrom", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (s *stream) Write(p []byte) (n int, err error) {
	if s.socket == nil {
		return s.file.Write(p)
	}
	waitErr := s.socket.Write(func(fd uintptr) bool {
		for n < len(p) && err == nil {
			var sent int
			sent, err = unix.SendmsgN(int(fd), p[n:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			n += max(sent, 0)
		}
		if errors.Is(err, unix.EAGAIN) {
			err = nil
			return false
		}
		return true
	})
	switch {
	case waitErr != nil:
		return n, waitErr
	case err != nil:
		return n, os.NewSyscallError("sendmsg", err)
	}
	return n, nil
}

func (s *stream) SetReadDeadline(t time.Time) error  { return s.file.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.file.SetWriteDeadline(t) }

// Close ends what waits in Read or Write.
func (s *stream) Close() error { return s.file.Close() }
