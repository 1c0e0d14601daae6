package jobs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Book is the jobs on disk, one file each. It is safe for concurrent use, also
// by several processes.
type Book struct {
	dir   string
	log   *slog.Logger
	owner string   // this process
	alive *os.File // locked as long as this process lives
}

// Open returns the book in dir, which is made (0700) if it is missing. Close
// it.
func Open(dir string, log *slog.Logger) (*Book, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for jobs: %w", err)
	}
	b := &Book{dir: dir, log: log, owner: New("").ID}
	unlock, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	alive, err := os.OpenFile(b.ownerFile(b.owner), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("marking this process as an owner of jobs: %w", err)
	}
	if err := unix.Flock(int(alive.Fd()), unix.LOCK_EX); err != nil {
		_ = alive.Close()
		return nil, fmt.Errorf("marking this process as an owner of jobs: %w", err)
	}
	b.alive = alive
	b.sweepOwnersLocked()
	return b, nil
}

// Close ends this process's claim on the jobs that it holds.
func (b *Book) Close() {
	_ = os.Remove(b.ownerFile(b.owner))
	_ = b.alive.Close()
}

// Owner names this process.
func (b *Book) Owner() string { return b.owner }

func (b *Book) ownerFile(owner string) string { return filepath.Join(b.dir, "owner-"+owner) }

var ownerName = regexp.MustCompile(`^owner-([A-Z2-7]{26})$`)

// Dead says whether the process that held a job has ended.
func (b *Book) Dead(owner string) bool {
	if owner == b.owner {
		return false
	}
	f, err := os.OpenFile(b.ownerFile(owner), os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = f.Close() }()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// sweepOwnersLocked removes the marks of processes that have ended.
func (b *Book) sweepOwnersLocked() {
	files, err := os.ReadDir(b.dir)
	if err != nil {
		return // All will say so
	}
	for _, f := range files {
		if m := ownerName.FindStringSubmatch(f.Name()); m != nil && b.Dead(m[1]) {
			_ = os.Remove(filepath.Join(b.dir, f.Name()))
		}
	}
}

// lock is held while files are read and written, never while a device is
// waited for.
func (b *Book) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(b.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the jobs: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking the jobs: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// Add keeps a new job, unless check, which is given all jobs, objects. Jobs
// that ended longest ago make room; ErrFull if none has ended.
func (b *Book) Add(j Job, check func(all []Job) error) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	all, err := b.readAll()
	if err != nil {
		return err
	}
	if check != nil {
		if err := check(all); err != nil {
			return err
		}
	}
	if len(all) >= MaxKept {
		at := slices.IndexFunc(all, func(k Job) bool { return k.State.Over() })
		if at < 0 {
			return ErrFull
		}
		if err := os.Remove(b.file(all[at].ID)); err != nil {
			return fmt.Errorf("making room for a job: %w", err)
		}
	}
	return b.write(j)
}

// Get returns a job; ErrUnknown if there is none.
func (b *Book) Get(id string) (Job, error) {
	if !jobID.MatchString(id) {
		return Job{}, ErrUnknown
	}
	return b.read(b.file(id))
}

// All returns every job, the oldest first.
func (b *Book) All() ([]Job, error) {
	unlock, err := b.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.readAll()
}

// Update changes a job as it is now. What change returns an error for stays as
// it was.
func (b *Book) Update(id string, change func(*Job) error) (Job, error) {
	unlock, err := b.lock()
	if err != nil {
		return Job{}, err
	}
	defer unlock()
	j, err := b.Get(id)
	if err != nil {
		return j, err
	}
	was := j
	if err := change(&j); err != nil {
		return was, err
	}
	return j, b.write(j)
}

// Remove forgets a job.
func (b *Book) Remove(id string) error {
	unlock, err := b.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return os.Remove(b.file(id))
}

var (
	jobID   = regexp.MustCompile(`^[A-Z2-7]{26}$`)
	jobFile = regexp.MustCompile(`^[A-Z2-7]{26}\.json$`)
)

func (b *Book) file(id string) string { return filepath.Join(b.dir, id+".json") }

// maxFile is above any job's file: the command is at most 64 KiB, quoted.
const maxFile = 4 << 20

func (b *Book) read(path string) (Job, error) {
	var j Job
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, ErrUnknown
	}
	if err != nil {
		return j, fmt.Errorf("reading a job: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return j, fmt.Errorf("reading a job: %s is no job's file", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return j, fmt.Errorf("reading a job: %w", err)
	}
	if err := json.Unmarshal(text, &j); err != nil {
		return j, fmt.Errorf("reading %s: %w", path, err)
	}
	if !j.sound() || path != b.file(j.ID) {
		return j, fmt.Errorf("reading %s: it is not what was written", path)
	}
	return j, nil
}

func (j *Job) sound() bool {
	known := j.State == Queued || j.State == Running || j.State.Over()
	return jobID.MatchString(j.ID) && jobID.MatchString(j.Place) && known && j.Device != ""
}

// readAll sets aside what cannot be read, and says so once.
func (b *Book) readAll() ([]Job, error) {
	files, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the jobs: %w", err)
	}
	var all []Job
	for _, f := range files {
		if !jobFile.MatchString(f.Name()) {
			continue
		}
		path := filepath.Join(b.dir, f.Name())
		j, err := b.read(path)
		if err != nil {
			b.log.Error("a job's file cannot be used and is set aside; the others stay", "error", err, "path", path+".damaged")
			if err := os.Rename(path, path+".damaged"); err != nil {
				b.log.Error("it could not be set aside", "error", err)
			}
			continue
		}
		all = append(all, j)
	}
	slices.SortFunc(all, func(a, b Job) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

// write replaces a job's file in one step.
func (b *Book) write(j Job) error {
	text, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encoding a job: %w", err)
	}
	next := b.file(j.ID) + ".next"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keeping a job: %w", err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keeping a job: %w", err)
	}
	if err := os.Rename(next, b.file(j.ID)); err != nil {
		return fmt.Errorf("keeping a job: %w", err)
	}
	return nil
}

// Expired says whether an ended job need not be remembered any more.
func (j *Job) Expired(now time.Time) bool {
	return j.State.Over() && j.EndedAt != nil && now.Sub(*j.EndedAt) > KeptFor
}
