package files

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"

	"github.com/pkg/sftp"
)

// WholeFile is up to which size a file is read whole, so that its hash is
// known. It is also how much Write takes.
const WholeFile = 4 << 20

// Part is a piece of a file.
type Part struct {
	Content    []byte
	Offset     int64  // where Content begins in the file
	NextOffset int64  // where to read on
	EOF        bool   // nothing follows NextOffset
	Size       int64  // of the file
	SHA256     string // of the whole file; "" if it is larger than WholeFile
}

// Read returns at most limit bytes of a file from offset on. A negative offset
// counts from the end.
func (s *Session) Read(r Request, offset int64, limit int) (Part, error) {
	t, f, info, err := s.openToRead(r)
	if err != nil {
		return Part{}, err
	}
	if size(info) <= WholeFile {
		whole, err := s.readWhole(t, f)
		if len(whole) <= WholeFile {
			return cut(whole, offset, limit), err
		} // it has grown, or is one of those that say 0
	}
	part := Part{Size: size(info)}
	if part.Offset = offset; offset < 0 {
		part.Offset = max(part.Size+offset, 0)
	}
	part.Content = make([]byte, limit)
	n, err := f.ReadAt(part.Content, part.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return Part{}, s.failed("reading", t.path, err)
	}
	part.Content, part.NextOffset = part.Content[:n], part.Offset+int64(n)
	part.EOF = errors.Is(err, io.EOF) || part.NextOffset >= part.Size
	part.Size = max(part.Size, part.NextOffset)
	return part, nil
}

func cut(whole []byte, offset int64, limit int) Part {
	size := int64(len(whole))
	sum := sha256.Sum256(whole)
	if offset < 0 {
		offset = max(size+offset, 0)
	}
	from := min(offset, size)
	to := min(from+int64(limit), size)
	return Part{
		Content: whole[from:to], Offset: offset, NextOffset: offset + to - from, EOF: to == size, Size: size, SHA256: hex.EncodeToString(sum[:]),
	}
}

// openToRead opens a regular file, judged before and after. It is closed with
// the session, which saves waiting for that.
func (s *Session) openToRead(r Request) (target, *sftp.File, fs.FileInfo, error) {
	t, err := s.resolve(r, false)
	if err != nil {
		return t, nil, nil, err
	}
	if err := t.regular(); err != nil {
		return t, nil, nil, err
	}
	if err := t.permit(); err != nil {
		return t, nil, nil, err
	}
	f, info, err := s.openAgain(t)
	return t, f, info, err
}

// openAgain opens a target for reading and repeats the check.
func (s *Session) openAgain(t target) (*sftp.File, fs.FileInfo, error) {
	f, err := s.client.Open(t.path)
	if err != nil {
		return nil, nil, s.failed("opening", t.path, err)
	}
	checked := make(chan error, 1)
	go func() { checked <- s.recheck(t, t.path) }()
	info, err := f.Stat()
	if err != nil {
		err = s.failed("looking at", t.path, err)
	}
	if bad := <-checked; bad != nil {
		err = bad
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// readWhole reads a file that is at most WholeFile long, one byte more of
// others. The files of /proc say that they have no bytes, and come in pieces.
func (s *Session) readWhole(t target, f *sftp.File) ([]byte, error) {
	limited := &limited{left: WholeFile + 1}
	if _, err := f.WriteTo(limited); err != nil && !errors.Is(err, errFull) {
		return nil, s.failed("reading", t.path, err)
	}
	return limited.content, nil
}

var errFull = errors.New("no more is taken")

// limited keeps what is written until it is full.
type limited struct {
	content []byte
	left    int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.content = append(l.content, p[:n]...)
	l.left -= n
	if l.left == 0 {
		return n, errFull
	}
	return n, nil
}
