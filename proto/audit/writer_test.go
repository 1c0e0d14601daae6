package audit

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets a test start this binary as a second writing process.
func TestMain(m *testing.M) {
	if path := os.Getenv("AUDIT_TEST_WRITE_TO"); path != "" {
		w, err := Open(Config{Path: path, Process: "child", MaxSize: 4096, Keep: 100})
		for i := 0; err == nil && i < 50; i++ {
			_, err = w.Append(Record{Event: "from_child"})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, cfg Config) *Writer {
	t.Helper()
	w, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func appendN(t *testing.T, w *Writer, n int) {
	t.Helper()
	for range n {
		if _, err := w.Append(Record{Event: "run_started", Command: "uname -a"}); err != nil {
			t.Fatal(err)
		}
	}
}

// chain reads files, oldest first, and returns how many records they hold and
// how many lines are torn. It fails the test where the chain is broken.
func chain(t *testing.T, paths ...string) (records, torn int) {
	t.Helper()
	prev, seq := firstPrev, uint64(0)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			r, hash, err := unseal(lines.Bytes())
			if err != nil {
				torn++
				continue
			}
			if r.Prev != prev || r.Seq != seq+1 {
				t.Fatalf("%s: record %d follows %s, want record %d following %s", path, r.Seq, r.Prev, seq+1, prev)
			}
			prev, seq = hash, r.Seq
			records++
		}
	}
	return records, torn
}

func TestAppendChainsAcrossReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "audit.jsonl")
	for range 3 {
		w := open(t, Config{Path: path, Process: "test"})
		appendN(t, w, 5)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, torn := chain(t, path); got != 15 || torn != 0 {
		t.Errorf("got %d records and %d torn lines, want 15 and 0", got, torn)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode: got %o, want 600", got)
	}
}

func TestTornLineIsKeptAndContinuedFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, Config{Path: path, Process: "test"})
	appendN(t, w, 3)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":4,"time":"20`); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	appendN(t, w, 1)                                         // the same writer sees it,
	appendN(t, open(t, Config{Path: path, Process: "x"}), 1) // and so does the next process
	if got, torn := chain(t, path); got != 5 || torn != 1 {
		t.Errorf("got %d records and %d torn lines, want 5 and 1", got, torn)
	}
}

func TestTwoProcessesShareOneChainAcrossRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, Config{Path: path, Process: "parent", MaxSize: 4096, Keep: 100})
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "AUDIT_TEST_WRITE_TO="+path)
	var stderr bytes.Buffer
	child.Stderr = &stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() {
			for range 10 {
				if _, err := w.Append(Record{Event: "from_parent"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if err := child.Wait(); err != nil {
		t.Fatalf("the second writer: %v: %s", err, &stderr)
	}
	files := []string{path}
	for n := 1; ; n++ {
		older := rotated(path, n)
		if _, err := os.Stat(older); err != nil {
			break
		}
		files = append([]string{older}, files...)
	}
	if len(files) < 3 {
		t.Errorf("got %d files, want several rotations", len(files))
	}
	if got, torn := chain(t, files...); got != 100 || torn != 0 {
		t.Errorf("got %d records and %d torn lines, want 100 and 0", got, torn)
	}
}

func TestRotationKeepsTheChainWhenTheNewFileIsEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, Config{Path: path, Process: "test"})
	appendN(t, w, 2)
	_ = w.Close()
	if err := os.Rename(path, rotated(path, 1)); err != nil { // as a crash between rename and first record leaves it
		t.Fatal(err)
	}
	appendN(t, open(t, Config{Path: path, Process: "test"}), 1)
	if got, _ := chain(t, rotated(path, 1), path); got != 3 {
		t.Errorf("got %d records, want 3", got)
	}
}

func TestFailedAppendLeavesNoHalfLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, Config{Path: path, Process: "test"})
	appendN(t, w, 1)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// A file size limit stops a write midway, as a full disk does.
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limited := unix.Rlimit{Cur: uint64(info.Size()) + 10, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limited); err != nil {
		t.Fatal(err)
	}
	_, err = w.Append(Record{Event: "run_started"})
	if restore := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); restore != nil {
		t.Fatal(restore)
	}
	if err == nil {
		t.Fatal("an append beyond the limit returned nil")
	}
	appendN(t, w, 1)
	if got, torn := chain(t, path); got != 2 || torn != 0 {
		t.Errorf("got %d records and %d torn lines, want 2 and 0", got, torn)
	}
}

func TestUnsealFindsEveryFlippedByte(t *testing.T) {
	line, _, err := seal(Record{Seq: 7, Event: "run_finished", Command: "uname -a", Prev: firstPrev})
	if err != nil {
		t.Fatal(err)
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	if _, _, err := unseal(line); err != nil {
		t.Fatal(err)
	}
	for i := range line {
		bad := bytes.Clone(line)
		bad[i] ^= 1
		if _, _, err := unseal(bad); err == nil {
			t.Errorf("byte %d flipped: not found in %s", i, bad)
		}
	}
}

func TestOpenRefusesAFileThatIsNoAuditLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, []byte("dear diary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Config{Path: path, Process: "test"})
	if err == nil || !strings.Contains(err.Error(), "no audit record") {
		t.Errorf("got %v, want a refusal that names the cause", err)
	}
}
