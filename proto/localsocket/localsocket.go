// Package localsocket is how the two processes meet: unix sockets that only
// the intended peers can use.
//
// A listener's directory is made first, a stale socket is removed only if it
// is a socket and nobody answers on it, the file's mode is right from its
// first moment, and the peer's uid is read from the kernel (SO_PEERCRED). The
// peer's pid is never used: it is 0 across containers.
package localsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path that fits sun_path with its closing NUL (unix(7)).
const maxPath = 107

// Listen makes path's directory with dirMode if it is missing, removes a
// socket that a dead process left behind, and listens on path with the given
// file mode. Closing the listener removes the file. It fails if path is
// anything but a socket, or if another process answers on it.
func Listen(ctx context.Context, path string, dirMode, mode fs.FileMode) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("socket path %q has %d bytes, the kernel takes %d: choose a shorter directory", path, len(path), maxPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("making the directory of the socket %s: %w", path, err)
	}
	unlock, err := lockDir(dir) // two starting processes must not remove each other's socket
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	old := unix.Umask(0o777 &^ int(mode.Perm())) // not chmod: the file must never be open to others, not even for a moment
	defer unix.Umask(old)
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return ln, nil
}

func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of a socket: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for a stale socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket: move it away", path)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("another process is serving on %s: stop it, or choose another path", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("asking whether a process serves on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing a stale socket: %w", err)
	}
	return nil
}

// Dial connects to the socket at path. It refuses anything that is not itself
// a socket: a symlink planted in a shared directory would lead elsewhere.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is not a socket", path)
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// PeerUID returns the uid of the process at the other end of conn, which must
// come from a unix socket.
func PeerUID(conn net.Conn) (uint32, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("reading the peer's uid: %T is not a unix socket", conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("reading the peer's uid: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("reading the peer's uid: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("reading the peer's uid: %w", credErr)
	}
	return cred.Uid, nil
}

// Only wraps ln so that Accept returns connections from the given uids alone.
// Others are closed and told to refused, which is called from the accepting
// goroutine and must not block.
func Only(ln net.Listener, uids []uint32, refused func(uid uint32)) net.Listener {
	return &onlyListener{Listener: ln, uids: slices.Clone(uids), refused: refused}
}

type onlyListener struct {
	net.Listener
	uids    []uint32
	refused func(uid uint32)
}

func (l *onlyListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := PeerUID(conn)
		if err == nil && slices.Contains(l.uids, uid) {
			return conn, nil
		}
		_ = conn.Close()
		if err == nil {
			l.refused(uid)
		}
	}
}
