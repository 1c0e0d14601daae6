package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxLine bounds a line that Walk reads: a command is at most 64 KiB, which
// JSON may grow sixfold.
const maxLine = 1 << 20

// Head names the newest record of a trail: its number and its hash.
type Head struct {
	Seq  uint64
	Hash string
}

func (h Head) String() string { return strconv.FormatUint(h.Seq, 10) + ":" + h.Hash }

// ParseHead reads what String wrote.
func ParseHead(text string) (Head, error) {
	seq, hash, found := strings.Cut(text, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	if !found || err != nil || len(hash) != len(firstPrev) {
		return Head{}, fmt.Errorf("%q is no head: it is SEQ:HASH, as verify prints it", text)
	}
	return Head{Seq: n, Hash: hash}, nil
}

// Line is one record where it stands.
type Line struct {
	Record
	Hash string
	File string
	Line int
}

// BrokenError says where a trail is not what was written.
type BrokenError struct {
	File string
	Line int
	Text string
}

func (e *BrokenError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text) }

// Walk reads the trail whose current file is path, with its rotated files,
// from the oldest record that is kept to the newest, and checks the chain. It
// calls each for every record, and torn for every line that a crash cut short:
// one that the next record passes over, or the file's last without a newline.
// Its error is a *BrokenError at the first line that is not what was written,
// or each's.
func Walk(path string, each func(Line) error, torn func(file string, line int)) error {
	files, err := trailFiles(path)
	if err != nil {
		return err
	}
	w := &walk{each: each, torn: torn}
	for _, file := range files {
		if err := w.file(file); err != nil {
			return err
		}
	}
	return w.end()
}

// trailFiles lists the rotated files and path itself, oldest first.
func trailFiles(path string) ([]string, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	files := []string{path}
	for n := 1; ; n++ {
		_, err := os.Stat(rotated(path, n))
		if errors.Is(err, fs.ErrNotExist) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		files = append([]string{rotated(path, n)}, files...)
	}
}

type walk struct {
	each  func(Line) error
	torn  func(file string, line int)
	begun bool
	last  Head
	bad   *BrokenError // a line that is no record, until the next one says whether it was torn
	ended bool         // whether bad was ended by a newline
}

func (w *walk) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReaderSize(f, 64<<10)
	for number := 1; ; number++ {
		text, err := readLine(r)
		if len(text) == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading %s:%d: %w", path, number, err)
		}
		if err := w.line(path, number, strings.TrimSuffix(text, "\n"), strings.HasSuffix(text, "\n")); err != nil {
			return err
		}
	}
}

// readLine reads a line with its newline, if it has one.
func readLine(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		part, err := r.ReadSlice('\n')
		b.Write(part)
		if b.Len() > maxLine {
			return "", errors.New("the line is longer than any record")
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b.String(), err
		}
	}
}

func (w *walk) line(file string, number int, text string, whole bool) error {
	r, hash, err := unseal([]byte(text))
	if err != nil {
		if w.bad != nil {
			return w.bad // two in a row: no crash does that
		}
		w.bad, w.ended = &BrokenError{File: file, Line: number, Text: err.Error()}, whole
		return nil
	}
	if w.begun && r.Prev != w.last.Hash || !w.begun && r.Seq == 1 && r.Prev != firstPrev {
		if w.bad != nil {
			return w.bad
		}
		return &BrokenError{File: file, Line: number, Text: fmt.Sprintf("record %d does not follow record %d: a record is missing, or in another place", r.Seq, w.last.Seq)}
	}
	if w.begun && r.Seq != w.last.Seq+1 {
		return &BrokenError{File: file, Line: number, Text: fmt.Sprintf("record %d follows record %d", r.Seq, w.last.Seq)}
	}
	if w.bad != nil {
		w.torn(w.bad.File, w.bad.Line)
		w.bad = nil
	}
	w.begun, w.last = true, Head{Seq: r.Seq, Hash: hash}
	return w.each(Line{Record: r, Hash: hash, File: file, Line: number})
}

// end judges a last line that is no record: a crash leaves it without a
// newline.
func (w *walk) end() error {
	if w.bad == nil {
		return nil
	}
	if w.ended {
		return w.bad
	}
	w.torn(w.bad.File, w.bad.Line)
	return nil
}
