package files

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// sftpd is an sshd with OpenSSH's SFTP server.
func sftpd(tb testing.TB) *sshdtest.Server {
	tb.Helper()
	return sshdtest.Start(tb, sshdtest.Config{Lines: []string{"Subsystem sftp internal-sftp"}})
}

// session does one thing in a session of its own, which ends with it.
func session[T any](tb testing.TB, client *ssh.Client, act func(*Session) (T, error)) (T, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	defer cancel()
	closed := make(chan struct{})
	s, err := Open(ctx, client, func() { close(closed) })
	if err != nil {
		tb.Fatal(err)
	}
	got, err := act(s)
	s.Close()
	select {
	case <-closed: // the device counts it until then
	case <-ctx.Done():
		tb.Error("the device never closed the channel")
	}
	return got, err
}

func read(tb testing.TB, client *ssh.Client, r Request, offset int64, limit int) (Part, error) {
	tb.Helper()
	return session(tb, client, func(s *Session) (Part, error) { return s.Read(r, offset, limit) })
}

func list(tb testing.TB, client *ssh.Client, r Request, after string, limit int) (Page, error) {
	tb.Helper()
	return session(tb, client, func(s *Session) (Page, error) { return s.List(r, after, limit) })
}

func write(tb testing.TB, client *ssh.Client, r Request, w Write) (string, error) {
	tb.Helper()
	return session(tb, client, func(s *Session) (string, error) { return s.Write(r, w) })
}

// anything asks for a path that may be used.
func anything(path string) Request {
	return Request{Path: path, Judge: func(string) error { return nil }}
}

// below asks for a path that must be below a directory.
func below(dir, path string) Request {
	return Request{Path: path, Judge: func(resolved string) error {
		if resolved == dir || len(resolved) > len(dir) && resolved[:len(dir)+1] == dir+"/" {
			return nil
		}
		return errors.New("not below " + dir)
	}}
}

// directory is one on the device that the login may write.
func directory(tb testing.TB, login string) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "files") //nolint:usetesting // the login must be able to get there
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	own(tb, login, dir)
	return dir
}

// own gives a file to the login.
func own(tb testing.TB, login, path string) {
	tb.Helper()
	u, err := user.Lookup(login)
	if err != nil {
		tb.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chown(path, uid, gid)); err != nil {
		tb.Fatal(err)
	}
}

// put writes a file of the login's.
func put(tb testing.TB, login, path, text string, mode os.FileMode) {
	tb.Helper()
	sshdtest.Write(tb, path, text, mode)
	own(tb, login, path)
}

// mustFail is the kind of a failure.
func mustFail(tb testing.TB, err error, want Kind) *Error {
	tb.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != want {
		tb.Fatalf("got the error %v (%+v), want kind %d", err, e, want)
	}
	return e
}

// transfers is a transfer directory.
func transfers(tb testing.TB) (*Dir, string) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "transfers")
	d, err := OpenDir(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.Close() })
	return d, path
}

// names are the files in a directory, but for those that hold partial transfers on the gateway.
func names(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if e.Name() != partialDir {
			all = append(all, e.Name())
		}
	}
	return all
}

// run runs a program that must succeed.
func run(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
