package files

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/pkg/sftp"
)

// Write is new content for a file.
type Write struct {
	Content []byte
	// Mode is the file's permissions; nil keeps those of the file that is
	// replaced, and leaves a new one to the device's umask.
	Mode *fs.FileMode
	// CreateOnly refuses to replace a file.
	CreateOnly bool
	// ExpectedSHA256 is the hash, in hexadecimal, of the file that may be
	// replaced; "" for any. Between looking and replacing another may write.
	ExpectedSHA256 string
}

// Write replaces or creates a file in one step, on the device's disk before
// it returns where the device offers fsync@openssh.com. If that fails, the old
// file is as it was. It returns the hash of the content.
func (s *Session) Write(r Request, w Write) (sum string, err error) {
	t, err := s.resolve(r, true)
	if err != nil {
		return "", err
	}
	if err := t.writable(w.CreateOnly); err != nil {
		return "", err
	}
	if err := t.permit(); err != nil {
		return "", err
	}
	if err := s.expect(t, w.ExpectedSHA256); err != nil {
		return "", err
	}
	temporary := t.beside(rand.Text()[:12] + ".tmp")
	f, err := s.create(t, temporary, os.O_EXCL, w.Mode)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = s.client.Remove(temporary) // it fails where the connection has
		}
	}()
	_, err = f.ReadFrom(bytes.NewReader(w.Content))
	checked := make(chan error, 1)
	go func() { checked <- s.recheck(t, path.Dir(t.path)) }() // in one round trip with the flush
	if err = errors.Join(err, s.flush(f), <-checked); err != nil {
		return "", s.noRoom(t, int64(len(w.Content)), s.failed("writing", t.path, err))
	}
	if err := s.closeAndRename(t, f, temporary, !w.CreateOnly); err != nil {
		return "", err
	}
	hash := sha256.Sum256(w.Content)
	return hex.EncodeToString(hash[:]), nil
}

// writable says early what rename will find.
func (t target) writable(createOnly bool) error {
	if err := t.regular(); err != nil {
		return err
	}
	if createOnly && t.info != nil {
		return t.exists()
	}
	return nil
}

func (t target) exists() error {
	return &Error{Kind: AlreadyExists, Doing: "creating", Path: t.path, Err: errors.New("there is a file already")}
}

// beside is a hidden name in the same directory, within what a name may have.
func (t target) beside(suffix string) string {
	dir, base := path.Split(t.path)
	return path.Join(dir, "."+base[:min(len(base), 200)]+"."+suffix)
}

// expect compares the file that is to be replaced.
func (s *Session) expect(t target, sum string) error {
	if sum == "" {
		return nil
	}
	e := &Error{Kind: Precondition, Doing: "comparing", Path: t.path, Err: errors.New("there is no such file")}
	if t.info == nil {
		return e
	}
	f, _, err := s.openAgain(t)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := f.WriteTo(h); err != nil {
		return s.failed("reading", t.path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		e.Err = fmt.Errorf("its sha256 is %s", got)
		return e
	}
	return nil
}

// create opens a file beside a target, with the owner and permissions that the
// target is to have, and repeats the check of the directory. flags are
// os.O_EXCL or none.
func (s *Session) create(t target, name string, flags int, mode *fs.FileMode) (*sftp.File, error) {
	f, err := s.client.OpenFile(name, os.O_WRONLY|os.O_CREATE|flags)
	if err != nil {
		return nil, s.failed("creating a file beside", t.path, err)
	}
	err = s.recheck(t, path.Dir(t.path))
	if err == nil {
		err = s.dress(t, f, mode)
	}
	if err != nil {
		_ = f.Close()
		_ = s.client.Remove(name)
		return nil, err
	}
	return f, nil
}

// dress gives f the owner and the permissions of the file that it replaces.
// The owner is kept where the device's user may do that; where not, neither
// are setuid and setgid.
func (s *Session) dress(t target, f *sftp.File, mode *fs.FileMode) error {
	const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	var want fs.FileMode
	if t.info != nil {
		want = t.info.Mode() & (fs.ModePerm | special)
		if !s.keepOwner(t, f) {
			want &= fs.ModePerm
		}
	}
	switch {
	case mode != nil:
		want = *mode & fs.ModePerm
	case t.info == nil:
		return nil
	}
	if err := f.Chmod(want); err != nil {
		return s.failed("setting the permissions of", t.path, err)
	}
	return nil
}

func (s *Session) keepOwner(t target, f *sftp.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	old, ok := t.info.Sys().(*sftp.FileStat)
	now, ok2 := info.Sys().(*sftp.FileStat)
	if !ok || !ok2 {
		return false
	}
	return old.UID == now.UID && old.GID == now.GID || f.Chown(int(old.UID), int(old.GID)) == nil
}

// flush puts f on the device's disk where the device can.
func (s *Session) flush(f *sftp.File) error {
	if !s.flushes() {
		return nil
	}
	return f.Sync()
}

func (s *Session) flushes() bool {
	version, _ := s.client.HasExtension("fsync@openssh.com")
	return version == "1"
}

// closeAndRename does both in one round trip where the file is on the disk by
// now: elsewhere closing may still fail.
func (s *Session) closeAndRename(t target, f *sftp.File, from string, replace bool) error {
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	if !s.flushes() {
		if err := <-closed; err != nil {
			return s.failed("writing", t.path, err)
		}
	}
	return s.rename(t, from, replace)
}

// rename puts a finished file in its place, whose directory has just been
// checked once more. OpenSSH's rename replaces nothing, and its posix-rename
// does, both in one step.
func (s *Session) rename(t target, from string, replace bool) error {
	var err error
	_, posix := s.client.HasExtension("posix-rename@openssh.com")
	if replace && posix {
		err = s.client.PosixRename(from, t.path)
	} else {
		err = s.client.Rename(from, t.path)
	}
	if err == nil {
		return nil
	}
	failure := s.failed("renaming to", t.path, err)
	if _, missing := s.client.Lstat(t.path); missing != nil || replace && posix {
		return failure
	}
	if !replace {
		return t.exists()
	}
	return &Error{Kind: Unavailable, Doing: "replacing", Path: t.path, Err: errors.New("the device's SFTP server cannot replace a file in one step")}
}

// noRoom finds out whether a failure that the device does not explain is a
// full disk.
func (s *Session) noRoom(t target, need int64, failure error) error {
	e, ok := errors.AsType[*Error](failure)
	if _, known := s.client.HasExtension("statvfs@openssh.com"); !ok || e.Kind != Failed || !known {
		return failure
	}
	disk, err := s.client.StatVFS(path.Dir(t.path))
	if err != nil || disk.Bavail > uint64(need)/max(disk.Frsize, 1)+1 {
		return failure
	}
	e.Kind, e.Err = LimitExceeded, fmt.Errorf("no space left on the device: %w", e.Err)
	return e
}
