package files

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

const (
	// settling is how long a file may change without a sign: SFTP version 3
	// tells times in seconds. What is read meanwhile is read again before an
	// interrupted download goes on.
	settling = 2 * time.Second
	// maxUnsized is how much is taken of a file that says it has no bytes, as
	// those of /proc do.
	maxUnsized = 16 << 20
)

// download is one file on its way from the device. It is written below
// partialDir, and put into its place at the end.
type download struct {
	s       *Session
	mover   *mover
	journal *journal
	remote  *sftp.File
	part    string
	file    *os.File
	size    int64 // as the device said at the beginning; no more is taken

	began   time.Time
	written int64
	settled int64 // how much had been read when the file's time could be relied on
	hash    hash.Hash
}

// Download copies a file of the device into the transfer directory.
func (s *Session) Download(t Transfer) (Transferred, error) {
	if err := t.Dir.destination(t.Local, t.Overwrite); err != nil {
		return Transferred{}, err
	}
	from, remote, info, err := s.openToRead(t.Request)
	if err != nil {
		return Transferred{}, err
	}
	j, err := t.Dir.journal("download", t.Device, from.path, path.Clean(t.Local))
	if err != nil {
		return Transferred{}, err
	}
	defer j.close()
	d := &download{
		s: s, mover: s.mover(t, size(info)), journal: j, remote: remote, part: path.Join(partialDir, j.key+".part"),
		size: size(info), began: time.Now(), hash: sha256.New(),
	}
	defer d.mover.stop()
	return d.run(t, from, info)
}

func (d *download) run(t Transfer, from target, info fs.FileInfo) (Transferred, error) {
	var err error
	d.file, err = t.Dir.root.OpenFile(d.part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return Transferred{}, localError("creating the local file", t.Local, err)
	}
	defer func() { _ = d.file.Close() }()
	identity := fmt.Sprintf("%d %d", info.Size(), info.ModTime().Unix())
	resumed, err := d.resume(identity)
	if err == nil {
		err = t.Dir.room(t.Local, d.size-resumed)
	}
	if err == nil {
		err = d.receive(from, info)
	}
	if err == nil {
		err = t.Dir.place(d.part, t.Local, t.Overwrite)
	}
	if err == nil {
		d.journal.forget("")
		return Transferred{Bytes: d.written, SHA256: hex.EncodeToString(d.hash.Sum(nil)), Resumed: resumed}, nil
	}
	if !interrupted(err) || d.written == 0 || d.keep(identity) != nil {
		d.journal.forget(d.part)
		return Transferred{}, err
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Kept = d.written
	}
	return Transferred{}, err
}

// resume settles from where the download goes on: 0 if what is there cannot
// be relied on.
func (d *download) resume(identity string) (int64, error) {
	k := d.journal.kept
	if k.Source == identity && k.Bytes > 0 && k.Bytes <= d.size {
		err := hashed(d.mover, d.hash, d.file, k.Bytes)
		if err == nil && hex.EncodeToString(d.hash.Sum(nil)) == k.SHA256 {
			err = d.s.verify(d.mover, d.remote, d.file, k)
			if err == nil {
				d.written, d.settled = k.Bytes, k.DoubtTo
				return k.Bytes, d.file.Truncate(k.Bytes)
			}
			if !errors.Is(err, errDiffers) {
				return 0, d.s.failed("comparing what was kept of", d.mover.t.Local, err)
			}
		}
	}
	d.hash.Reset()
	return 0, d.file.Truncate(0)
}

// keep keeps what there is.
func (d *download) keep(identity string) error {
	if err := d.file.Sync(); err != nil {
		return err
	}
	doubt := d.settled
	if doubt == 0 {
		doubt = d.written
	}
	return d.journal.save(kept{Source: identity, Bytes: d.written, DoubtTo: doubt, SHA256: hex.EncodeToString(d.hash.Sum(nil))})
}

func (d *download) receive(from target, before fs.FileInfo) error {
	var err error
	if d.size == 0 {
		_, err = d.remote.WriteTo(d) // there may be something all the same
	} else {
		err = d.fetch()
	}
	if err != nil {
		return d.s.failed("reading", from.path, err) // or our own disk
	}
	now, err := d.remote.Stat()
	if err != nil {
		return d.s.failed("looking at", from.path, err)
	}
	// A log may grow: then it is taken as it was at the beginning.
	if d.written < d.size || size(now) < d.size || size(now) == d.size && !now.ModTime().Equal(before.ModTime()) {
		return changed(from.path, false)
	}
	return nil
}

// fetch reads what is missing, many packets at a time, and takes them in order.
func (d *download) fetch() error {
	var (
		group errgroup.Group
		mu    sync.Mutex
		next  = d.written // to be asked for
		over  bool        // a packet was cut short, or failed
	)
	turn := sync.Cond{L: &mu}
	for range min(concurrency, (d.size-d.written)/packetSize+1) {
		group.Go(func() error {
			piece := make([]byte, packetSize)
			mu.Lock()
			defer mu.Unlock()
			for !over && next < d.size {
				at := next
				want := piece[:min(packetSize, d.size-at)]
				next += int64(len(want))
				mu.Unlock()
				n, err := d.remote.ReadAt(want, at)
				mu.Lock()
				for !over && d.written < at {
					turn.Wait()
				}
				if over {
					return nil
				}
				if err == nil || errors.Is(err, io.EOF) {
					_, err = d.Write(want[:n])
				}
				over = err != nil || n < len(want)
				turn.Broadcast()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// Write takes what comes from the device, in order.
func (d *download) Write(p []byte) (int, error) {
	if d.size == 0 && d.written+int64(len(p)) > maxUnsized {
		return 0, &Error{Kind: LimitExceeded, Doing: "reading", Path: d.mover.t.Path, Err: errors.New("a file that tells no size has too much in it")}
	}
	n, err := d.file.WriteAt(p, d.written)
	d.hash.Write(p[:n])
	d.written += int64(n)
	if err != nil {
		return n, localError("writing", d.mover.t.Local, err)
	}
	if d.settled == 0 && time.Since(d.began) > settling {
		d.settled = d.written
	}
	d.mover.moved(d.written)
	return n, nil
}
