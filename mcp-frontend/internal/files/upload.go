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
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// checkpoint is after how many bytes a device is asked to put what it has on
// its disk, so that it need not be doubted after an interruption.
const checkpoint = 64 << 20

// upload is one file on its way to the device. It is written beside its
// destination, in packets that are under way together, and renamed at the end.
type upload struct {
	s       *Session
	mover   *mover
	journal *journal
	source  *os.File
	part    string // the part's path on the device
	file    *sftp.File
	size    int64

	mu      sync.Mutex // guards all below
	read    int64      // of the source
	hash    hash.Hash  // of that
	failed  bool       // nothing more is to be sent
	written int64      // what the device has taken, from the beginning and without a hole
	ahead   map[int64]int64
	safe    int64 // what the device has on its disk
	syncing bool
}

// Upload copies a file of the transfer directory to the device.
func (s *Session) Upload(t Transfer) (Transferred, error) {
	source, info, err := t.Dir.source(t.Local)
	if err != nil {
		return Transferred{}, err
	}
	defer func() { _ = source.Close() }()
	to, err := s.resolve(t.Request, true)
	if err != nil {
		return Transferred{}, err
	}
	if err := to.writable(!t.Overwrite); err != nil {
		return Transferred{}, err
	}
	if err := to.permit(); err != nil {
		return Transferred{}, err
	}
	j, err := t.Dir.journal("upload", t.Device, to.path, path.Clean(t.Local))
	if err != nil {
		return Transferred{}, err
	}
	defer j.close()
	u := &upload{s: s, mover: s.mover(t, info.Size()), journal: j, source: source, size: info.Size(), hash: sha256.New(), ahead: make(map[int64]int64)}
	defer u.mover.stop()
	return u.run(t, to, info)
}

func (u *upload) run(t Transfer, to target, info fs.FileInfo) (Transferred, error) {
	identity := sourceIdentity(info)
	u.part = to.beside(u.journal.key[:8] + "-" + identity[:8] + ".part")
	resumed, err := u.open(to, identity)
	if err != nil {
		return Transferred{}, err
	}
	err = u.finish(t, to, info, u.send())
	if err == nil {
		u.journal.forget("")
		return Transferred{Bytes: u.size, SHA256: hex.EncodeToString(u.hash.Sum(nil)), Resumed: resumed}, nil
	}
	_ = u.file.Close()
	if !interrupted(err) {
		_ = u.s.client.Remove(u.part) // what filled a disk must not stay there
		u.journal.forget("")
		return Transferred{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.save(identity, u.written) == nil {
		if e, ok := errors.AsType[*Error](err); ok {
			e.Kept = u.written
		}
	}
	return Transferred{}, err
}

// sourceIdentity is another for what has been changed or replaced.
func sourceIdentity(info fs.FileInfo) string {
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %d", info.Size(), info.ModTime().UnixNano(), inode))
	return hex.EncodeToString(sum[:12])
}

// open opens the part on the device, and settles from where it goes on.
func (u *upload) open(to target, identity string) (resumed int64, err error) {
	k := u.journal.kept
	if k.Remote != "" && k.Remote != u.part && path.Dir(k.Remote) == path.Dir(u.part) {
		_ = u.s.client.Remove(k.Remote) // it was the part of another source
	}
	if k.Source == identity && k.Remote == u.part && k.Bytes > 0 && k.Bytes <= u.size {
		ok, err := u.resume(to, k)
		if ok || err != nil {
			return u.written, err
		}
	}
	if u.file, err = u.s.create(to, u.part, os.O_EXCL, nil); err != nil && u.s.client.Remove(u.part) == nil {
		u.file, err = u.s.create(to, u.part, os.O_EXCL, nil) // one that could not be relied on was in the way
	}
	if err != nil {
		return 0, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.save(identity, 0); err != nil {
		_ = u.file.Close()
		_ = u.s.client.Remove(u.part)
		return 0, localError("keeping a journal for", to.path, err)
	}
	return 0, nil
}

// resume goes on with what is there. ok is false if that cannot be relied on.
func (u *upload) resume(to target, k kept) (ok bool, err error) {
	if there, err := u.s.client.Lstat(u.part); err != nil || !there.Mode().IsRegular() || there.Size() < k.Bytes || there.Size() > u.size {
		return false, nil //nolint:nilerr // then it begins anew, and meets the error again
	}
	if u.file, err = u.s.client.OpenFile(u.part, os.O_RDWR); err != nil {
		return false, nil //nolint:nilerr // see above
	}
	if err = u.s.recheck(to, u.part); err == nil {
		err = u.s.verify(u.mover, u.file, u.source, k)
	}
	if err == nil {
		err = hashed(u.mover, u.hash, u.source, k.Bytes)
	}
	if err == nil {
		u.read, u.written, u.safe = k.Bytes, k.Bytes, k.DoubtFrom
		return true, nil
	}
	_ = u.file.Close()
	u.hash.Reset()
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	return false, u.s.failed("comparing what was kept of", to.path, err)
}

// send sends the rest, many packets at a time.
func (u *upload) send() error {
	var group errgroup.Group
	for range min(concurrency, (u.size-u.read)/packetSize+1) {
		group.Go(func() error {
			piece := make([]byte, packetSize)
			for {
				at, n, err := u.next(piece)
				if err != nil || n == 0 {
					return err
				}
				if _, err = u.file.WriteAt(piece[:n], at); err == nil {
					err = u.acknowledged(at, int64(n))
				}
				if err != nil {
					u.mu.Lock()
					u.failed = true
					u.mu.Unlock()
					return err
				}
			}
		})
	}
	return group.Wait()
}

// next reads what is to be sent next; n is 0 at the end.
func (u *upload) next(piece []byte) (at int64, n int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	at = u.read
	if u.failed || at == u.size {
		return at, 0, nil
	}
	piece = piece[:min(int64(len(piece)), u.size-at)]
	n, err = u.source.ReadAt(piece, at)
	if n < len(piece) {
		u.failed = true
		if err == nil || errors.Is(err, io.EOF) {
			return at, 0, changed(u.mover.t.Local, true)
		}
		return at, 0, localError("reading", u.mover.t.Local, err)
	}
	u.hash.Write(piece)
	u.read += int64(n)
	return at, n, nil
}

// acknowledged notes what the device has taken.
func (u *upload) acknowledged(at, n int64) error {
	u.mu.Lock()
	u.ahead[at] = n
	for {
		n, ok := u.ahead[u.written]
		if !ok {
			break
		}
		delete(u.ahead, u.written)
		u.written += n
	}
	mark := u.written
	due := mark-u.safe >= checkpoint && !u.syncing && mark < u.size
	u.syncing = u.syncing || due
	u.mover.moved(mark)
	u.mu.Unlock()
	if !due {
		return nil
	}
	err := u.s.flush(u.file) // waits for what is under way, and holds the rest up
	u.mu.Lock()
	defer u.mu.Unlock()
	u.syncing = false
	if err != nil {
		return err
	}
	u.mover.busy()
	if u.s.flushes() {
		u.safe = mark
	}
	return u.save(u.journal.kept.Source, mark)
}

// save keeps what is known. u.mu is held.
func (u *upload) save(identity string, bytes int64) error {
	return u.journal.save(kept{Source: identity, Remote: u.part, Bytes: bytes, DoubtFrom: min(u.safe, bytes), DoubtTo: bytes})
}

// finish puts the file into its place, if all of it has been sent.
func (u *upload) finish(t Transfer, to target, before fs.FileInfo, err error) error {
	if err != nil {
		return u.s.noRoom(to, u.size-u.written, u.s.failed("writing", to.path, err))
	}
	if now, err := u.source.Stat(); err != nil || sourceIdentity(now) != sourceIdentity(before) {
		return changed(t.Local, true)
	}
	u.mover.busy()
	var group errgroup.Group // in one round trip
	group.Go(func() error { return u.s.flush(u.file) })
	group.Go(func() error { return u.s.recheck(to, path.Dir(to.path)) })
	group.Go(func() error {
		there, err := u.s.client.Lstat(u.part)
		if err == nil && there.Size() != u.size {
			err = &Error{Kind: Failed, Doing: "writing", Path: to.path, Err: fmt.Errorf("the device has %d bytes of %d", there.Size(), u.size)}
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return u.s.noRoom(to, 0, u.s.failed("writing", to.path, err))
	}
	return u.s.closeAndRename(to, u.file, u.part, t.Overwrite)
}
