package mcpserve

import (
	"bufio"
	"errors"
	"io"
)

var errLineTooLong = errors.New("line too long")

// A lineReader splits a stream into lines of a bounded length.
type lineReader struct {
	r   *bufio.Reader
	max int // without the newline
}

// next returns the next line, which then belongs to the caller, or
// errLineTooLong after it has skipped one, or why the stream ended. A last line
// needs no newline; one torn by anything but end of file is dropped.
func (l *lineReader) next() ([]byte, error) {
	var line []byte
	tooLong := false
	for {
		part, err := l.r.ReadSlice('\n')
		if err == nil {
			part = part[:len(part)-1]
		}
		if tooLong = tooLong || len(line)+len(part) > l.max; tooLong {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case tooLong:
			return nil, errLineTooLong
		case err != nil && len(line) == 0:
			return nil, io.EOF
		default:
			return line, nil
		}
	}
}
