package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trail writes n records and returns the file's path and lines.
func trail(t *testing.T, n int) (path string, lines [][]byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, Config{Path: path, Process: "test"})
	appendN(t, w, n)
	_ = w.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, bytes.SplitAfter(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
}

func store(t *testing.T, path string, lines ...[]byte) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// walked returns what Walk sees.
func walked(t *testing.T, path string) (head Head, torn []int, err error) {
	t.Helper()
	err = Walk(path, func(l Line) error {
		head = Head{Seq: l.Seq, Hash: l.Hash}
		return nil
	}, func(_ string, line int) { torn = append(torn, line) })
	return head, torn, err
}

func TestWalkFindsEveryTampering(t *testing.T) {
	flip := func(line []byte, at int) []byte {
		bad := bytes.Clone(line)
		bad[at] ^= 1
		return bad
	}
	for name, tt := range map[string]struct {
		change   func(l [][]byte) [][]byte
		wantLine int
	}{
		"a flipped byte":               {func(l [][]byte) [][]byte { l[2] = flip(l[2], 30); return l }, 3},
		"a flipped byte at the end":    {func(l [][]byte) [][]byte { return append(l[:4], flip(l[4], 30), []byte("\n")) }, 5},
		"a removed line":               {func(l [][]byte) [][]byte { return append(l[:1], l[2:]...) }, 2},
		"a removed first line":         {func(l [][]byte) [][]byte { return append([][]byte{}, l[0], l[0], l[1]) }, 2},
		"two lines in the other order": {func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l }, 2},
		"a line written twice":         {func(l [][]byte) [][]byte { l[2] = l[1]; return l }, 3},
		"two lines of garbage":         {func(l [][]byte) [][]byte { return append(l[:2], []byte("x\n"), []byte("y\n"), l[2]) }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			path, lines := trail(t, 5)
			store(t, path, tt.change(lines)...)
			_, _, err := walked(t, path)
			broken, ok := errors.AsType[*BrokenError](err)
			if !ok || broken.Line != tt.wantLine {
				t.Errorf("got %v, want a break at line %d", err, tt.wantLine)
			}
		})
	}
}

func TestWalkPassesOverTornLines(t *testing.T) {
	path, lines := trail(t, 3)
	store(t, path, lines[0], lines[1], lines[2][:40])
	head, torn, err := walked(t, path)
	if err != nil || head.Seq != 2 || len(torn) != 1 || torn[0] != 3 {
		t.Fatalf("a torn tail: got head %d, torn %v, error %v; want 2, [3] and nil", head.Seq, torn, err)
	}
	w := open(t, Config{Path: path, Process: "test"})
	appendN(t, w, 2)
	head, torn, err = walked(t, path)
	if err != nil || head.Seq != 4 || len(torn) != 1 || torn[0] != 3 {
		t.Errorf("a torn line that was continued from: got head %d, torn %v, error %v; want 4, [3] and nil", head.Seq, torn, err)
	}
}

func TestARecordThatLostOnlyItsNewlineCounts(t *testing.T) {
	path, lines := trail(t, 3)
	store(t, path, lines[0], lines[1], bytes.TrimSuffix(lines[2], []byte("\n")))
	appendN(t, open(t, Config{Path: path, Process: "test"}), 1)
	head, torn, err := walked(t, path)
	if err != nil || head.Seq != 4 || len(torn) != 0 {
		t.Errorf("got head %d, torn %v, error %v; want 4, none and nil", head.Seq, torn, err)
	}
}

func TestWalkReadsRotatedFilesFromTheOldestKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := open(t, Config{Path: path, Process: "test", MaxSize: 1000, Keep: 3})
	appendN(t, w, 40)
	first := uint64(0)
	last := uint64(0)
	err := Walk(path, func(l Line) error {
		if first == 0 {
			first = l.Seq
		}
		last = l.Seq
		return nil
	}, func(string, int) { t.Error("a torn line") })
	if err != nil || first <= 1 || last != 40 {
		t.Errorf("got records %d to %d, error %v; want some later first one to 40", first, last, err)
	}
}

func TestParseHead(t *testing.T) {
	head := Head{Seq: 7, Hash: firstPrev}
	if got, err := ParseHead(head.String()); err != nil || got != head {
		t.Errorf("got %v, %v; want %v", got, err, head)
	}
	for _, bad := range []string{"", "7", "x:" + firstPrev, "7:abc", ":" + strings.Repeat("0", 64)} {
		if _, err := ParseHead(bad); err == nil {
			t.Errorf("%q was taken for a head", bad)
		}
	}
}
