package outputs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"unicode/utf8"
)

// Part is a piece of an output.
type Part struct {
	Content    []byte
	Offset     int64 // where Content begins in the stream
	NextOffset int64 // where to read on
	EOF        bool  // nothing follows NextOffset
}

// ReadAt returns at most limit bytes from offset on. A negative offset counts
// from the end.
func ReadAt(f *os.File, offset int64, limit int) (Part, error) {
	info, err := f.Stat()
	if err != nil {
		return Part{}, err
	}
	if offset < 0 {
		offset = max(info.Size()+offset, 0)
	}
	buf := make([]byte, min(int64(limit), max(info.Size()-offset, 0)))
	n, err := f.ReadAt(buf, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return Part{}, err
	}
	next := offset + int64(n)
	return Part{Content: buf[:n], Offset: offset, NextOffset: next, EOF: next >= info.Size()}, nil
}

// tailStep is how much is read at once from the end.
const tailStep = 64 << 10

// Tail returns the last lines, as many of their last bytes as limit allows.
func Tail(f *os.File, lines, limit int) (Part, error) {
	info, err := f.Stat()
	if err != nil {
		return Part{}, err
	}
	size := info.Size()
	start := size
	for seen := 0; start > 0 && size-start < int64(limit) && seen <= lines; {
		step := min(tailStep, start, int64(limit)-(size-start))
		block := make([]byte, step)
		if _, err := f.ReadAt(block, start-step); err != nil {
			return Part{}, err
		}
		if start == size {
			block = bytes.TrimSuffix(block, []byte("\n"))
		}
		if cut, found := beforeNthNewline(block, lines-seen); found {
			return ReadAt(f, start-step+int64(cut), limit)
		}
		seen += bytes.Count(block, []byte("\n"))
		start -= step
	}
	return ReadAt(f, start, limit)
}

// beforeNthNewline returns where the nth line from the end of block begins.
func beforeNthNewline(block []byte, n int) (at int, found bool) {
	at = len(block)
	for ; n > 0; n-- {
		at = bytes.LastIndexByte(block[:at], '\n')
		if at < 0 {
			return 0, false
		}
	}
	return at + 1, true
}

// maxGrepLine is the longest line that is searched; a longer one is searched
// in pieces.
const maxGrepLine = 64 << 10

// Grep returns the lines from offset on that match, at most limit bytes of
// them. NextOffset is where the search goes on.
func Grep(f *os.File, pattern *regexp.Regexp, offset int64, limit int) (Part, error) {
	info, err := f.Stat()
	if err != nil {
		return Part{}, err
	}
	if offset < 0 {
		offset = max(info.Size()+offset, 0)
	}
	part := Part{Offset: offset, NextOffset: offset}
	r := bufio.NewReaderSize(io.NewSectionReader(f, offset, max(info.Size()-offset, 0)), maxGrepLine)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 && pattern.Match(bytes.TrimSuffix(line, []byte("\n"))) {
			if len(part.Content)+len(line) > limit && len(part.Content) > 0 {
				return part, nil
			}
			part.Content = append(part.Content, line[:min(len(line), limit)]...)
		}
		part.NextOffset += int64(len(line))
		if errors.Is(err, io.EOF) {
			part.EOF = true
			return part, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return Part{}, err
		}
	}
}

// WholeRunes cuts a rune off that the part's end splits, so that text stays
// text; the next part begins with it. What is not text stays as it is.
func (p Part) WholeRunes() Part {
	for i := 1; i < utf8.UTFMax && i < len(p.Content); i++ {
		at := len(p.Content) - i
		if !utf8.RuneStart(p.Content[at]) {
			continue
		}
		if !p.EOF && !utf8.FullRune(p.Content[at:]) && utf8.Valid(p.Content[:at]) {
			p.Content, p.NextOffset = p.Content[:at], p.NextOffset-int64(i)
		}
		break
	}
	return p
}
