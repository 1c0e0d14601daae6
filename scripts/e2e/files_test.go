package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shortDir is a directory for unix sockets, whose paths must stay under 108
// bytes, and for files that a device's user must be able to read. t.TempDir is
// neither short nor readable by others.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "gw") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// write replaces the file in one step, as an operator's editor would: a
// program that watches it sees the old content or the new.
func write(t *testing.T, path, content string, perm os.FileMode) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(content), perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(next, perm); err != nil { // whatever the umask says
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// tail returns the end of a file, enough to see what went wrong.
func tail(t *testing.T, path string) string {
	t.Helper()
	const most = 8 << 10
	content := read(t, path)
	if len(content) <= most {
		return content
	}
	return "[...]" + content[len(content)-most:]
}

func perm(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// lines joins its arguments as the lines of a file.
func lines(line ...string) string {
	return strings.Join(line, "\n") + "\n"
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
