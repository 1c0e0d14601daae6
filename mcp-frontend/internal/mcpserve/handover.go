package mcpserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A process that carries a client's bytes to the server's socket adds two
// wake-ups to every message, half the time of a call that does nothing. So it
// may hand over its stdin and stdout instead: its first message on the socket is
// handoverLine with the two descriptors (SCM_RIGHTS, unix(7)), and the server
// answers with one NUL before it reads from them. The socket then carries no
// messages: the server sends another NUL when the client's input has ended, and
// the conversation ends when either side closes the socket.
//
// No MCP message begins with a NUL: a server that knows nothing of this answers
// with an error, and the kernel closes what it did not take.
const handoverLine = "\x00\n"

// ErrNotTaken says that a server answered a handover with a message: it knows no
// handovers, or has no room.
var ErrNotTaken = errors.New("the server did not take the streams")

// HandOver gives in and out, the streams of a client, to the server at the other
// end of conn, and reports whether it took them. If so they must not be used any
// more; [InputEnded] waits for the conversation's end. If it returns false and
// nil, the streams are of a kind that cannot be handed over, and conn is as
// before. After an error conn is of no further use; whatever happens, this
// process reads nothing from in.
//
// in and out must be pipes that this process may open, or sockets. Their file
// status flags stay as they are, since other processes may share them.
func HandOver(conn net.Conn, in io.Reader, out io.Writer) (bool, error) {
	inFD, inErr := descriptor(in, unix.O_RDONLY)
	if inErr == nil {
		defer func() { _ = unix.Close(inFD) }()
	}
	outFD, outErr := descriptor(out, unix.O_WRONLY)
	if outErr == nil {
		defer func() { _ = unix.Close(outFD) }()
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok || inErr != nil || outErr != nil {
		return false, nil
	}
	_, _, err := socket.WriteMsgUnix([]byte(handoverLine), unix.UnixRights(inFD, outFD), nil)
	if err != nil && !errors.Is(err, unix.EPIPE) { // a server that has closed may have said why
		return false, err
	}
	answer := make([]byte, 1)
	switch _, err := socket.Read(answer); {
	case err != nil:
		return false, err
	case answer[0] != 0:
		return false, ErrNotTaken
	}
	return true, nil
}

// InputEnded waits until the server ends a conversation that was handed over on
// conn, and reports whether the client had ended its input by then.
func InputEnded(conn net.Conn) bool {
	n, _ := io.Copy(io.Discard, conn) // however it ends
	return n > 0
}

// descriptor returns a new descriptor of stream, fit for openStream: of a pipe
// a description of its own (proc_pid_fd(5)), of a socket the same one.
func descriptor(stream any, access int) (fd int, err error) {
	file, ok := stream.(*os.File)
	if !ok {
		return -1, errNoStream
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(own uintptr) {
		var stat unix.Stat_t
		switch err = unix.Fstat(int(own), &stat); {
		case err != nil:
		case stat.Mode&unix.S_IFMT == unix.S_IFIFO:
			fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", own), access|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		case stat.Mode&unix.S_IFMT == unix.S_IFSOCK:
			fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
		default:
			err = errNoStream
		}
	})
	return fd, errors.Join(controlErr, err)
}

// takeStreams waits for a client's first byte or ctx's end. It returns a
// connection on the streams that client hands over, which closes client with
// itself, or else client, from which nothing was read. After an error only
// client is left to be closed.
func takeStreams(ctx context.Context, client net.Conn) (io.ReadWriteCloser, error) {
	socket, ok := client.(*net.UnixConn)
	if !ok {
		return client, nil
	}
	defer context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) })()
	first := make([]byte, len(handoverLine))
	fds, err := peek(socket, first)
	if len(fds) == 0 {
		return client, ctx.Err() // whoever reads from client next has err, too
	}
	streams := make([]*stream, 0, len(fds))
	for _, fd := range fds { // each must be closed, whatever comes
		s, openErr := openStream(fd)
		if openErr == nil {
			streams = append(streams, s)
		}
		err = errors.Join(err, openErr)
	}
	if err == nil && (len(streams) != 2 || string(first) != handoverLine) {
		err = fmt.Errorf("%d file descriptors came with %q", len(streams), first)
	}
	if err == nil {
		_, err = socket.Read(first) // what was only looked at
	}
	if err == nil {
		_, err = socket.Write([]byte{0})
	}
	if err != nil {
		for _, s := range streams {
			closeQuietly(s)
		}
		return nil, fmt.Errorf("taking a client's streams: %w", err)
	}
	h := &handedOver{control: socket, in: streams[0], out: streams[1], ended: make(chan struct{})}
	go h.watch()
	return h, nil
}

// peek waits for the first bytes of a client without taking them, and returns
// copies of the file descriptors that came along.
func peek(socket *net.UnixConn, first []byte) (fds []int, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	control := make([]byte, unix.CmsgSpace(2*4)) // the kernel closes what does not fit
	var size, flags int
	readErr := raw.Read(func(fd uintptr) bool {
		_, size, flags, _, err = unix.Recvmsg(int(fd), first, control, unix.MSG_PEEK|unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(readErr, err); err != nil || size == 0 {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	for i := range messages {
		more, rightsErr := unix.ParseUnixRights(&messages[i])
		fds, err = append(fds, more...), errors.Join(err, rightsErr)
	}
	if flags&unix.MSG_CTRUNC != 0 {
		err = errors.Join(err, errors.New("more than two file descriptors"))
	}
	return fds, err
}

// handedOver is a conversation on a client's own streams.
type handedOver struct {
	in, out *stream
	control net.Conn      // to the process that handed them over
	ended   chan struct{} // in and out are closed
}

// watch closes the streams when the process that handed them over has ended, or
// at Close. The conversation then goes on as on a socket that was closed.
func (h *handedOver) watch() {
	defer close(h.ended)
	_, _ = h.control.Read(make([]byte, 1)) // nothing is to be said there any more
	closeQuietly(h.in)
	closeQuietly(h.out)
}

// Close closes the streams, then lets the other process go.
func (h *handedOver) Close() error {
	err := h.control.SetReadDeadline(time.Unix(1, 0))
	<-h.ended
	return errors.Join(err, h.control.Close())
}

func (h *handedOver) Read(p []byte) (int, error) {
	n, err := h.in.Read(p)
	select {
	case <-h.ended:
		return n, io.EOF
	default:
	}
	if errors.Is(err, io.EOF) {
		_, _ = h.control.Write([]byte{0}) // to whoever is still there
	}
	return n, err
}

func (h *handedOver) Write(p []byte) (int, error)        { return h.out.Write(p) }
func (h *handedOver) SetReadDeadline(t time.Time) error  { return h.in.SetReadDeadline(t) }
func (h *handedOver) SetWriteDeadline(t time.Time) error { return h.out.SetWriteDeadline(t) }
