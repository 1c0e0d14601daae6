package files

import (
	"bytes"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// Transfer is one copy between the gateway's transfer directory and a device.
//
// An interrupted one is continued by the next call with the same arguments if
// the source is still the same (its size and the time of its last change). Of
// the part that is there, what may not have come to rest is compared with the
// source byte by byte, and the rest at random places; where anything differs,
// the transfer begins anew. The hash is of the whole as it was read at the
// source.
type Transfer struct {
	Request
	// Device names the device: what is kept belongs to it.
	Device string
	// Dir is the transfer directory, and Local the path below it.
	Dir   *Dir
	Local string
	// Overwrite allows to replace a file at the destination.
	Overwrite bool
	// Stall ends a transfer that has not moved for so long.
	Stall time.Duration
	// Moved is told how much is done, often, and must not wait; nil for none.
	Moved func(done, total int64)
}

// Transferred is what came of a transfer.
type Transferred struct {
	Bytes   int64
	SHA256  string
	Resumed int64 // how many of the bytes were there before
}

var errStalled = errors.New("no data has moved for too long")

// mover counts what moves, and aborts the session when nothing does.
type mover struct {
	t     Transfer
	total int64
	timer *time.Timer
}

func (s *Session) mover(t Transfer, total int64) *mover {
	return &mover{t: t, total: total, timer: time.AfterFunc(t.Stall, func() { s.stream.abort(errStalled) })}
}

func (m *mover) moved(done int64) {
	m.timer.Reset(m.t.Stall)
	if m.t.Moved != nil {
		m.t.Moved(done, m.total)
	}
}

// busy puts the end off while something else is done.
func (m *mover) busy() { m.timer.Reset(m.t.Stall) }

func (m *mover) stop() { m.timer.Stop() }

var errDiffers = errors.New("the part that was kept is not the source's")

// verify makes sure that what was kept on one side is what the other side has:
// all of what is in doubt, and samples of the rest.
func (s *Session) verify(m *mover, remote *sftp.File, local io.ReaderAt, k kept) error {
	if k.DoubtTo > k.DoubtFrom {
		if _, err := remote.Seek(k.DoubtFrom, io.SeekStart); err != nil {
			return err
		}
		c := &comparer{mover: m, with: io.NewSectionReader(local, k.DoubtFrom, k.DoubtTo-k.DoubtFrom), left: k.DoubtTo - k.DoubtFrom}
		if _, err := remote.WriteTo(c); err != nil && !errors.Is(err, errFull) {
			return err
		}
		if c.left > 0 {
			return errDiffers
		}
	}
	return sample(m, remote, local, k.Bytes)
}

// samples is how many packets are compared.
const samples = 16

func sample(m *mover, remote, local io.ReaderAt, size int64) error {
	last := max(size-packetSize, 0)
	var group errgroup.Group
	for i := range samples {
		at := last
		switch {
		case i == 1:
			at = 0
		case i > 1:
			at = rand.Int64N(last + 1)
		}
		group.Go(func() error {
			there, here := make([]byte, min(packetSize, size)), make([]byte, min(packetSize, size))
			if _, err := remote.ReadAt(there, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := local.ReadAt(here, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			m.busy()
			if !bytes.Equal(there, here) {
				return errDiffers
			}
			return nil
		})
	}
	return group.Wait()
}

// comparer is written what one side has, and reads the other.
type comparer struct {
	mover *mover
	with  io.Reader
	left  int64
	here  [packetSize]byte
}

func (c *comparer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := int(min(int64(len(rest)), c.left, packetSize))
		if n == 0 {
			return len(p) - len(rest), errFull
		}
		if _, err := io.ReadFull(c.with, c.here[:n]); err != nil {
			return 0, err
		}
		if !bytes.Equal(c.here[:n], rest[:n]) {
			return 0, errDiffers
		}
		c.left -= int64(n)
		rest = rest[n:]
	}
	c.mover.busy()
	if c.left == 0 {
		return len(p), errFull
	}
	return len(p), nil
}

// hashed feeds h with the first n bytes of a file.
func hashed(m *mover, h hash.Hash, f *os.File, n int64) error {
	piece := make([]byte, 256<<10)
	for at := int64(0); at < n; {
		got, err := f.ReadAt(piece[:min(int64(len(piece)), n-at)], at)
		h.Write(piece[:got])
		at += int64(got)
		if err != nil && at < n {
			return err
		}
		m.busy()
	}
	return nil
}

// interrupted says whether a failure leaves something to be continued.
func interrupted(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Kind == ConnectionLost || e.Kind == Cancelled || e.Kind == TimedOut)
}

// changed is about a source, which is the gateway's in an upload.
func changed(name string, gateway bool) error {
	return &Error{Kind: Precondition, Gateway: gateway, Doing: "reading", Path: name, Err: errors.New("it changed while it was read")}
}
