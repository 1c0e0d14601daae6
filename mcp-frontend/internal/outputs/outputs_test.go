package outputs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func openStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func small(dir string) Config {
	return Config{Dir: dir, MaxStream: 100, MaxTotal: 250, MaxAge: time.Hour}
}

func keep(t *testing.T, s *Store, content string) (id string) {
	t.Helper()
	id = NewID()
	w, err := s.Create(id, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write([]byte(content)); err != nil || n != len(content) {
		t.Fatalf("wrote %d bytes: %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return id
}

func kept(t *testing.T, s *Store, id string) string {
	t.Helper()
	f, err := s.Open(id, "stdout")
	if errors.Is(err, ErrExpired) {
		return "expired"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part, err := ReadAt(f, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return string(part.Content)
}

func TestStoreStaysWithinItsBounds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "outputs")
	s := openStore(t, small(dir))
	long := keep(t, s, strings.Repeat("x", 150))
	if got := kept(t, s, long); len(got) != 100 {
		t.Errorf("a stream of 150 bytes: kept %d, want its first 100", len(got))
	}
	second, third := keep(t, s, strings.Repeat("y", 90)), keep(t, s, strings.Repeat("z", 90))
	if got := kept(t, s, long); got != "expired" {
		t.Errorf("the oldest output: got %q, want it gone for the third", got)
	}
	if kept(t, s, second) == "expired" || kept(t, s, third) == "expired" {
		t.Error("a younger output has gone")
	}
	again := openStore(t, small(dir)) // as after a restart
	if got := kept(t, again, third); len(got) != 90 {
		t.Errorf("after a restart: got %q", got)
	}
	if got := kept(t, openStore(t, Config{Dir: dir, MaxStream: 1, MaxTotal: 1000, MaxAge: time.Nanosecond}), third); got != "expired" {
		t.Errorf("beyond its age: got %q", got)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
}

func TestOpenTakesOnlyHandles(t *testing.T) {
	s := openStore(t, small(t.TempDir()))
	keep(t, s, "x")
	for _, id := range []string{"", "../../etc/passwd", NewID(), strings.Repeat("A", 26) + "/.."} {
		for _, stream := range []string{"stdout", "../stdout", ""} {
			if f, err := s.Open(id, stream); !errors.Is(err, ErrExpired) {
				t.Errorf("%q, %q: got %v, %v", id, stream, f, err)
			}
		}
	}
}

func file(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestReadAtPagesThroughAll(t *testing.T) {
	content := strings.Repeat("0123456789", 100)
	f := file(t, content)
	var got strings.Builder
	for offset, eof := int64(0), false; !eof; {
		part, err := ReadAt(f, offset, 33)
		if err != nil || part.Offset != offset {
			t.Fatal(part, err)
		}
		got.Write(part.Content)
		offset, eof = part.NextOffset, part.EOF
	}
	if got.String() != content {
		t.Errorf("read %d bytes, want the %d of the file", got.Len(), len(content))
	}
	if part, err := ReadAt(f, -5, 100); err != nil || string(part.Content) != "56789" || !part.EOF {
		t.Errorf("the last five: %q, %v", part.Content, err)
	}
	if part, err := ReadAt(f, 5000, 100); err != nil || len(part.Content) != 0 || !part.EOF {
		t.Errorf("beyond the end: %q, %v", part.Content, err)
	}
}

func TestTail(t *testing.T) {
	var lines []string
	for i := range 30000 {
		lines = append(lines, fmt.Sprintf("line %d\n", i))
	}
	f := file(t, strings.Join(lines, ""))
	for _, n := range []int{1, 2, 10, 9000, 40000} {
		part, err := Tail(f, n, 1<<20)
		want := strings.Join(lines[max(0, len(lines)-n):], "")
		if err != nil || string(part.Content) != want || !part.EOF {
			t.Errorf("the last %d lines: got %d bytes, error %v, want %d bytes", n, len(part.Content), err, len(want))
		}
	}
	if part, err := Tail(f, 100, 20); err != nil || len(part.Content) != 20 || !part.EOF {
		t.Errorf("within 20 bytes: got %q, %v", part.Content, err)
	}
	if part, err := Tail(file(t, "no newline at the end"), 1, 100); err != nil || string(part.Content) != "no newline at the end" {
		t.Errorf("got %q, %v", part.Content, err)
	}
	if part, err := Tail(file(t, ""), 3, 100); err != nil || len(part.Content) != 0 || !part.EOF {
		t.Errorf("an empty file: got %q, %v", part.Content, err)
	}
}

func TestGrep(t *testing.T) {
	f := file(t, "alpha\nbeta\ngamma\nalphabet\nlast alpha")
	pattern := regexp.MustCompile("alpha")
	part, err := Grep(f, pattern, 0, 12)
	if err != nil || string(part.Content) != "alpha\n" || part.EOF {
		t.Fatalf("got %q, EOF %v, %v", part.Content, part.EOF, err)
	}
	part, err = Grep(f, pattern, part.NextOffset, 100)
	if err != nil || string(part.Content) != "alphabet\nlast alpha" || !part.EOF {
		t.Errorf("and on: got %q, EOF %v, %v", part.Content, part.EOF, err)
	}
}
