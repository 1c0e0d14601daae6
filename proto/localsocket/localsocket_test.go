package localsocket

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenModesAndRemoval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "a.sock")
	ln, err := Listen(t.Context(), path, 0o750, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: 0o660, filepath.Dir(path): 0o750} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s: got %o, want %o", p, got, want)
		}
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket file outlived its listener")
	}
}

func TestListenRemovesOnlyDeadSockets(t *testing.T) {
	dir := t.TempDir()
	tests := map[string]struct {
		prepare func(t *testing.T, path string)
		wantErr string
	}{
		"stale socket": {prepare: func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
			_ = ln.Close()
		}},
		"live socket": {wantErr: "another process is serving", prepare: func(t *testing.T, path string) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
		}},
		"regular file": {wantErr: "is not a socket", prepare: func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		"symlink": {wantErr: "is not a socket", prepare: func(t *testing.T, path string) {
			if err := os.Symlink("/nonexistent", path); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			tt.prepare(t, path)
			ln, err := Listen(t.Context(), path, 0o700, 0o600)
			if err == nil {
				defer ln.Close()
			}
			switch {
			case tt.wantErr == "" && err != nil:
				t.Errorf("got %v, want a listener", err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("got %v, want an error with %q", err, tt.wantErr)
			}
		})
	}
}

func TestListenRefusesALongPath(t *testing.T) {
	_, err := Listen(t.Context(), "/tmp/"+strings.Repeat("x", 200), 0o700, 0o600)
	if err == nil || !strings.Contains(err.Error(), "shorter directory") {
		t.Errorf("got %v, want the hint to use a shorter directory", err)
	}
}

func TestDialRefusesASymlink(t *testing.T) {
	dir := t.TempDir()
	ln, err := Listen(t.Context(), filepath.Join(dir, "real.sock"), 0o700, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	link := filepath.Join(dir, "link.sock")
	if err := os.Symlink("real.sock", link); err != nil {
		t.Fatal(err)
	}
	if conn, err := Dial(t.Context(), link); err == nil {
		_ = conn.Close()
		t.Error("dialling a symlink to a socket worked, want a refusal")
	}
}

func TestOnlyLetsTheListedUIDsIn(t *testing.T) {
	for name, tt := range map[string]struct {
		uids []uint32
		want bool
	}{
		"own uid":   {uids: []uint32{uint32(os.Getuid())}, want: true},
		"other uid": {uids: []uint32{uint32(os.Getuid()) + 1}, want: false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			inner, err := Listen(t.Context(), path, 0o700, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			refused := make(chan uint32, 1)
			ln := Only(inner, tt.uids, func(uid uint32) { refused <- uid })
			accepted := make(chan bool, 1)
			go func() {
				conn, err := ln.Accept()
				if err == nil {
					_ = conn.Close()
				}
				accepted <- err == nil
			}()
			conn, err := Dial(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if !tt.want {
				if uid := <-refused; uid != uint32(os.Getuid()) {
					t.Errorf("refused uid %d, want our own", uid)
				}
				_ = ln.Close()
			}
			if got := <-accepted; got != tt.want {
				t.Errorf("accepted: got %v, want %v", got, tt.want)
			}
		})
	}
}
