package keyfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCreateThenLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "gateway.key")
	made, err := Create(path, "gateway")
	if err != nil {
		t.Fatal(err)
	}
	read, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made.PublicKey().Marshal(), read.PublicKey().Marshal()) {
		t.Error("the key read differs from the key made")
	}
	for p, want := range map[string]os.FileMode{path: 0o600, path + ".pub": 0o644, filepath.Dir(path): 0o700} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s: got %o, want %o", p, got, want)
		}
	}
	if _, err := Create(path, "gateway"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("making the key again: got %v, want %v", err, fs.ErrExist)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	if _, err := Create(path, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("ssh-ed25519 AAAA not private"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		path:    "run chmod 600 " + path,
		garbage: "holds no private key",
		dir:     "is not a file",
	} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s): got %v, want an error with %q", path, err, want)
		}
	}
	if _, err := Load(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent key: got %v, want %v", err, fs.ErrNotExist)
	}
}
