package files

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

func send(tb testing.TB, client *ssh.Client, t Transfer) (Transferred, error) {
	tb.Helper()
	return session(tb, client, func(s *Session) (Transferred, error) { return s.Upload(t) })
}

func fetch(tb testing.TB, client *ssh.Client, t Transfer) (Transferred, error) {
	tb.Helper()
	return session(tb, client, func(s *Session) (Transferred, error) { return s.Download(t) })
}

// copying is a transfer between a path on the device and one on the gateway.
func copying(d *Dir, remote, local string) Transfer {
	return Transfer{Request: anything(remote), Device: "edge", Dir: d, Local: local, Stall: time.Minute}
}

// through is a client of s whose connection can be cut.
func through(tb testing.TB, s *sshdtest.Server, login string, see sshdtest.See) (*ssh.Client, *sshdtest.Proxy) {
	tb.Helper()
	p := sshdtest.NewProxy(tb, sshdtest.Address(s.Host, s.Port), see)
	nc, err := net.Dial("tcp", sshdtest.Address(p.Host, p.Port))
	if err != nil {
		tb.Fatal(err)
	}
	return s.ClientOver(tb, nc, login), p
}

// Files of all sizes arrive as they are, in both directions, as root and not.
func TestTransfer(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	d, local := transfers(t)
	for _, login := range sshdtest.Logins(t) {
		dir := directory(t, login)
		client := s.Client(t, login)
		for _, size := range []int{0, 1, packetSize, packetSize + 1, 5_000_000} {
			content := random(size)
			sshdtest.Write(t, filepath.Join(local, "out"), string(content), 0o600)
			var moved atomic.Int64
			up := copying(d, dir+"/file", "out")
			up.Overwrite = true
			up.Moved = func(done, _ int64) { moved.Store(done) }
			sent, err := send(t, client, up)
			if err != nil || sent.Bytes != int64(size) || sent.SHA256 != sumOf(string(content)) || moved.Load() != int64(size) {
				t.Fatalf("as %s, %d bytes: got %+v, %v, moved %d", login, size, sent, err, moved.Load())
			}
			if sshdtest.Read(t, dir+"/file") != string(content) {
				t.Errorf("%d bytes: another file is on the device", size)
			}
			down := copying(d, dir+"/file", "in/here")
			down.Overwrite = true
			got, err := fetch(t, client, down)
			if err != nil || got != sent || sshdtest.Read(t, filepath.Join(local, "in/here")) != string(content) {
				t.Errorf("as %s, %d bytes: got %+v, %v", login, size, got, err)
			}
		}
		_, err := send(t, client, copying(d, dir+"/file", "out"))
		mustFail(t, err, AlreadyExists)
		_, err = fetch(t, client, copying(d, dir+"/file", "in/here"))
		mustFail(t, err, AlreadyExists)
		if version, err := fetch(t, client, copying(d, "/proc/version", "version-"+login)); err != nil || version.SHA256 != sumOf(sshdtest.Read(t, "/proc/version")) {
			t.Errorf("/proc/version: got %+v, %v", version, err)
		}
		if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
			t.Errorf("left behind: %v", got)
		}
	}
	if got := names(t, filepath.Join(local, partialDir)); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// No name leads out of the transfer directory, and no link does.
func TestLocalEscapes(t *testing.T) {
	t.Parallel()
	login := sshdtest.Plain(t)
	client := sftpd(t).Client(t, login)
	d, local := transfers(t)
	dir, outside := directory(t, login), t.TempDir()
	put(t, login, dir+"/file", "content", 0o600)
	sshdtest.Write(t, outside+"/secret", "secret", 0o600)
	for name, to := range map[string]string{"out": outside, "secret": outside + "/secret", "new": outside + "/new", "up": ".."} {
		if err := os.Symlink(to, filepath.Join(local, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"../x", "/etc/passwd", "a/../../x", "", ".", "out/secret", "secret", "out/new", "new", "up/x", ".partial/x", "./.partial", "a\x00b",
	} {
		_, err := send(t, client, copying(d, dir+"/sent", name))
		mustFail(t, err, Denied)
		down := copying(d, dir+"/file", name)
		down.Overwrite = true
		_, err = fetch(t, client, down)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != Denied && e.Kind != Invalid { // Invalid: a link is no file
			t.Errorf("%q: got %v", name, err)
		}
	}
	if got := names(t, outside); !slices.Equal(got, []string{"secret"}) || sshdtest.Read(t, outside+"/secret") != "secret" {
		t.Errorf("outside: %v", got)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
		t.Errorf("on the device: %v", got)
	}
	_, err := send(t, client, copying(d, dir+"/sent", "missing"))
	if e := mustFail(t, err, NotFound); !e.Gateway {
		t.Errorf("got %+v", e)
	}
}

// cutAfter cuts the connection when so many bytes have passed.
func cutAfter(bytes int64) func([]byte) bool {
	var passed atomic.Int64
	return func(piece []byte) bool { return passed.Add(int64(len(piece))) < bytes }
}

// A cut upload leaves the old file whole, and the next call goes on where it
// ended. Of a part that is not as it was left, nothing is used.
func TestUploadGoesOn(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	login := sshdtest.Plain(t)
	const size = 24 << 20
	for name, spoil := range map[string]func(t *testing.T, part, source string) (resumes bool){
		"as it was": func(*testing.T, string, string) bool { return true },
		"spoilt": func(t *testing.T, part, _ string) bool {
			f, err := os.OpenFile(part, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("spoilt"), 1<<20)
			}
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			return false
		},
		"cut short": func(t *testing.T, part, _ string) bool {
			if err := os.Truncate(part, 1000); err != nil {
				t.Fatal(err)
			}
			return false
		},
		"gone": func(t *testing.T, part, _ string) bool {
			if err := os.Remove(part); err != nil {
				t.Fatal(err)
			}
			return false
		},
		"another source": func(t *testing.T, _, source string) bool {
			sshdtest.Write(t, source, string(random(size)), 0o600)
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, local := transfers(t)
			dir := directory(t, login)
			put(t, login, dir+"/file", "old", 0o640)
			sshdtest.Write(t, local+"/source", string(random(size)), 0o600)
			up := copying(d, dir+"/file", "source")
			up.Overwrite = true

			client, _ := through(t, s, login, sshdtest.See{ToServer: cutAfter(size / 2)})
			_, err := send(t, client, up)
			e := mustFail(t, err, ConnectionLost)
			if e.Kept == 0 || e.Kept > size/2 {
				t.Errorf("kept %d bytes", e.Kept)
			}
			left := names(t, dir)
			if sshdtest.Read(t, dir+"/file") != "old" || len(left) != 2 || !strings.HasSuffix(left[0], ".part") {
				t.Fatalf("after the cut: %v", left)
			}
			resumes := spoil(t, filepath.Join(dir, left[0]), local+"/source")
			sent, err := send(t, s.Client(t, login), up)
			want := sshdtest.Read(t, local+"/source")
			if err != nil || sent.SHA256 != sumOf(want) || sent.Bytes != size || sshdtest.Read(t, dir+"/file") != want {
				t.Errorf("got %+v, %v", sent, err)
			}
			if resumes && sent.Resumed != e.Kept || !resumes && sent.Resumed != 0 {
				t.Errorf("went on from %d, %d were kept", sent.Resumed, e.Kept)
			}
			if info, err := os.Stat(dir + "/file"); err != nil || info.Mode().Perm() != 0o640 || len(names(t, dir)) != 1 {
				t.Errorf("got %v, %v, %v", info, err, names(t, dir))
			}
		})
	}
}

// So does a download, whose source may have been replaced meanwhile.
func TestDownloadGoesOn(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	login := sshdtest.Plain(t)
	const size = 24 << 20
	for name, spoil := range map[string]func(t *testing.T, part, source string) (resumes bool){
		"as it was": func(*testing.T, string, string) bool { return true },
		"spoilt": func(t *testing.T, part, _ string) bool {
			f, err := os.OpenFile(part, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("spoilt"), 1<<20)
			}
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			return false
		},
		"another source": func(t *testing.T, _, source string) bool {
			put(t, login, source, string(random(size)), 0o600)
			future := time.Now().Add(time.Hour)
			if err := os.Chtimes(source, future, future); err != nil {
				t.Fatal(err)
			}
			return false
		},
		// Of the same size, and changed within the same second: found, as what
		// was read at first is read again.
		"another source in secret": func(t *testing.T, _, source string) bool {
			info, err := os.Stat(source)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(source, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("replaced"), 1_000_000)
			}
			if err := errors.Join(err, f.Close(), os.Chtimes(source, info.ModTime(), info.ModTime())); err != nil {
				t.Fatal(err)
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, local := transfers(t)
			dir := directory(t, login)
			put(t, login, dir+"/file", string(random(size)), 0o600)
			down := copying(d, dir+"/file", "here")

			client, _ := through(t, s, login, sshdtest.See{ToClient: cutAfter(size / 2)})
			_, err := fetch(t, client, down)
			e := mustFail(t, err, ConnectionLost)
			if e.Kept == 0 || e.Kept > size/2 || len(names(t, local)) > 0 {
				t.Errorf("kept %d bytes: %v", e.Kept, names(t, local))
			}
			parts, err := filepath.Glob(local + "/.partial/*.part")
			if err != nil || len(parts) != 1 {
				t.Fatalf("got %v, %v", parts, err)
			}
			resumes := spoil(t, parts[0], dir+"/file")
			got, err := fetch(t, s.Client(t, login), down)
			want := sshdtest.Read(t, dir+"/file")
			if err != nil || got.SHA256 != sumOf(want) || got.Bytes != size || sshdtest.Read(t, local+"/here") != want {
				t.Errorf("got %+v, %v", got, err)
			}
			if resumes && got.Resumed != e.Kept || !resumes && got.Resumed != 0 {
				t.Errorf("went on from %d, %d were kept", got.Resumed, e.Kept)
			}
			if left := names(t, local+"/.partial"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
