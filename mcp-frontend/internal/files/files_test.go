package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

func sumOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// random is content that no other test has.
func random(n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.IntN(256))
	}
	content := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(content)
	return content
}

// What is read is what is there: parts, ends, text and bytes, files that say
// that they are empty, and files too large to be hashed.
func TestRead(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	for _, login := range sshdtest.Logins(t) {
		dir := directory(t, login)
		client := s.Client(t, login)
		small, large := string(random(100_000)), string(random(WholeFile+12345))
		put(t, login, dir+"/small", small, 0o600)
		put(t, login, dir+"/large", large, 0o600)
		put(t, login, dir+"/empty", "", 0o600)
		for _, c := range []struct {
			path    string
			content string
			offset  int64
			limit   int
			from    int
			to      int
		}{
			{"small", small, 0, 1 << 20, 0, len(small)},
			{"small", small, 10, 20, 10, 30},
			{"small", small, -7, 100, len(small) - 7, len(small)},
			{"small", small, -1 << 40, 3, 0, 3},
			{"small", small, 1 << 40, 3, len(small), len(small)},
			{"large", large, 0, 1 << 20, 0, 1 << 20},
			{"large", large, -5, 100, len(large) - 5, len(large)},
			{"large", large, int64(len(large) - 3), 3, len(large) - 3, len(large)},
			{"empty", "", 0, 10, 0, 0},
			{"empty", "", -10, 10, 0, 0},
		} {
			part, err := read(t, client, anything(dir+"/"+c.path), c.offset, c.limit)
			if err != nil {
				t.Fatal(err)
			}
			sum := sumOf(c.content)
			if c.path == "large" {
				sum = ""
			}
			if string(part.Content) != c.content[c.from:c.to] || part.EOF != (c.to == len(c.content)) || part.Size != int64(len(c.content)) || part.SHA256 != sum {
				t.Errorf("as %s, %s from %d: got %d bytes, end %v, size %d, sha256 %q", login, c.path, c.offset, len(part.Content), part.EOF, part.Size, part.SHA256)
			}
			if part.NextOffset != part.Offset+int64(len(part.Content)) {
				t.Errorf("%s from %d: the next offset is %d after %d bytes from %d", c.path, c.offset, part.NextOffset, len(part.Content), part.Offset)
			}
		}
		version, err := read(t, client, anything("/proc/version"), 0, 1000)
		if err != nil || string(version.Content) != sshdtest.Read(t, "/proc/version") || !version.EOF {
			t.Errorf("/proc/version: got %+v, %v", version, err)
		}
	}
}

// A directory is listed by pages in one order, whatever is in it, and a file
// is its own entry.
func TestList(t *testing.T) {
	t.Parallel()
	login := sshdtest.Plain(t)
	dir := directory(t, login)
	client := sftpd(t).Client(t, login)
	put(t, login, dir+"/b", "12345", 0o640)
	put(t, login, dir+"/a\nb\x1b[31m", "", 0o600)
	put(t, login, dir+"/\xff\xfe", "", 0o600)
	if err := errors.Join(os.Symlink("/no where", dir+"/link"), os.Mkdir(dir+"/sub", 0o755), os.Chmod(dir+"/sub", 0o755|fs.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfifo", dir+"/pipe")
	var got []string
	for after := ""; ; {
		page, err := list(t, client, anything(dir), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			got = append(got, fmt.Sprintf("%q %s %d %q", e.Name, e.Type, e.Size*int64(len(e.Type)%2), e.Target))
			after = e.Name
		}
		if !page.More {
			break
		}
	}
	want := []string{`"a\nb\x1b[31m" file 0 ""`, `"b" file 0 ""`, `"link" symlink 9 "/no where"`, `"pipe" other 0 ""`, `"sub" directory 4096 ""`, `"\xff\xfe" file 0 ""`}
	if len(got) != len(want) || got[2] != want[2] || got[3] != want[3] || got[0] != want[0] || got[5] != want[5] {
		t.Errorf("got %q", got)
	}
	page, err := list(t, client, anything(dir+"/b"), "", 10)
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Name != "b" || page.Entries[0].Size != 5 || page.Entries[0].Mode.Perm() != 0o640 {
		t.Errorf("got %+v, %v", page, err)
	}
	_, err = list(t, client, anything(dir+"/link"), "", 10)
	mustFail(t, err, NotFound)
	_, err = read(t, client, anything(dir+"/pipe"), 0, 10)
	mustFail(t, err, Invalid)
}

// 10,000 files come page by page, each once.
func TestListManyFiles(t *testing.T) {
	t.Parallel()
	login := sshdtest.Plain(t)
	dir := directory(t, login)
	client := sftpd(t).Client(t, login)
	var want []string
	for i := range 10_000 {
		name := fmt.Sprintf("file-%05d", i)
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := list(t, client, anything(dir), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			got = append(got, e.Name)
		}
		if !page.More {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d names of %d", len(got), len(want))
	}
}

// A file is replaced in one step and keeps its permissions, and nothing is
// left beside it.
func TestWrite(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	for _, login := range sshdtest.Logins(t) {
		dir := directory(t, login)
		client := s.Client(t, login)
		put(t, login, dir+"/old", "before", 0o640)
		if err := os.Symlink("old", dir+"/link"); err != nil {
			t.Fatal(err)
		}
		mode := fs.FileMode(0o604)
		big := string(random(3 << 20))
		for _, c := range []struct {
			name, path string
			write      Write
			kind       Kind
			fails      bool
			file       string
			content    string
			mode       fs.FileMode
		}{
			{name: "a new one", path: "new", write: Write{Content: []byte("x"), Mode: &mode}, file: "new", content: "x", mode: 0o604},
			{name: "create only", path: "new2", write: Write{Content: []byte(big), CreateOnly: true}, file: "new2", content: big},
			{name: "no more", path: "new2", write: Write{Content: []byte("z"), CreateOnly: true}, fails: true, kind: AlreadyExists, file: "new2", content: big},
			{name: "replaced", path: "old", write: Write{Content: []byte("after"), ExpectedSHA256: sumOf("before")}, file: "old", content: "after", mode: 0o640},
			{name: "changed", path: "old", write: Write{Content: []byte("z"), ExpectedSHA256: sumOf("before")}, fails: true, kind: Precondition, file: "old", content: "after", mode: 0o640},
			{name: "through a link", path: "link", write: Write{Content: []byte("third"), Mode: &mode}, file: "old", content: "third", mode: 0o604},
			{name: "empty", path: "old", write: Write{}, file: "old", content: "", mode: 0o604},
			{name: "missing", path: "missing", write: Write{ExpectedSHA256: sumOf("")}, fails: true, kind: Precondition, file: "old", mode: 0o604},
			{name: "no directory", path: "no/where", write: Write{}, fails: true, kind: NotFound, file: "old", mode: 0o604},
			{name: "a directory", path: "", write: Write{}, fails: true, kind: Invalid, file: "old", mode: 0o604},
		} {
			sum, err := write(t, client, anything(strings.TrimSuffix(dir+"/"+c.path, "/")), c.write)
			if c.fails {
				mustFail(t, err, c.kind)
			} else if err != nil || sum != sumOf(c.content) {
				t.Errorf("as %s, %s: got %q, %v", login, c.name, sum, err)
			}
			info, err := os.Stat(filepath.Join(dir, c.file))
			if err != nil || sshdtest.Read(t, filepath.Join(dir, c.file)) != c.content || c.mode != 0 && info.Mode().Perm() != c.mode {
				t.Errorf("as %s, %s: %v, %v", login, c.name, info, err)
			}
			if got := names(t, dir); len(got) > 4 {
				t.Errorf("%s: left behind: %v", c.name, got)
			}
		}
		if info, err := os.Lstat(dir + "/link"); err != nil || info.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("the link: %v, %v", info, err)
		}
	}
}

// What the device itself forbids is denied, and root keeps the owner of what
// it replaces.
func TestWriteBoundaries(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	login := sshdtest.Plain(t)
	dir := directory(t, login)
	put(t, login, dir+"/file", "old", 0o600)
	if err := os.Chmod(dir+"/file", 0o755|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if len(sshdtest.Logins(t)) > 1 {
		if _, err := write(t, s.Client(t, "root"), anything(dir+"/file"), Write{Content: []byte("new")}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir + "/file")
		if err != nil || info.Mode() != 0o755|fs.ModeSetuid || sshdtest.Output(t, "stat", "-c", "%U", dir+"/file") != login+"\n" {
			t.Errorf("got %v, %v", info.Mode(), err)
		}
		full := filepath.Join(dir, "full")
		if err := os.Mkdir(full, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", full)
		t.Cleanup(func() { run(t, "umount", full) })
		sshdtest.Write(t, full+"/file", "old", 0o600)
		_, err = write(t, s.Client(t, "root"), anything(full+"/file"), Write{Content: bytes.Repeat([]byte("x"), 2<<20)})
		mustFail(t, err, LimitExceeded)
		d, local := transfers(t)
		sshdtest.Write(t, local+"/large", string(random(2<<20)), 0o600)
		up := copying(d, full+"/file", "large")
		up.Overwrite = true
		_, err = session(t, s.Client(t, "root"), func(s *Session) (Transferred, error) { return s.Upload(up) })
		mustFail(t, err, LimitExceeded)
		if got := names(t, full); sshdtest.Read(t, full+"/file") != "old" || len(got) != 1 {
			t.Errorf("a full disk: %v", got)
		}
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	client := s.Client(t, login)
	_, err := write(t, client, anything(dir+"/file"), Write{Content: []byte("x")})
	if e := mustFail(t, err, Denied); e.Policy {
		t.Errorf("got %+v", e)
	}
	if login != "root" {
		_, err = read(t, client, anything("/etc/shadow"), 0, 10)
		mustFail(t, err, Denied)
	}
}
