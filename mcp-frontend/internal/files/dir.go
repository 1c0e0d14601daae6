package files

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// partialDir holds what is left of interrupted transfers.
	partialDir = ".partial"
	// keepPartial is for how long.
	keepPartial = 7 * 24 * time.Hour
	// freeDisk is what a download leaves free: the audit trail may be on the
	// same disk.
	freeDisk = 64 << 20
)

// Dir is the directory on the gateway where transfers read and write. Nothing
// outside of it can be reached, whatever links are in it.
type Dir struct{ root *os.Root }

// OpenDir opens the directory, and makes it (0700) if it is missing.
func OpenDir(name string) (*Dir, error) {
	if err := os.MkdirAll(filepath.Join(name, partialDir), 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for transfers: %w", err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("opening the directory for transfers: %w", err)
	}
	return &Dir{root}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.root.Close() }

// localError says what a failure on the gateway means.
func localError(doing, name string, err error) error {
	if e, ours := errors.AsType[*Error](err); ours {
		return e
	}
	e := &Error{Kind: Local, Gateway: true, Doing: doing, Path: name, Err: err}
	inner := err
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		inner = p.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Kind, e.Err = NotFound, errors.New("there is no such file in the gateway's transfer directory")
	case errors.Is(err, fs.ErrExist):
		e.Kind, e.Err = AlreadyExists, errors.New("there is a file already in the gateway's transfer directory")
	case errors.Is(err, syscall.ENOSPC):
		e.Kind, e.Err = LimitExceeded, errors.New("no space left on the gateway")
	case strings.Contains(inner.Error(), "escapes"), errors.Is(err, syscall.ELOOP), errors.Is(err, fs.ErrPermission):
		e.Kind, e.Err = Denied, fmt.Errorf("it is not inside the gateway's transfer directory: %w", inner)
	}
	return e
}

// check refuses names that are none below the directory.
func check(name string) error {
	if !filepath.IsLocal(name) || name == "." || strings.ContainsRune(name, 0) {
		return &Error{Kind: Denied, Gateway: true, Doing: "opening", Path: name, Err: errors.New("a local path is relative to the gateway's transfer directory, and stays inside it")}
	}
	if clean := filepath.Clean(name); clean == partialDir || strings.HasPrefix(clean, partialDir+"/") {
		return &Error{Kind: Denied, Gateway: true, Doing: "opening", Path: name, Err: errors.New("this is where interrupted transfers are kept")}
	}
	return nil
}

// source opens a regular file to be sent.
func (d *Dir) source(name string) (*os.File, fs.FileInfo, error) {
	const doing = "opening the local file"
	if err := check(name); err != nil {
		return nil, nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would wait for its writer
	if err != nil {
		return nil, nil, localError(doing, name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &Error{Kind: Invalid, Gateway: true, Doing: doing, Path: name, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, localError(doing, name, err)
	}
	return f, info, nil
}

// destination makes sure that a file may be put there.
func (d *Dir) destination(name string, overwrite bool) error {
	const doing = "creating the local file"
	if err := check(name); err != nil {
		return err
	}
	if err := d.root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return localError(doing, name, err)
	}
	info, err := d.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return localError(doing, name, err)
	case !info.Mode().IsRegular():
		return &Error{Kind: Invalid, Gateway: true, Doing: doing, Path: name, Err: errors.New("it is no regular file")}
	case !overwrite:
		return localError(doing, name, fs.ErrExist)
	}
	return nil
}

// place puts a finished file into its place in one step.
func (d *Dir) place(from, name string, overwrite bool) error {
	var err error
	if overwrite {
		err = d.root.Rename(from, name)
	} else if err = d.root.Link(from, name); err == nil { // unlike rename, it replaces nothing
		err = d.root.Remove(from)
	}
	if err != nil {
		return localError("creating the local file", name, err)
	}
	return nil
}

// room makes sure that so many bytes more fit on the gateway's disk.
func (d *Dir) room(name string, bytes int64) error {
	f, err := d.root.Open(partialDir)
	if err != nil {
		return localError("looking for room for", name, err)
	}
	defer func() { _ = f.Close() }()
	var disk syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &disk); err != nil {
		return localError("looking for room for", name, err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; bytes > free-freeDisk {
		return &Error{Kind: LimitExceeded, Gateway: true, Doing: "looking for room for", Path: name, Err: fmt.Errorf("it has %d bytes, and %d may be used on the gateway", bytes, max(free-freeDisk, 0))}
	}
	return nil
}

// kept is what is known of an interrupted transfer.
type kept struct {
	// Source is the identity of what was being copied.
	Source string `json:"source"`
	// Remote is where an upload's part is on the device.
	Remote string `json:"remote,omitempty"`
	// Bytes is how much of the source is there, from its beginning.
	Bytes int64 `json:"bytes"`
	// DoubtFrom and DoubtTo bound what is compared in full before the
	// transfer goes on.
	DoubtFrom int64 `json:"doubt_from"`
	DoubtTo   int64 `json:"doubt_to"`
	// SHA256 is the hash of a download's part as it was received.
	SHA256 string `json:"sha256,omitempty"`
}

// journal is where one transfer keeps that. Who has it open has it alone.
type journal struct {
	dir  *Dir
	key  string
	file *os.File
	kept kept
}

// journal opens the journal of the transfer that these words name.
func (d *Dir) journal(words ...string) (*journal, error) {
	d.prune()
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	j := &journal{dir: d, key: hex.EncodeToString(sum[:12])}
	name := path.Join(partialDir, j.key+".json")
	for range 3 { // its last owner may have removed it while we opened it
		f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, localError("keeping a journal for", words[len(words)-1], err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = f.Close()
			break
		}
		ours, err1 := f.Stat()
		there, err2 := d.root.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(ours, there) {
			j.file = f
			text, err := io.ReadAll(io.LimitReader(f, 64<<10))
			if err != nil || json.Unmarshal(text, &j.kept) != nil {
				j.kept = kept{} // it was cut short: the transfer begins anew
			}
			return j, nil
		}
		_ = f.Close()
	}
	return nil, &Error{Kind: Busy, Gateway: true, Doing: "beginning the transfer of", Path: words[len(words)-1], Err: errors.New("the same transfer is under way")}
}

// save writes what is known now.
func (j *journal) save(k kept) error {
	j.kept = k
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if _, err := j.file.WriteAt(append(text, '\n'), 0); err != nil {
		return err
	}
	if err := j.file.Truncate(int64(len(text)) + 1); err != nil {
		return err
	}
	return j.file.Sync()
}

// forget removes the journal, and part below the directory unless it is "".
func (j *journal) forget(part string) {
	if part != "" {
		_ = j.dir.root.Remove(part)
	}
	_ = j.dir.root.Remove(path.Join(partialDir, j.key+".json"))
}

func (j *journal) close() { _ = j.file.Close() }

// prune removes what nobody has come back for.
func (d *Dir) prune() {
	f, err := d.root.Open(partialDir)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	entries, err := f.ReadDir(10_000)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > keepPartial {
			_ = d.root.Remove(path.Join(partialDir, e.Name()))
		}
	}
}
