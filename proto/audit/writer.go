package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config tells where and as whom to write.
type Config struct {
	// Path is the current file. Older ones are PATH.1 (newest) to PATH.KEEP.
	Path string
	// Process names the writer in every record.
	Process string
	// MaxSize is the size in bytes from which on a file takes no further
	// record and is rotated; 0 means never.
	MaxSize int64
	// Keep is how many rotated files remain, at least 1 when MaxSize is set.
	Keep int
}

// Writer appends to one audit file. It is safe for concurrent use, also by
// several processes: each append holds a lock on the file (flock(2)).
type Writer struct {
	cfg Config

	mu      sync.Mutex // guards all below; held before syncMu, never after
	file    *os.File
	size    int64  // of file as this writer left it; another size means that others wrote
	torn    bool   // file ends in the middle of a line
	seq     uint64 // of the newest record
	head    string // its hash
	appends uint64 // records that this writer has written

	syncMu sync.Mutex
	synced uint64 // how many of appends are known to be on disk
	failed error  // of the first sync that failed, for good: after it the kernel may drop what was written, and say no more
}

// Open opens or creates the audit file (0600, its directory 0700) and finds
// the end of its chain.
func Open(cfg Config) (*Writer, error) {
	if cfg.MaxSize > 0 && cfg.Keep < 1 {
		return nil, errors.New("opening the audit log: at least one rotated file must be kept")
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("making the audit log's directory: %w", err)
	}
	w := &Writer{cfg: cfg}
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	unlock()
	return w, nil
}

// Close syncs and closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.file.Sync(), w.file.Close())
	w.file = nil
	return err
}

// Append writes r as the next record and returns its sequence number once it
// is on disk. Seq, Time, Process and Prev of r are overwritten.
func (w *Writer) Append(r Record) (uint64, error) {
	seq, nth, file, err := w.write(r)
	if err != nil {
		return 0, fmt.Errorf("writing the audit log: %w", err)
	}
	if err := w.sync(nth, file); err != nil {
		return 0, fmt.Errorf("writing the audit log: %w", err)
	}
	return seq, nil
}

// write puts r at the end of the chain; nth counts this writer's records.
func (w *Writer) write(r Record) (seq, nth uint64, file *os.File, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	unlock, err := w.lock()
	if err != nil {
		return 0, 0, nil, err
	}
	defer func() { unlock() }()

	if w.cfg.MaxSize > 0 && w.size >= w.cfg.MaxSize {
		if unlock, err = w.rotate(unlock); err != nil {
			return 0, 0, nil, err
		}
	}
	r.Seq, r.Prev = w.seq+1, w.head // only now: another process may have written while the files changed
	r.Time, r.Process = time.Now().UTC(), w.cfg.Process
	line, hash, err := seal(r)
	if err != nil {
		return 0, 0, nil, err
	}
	if w.torn { // the torn line stays as it is, and this record gets a line of its own
		line = append([]byte("\n"), line...)
	}
	if _, err := w.file.Write(line); err != nil {
		// A full disk must not leave half a line for the next record to join.
		if truncErr := w.file.Truncate(w.size); truncErr != nil {
			err = fmt.Errorf("%w; half a line may be left: %w", err, truncErr)
		}
		return 0, 0, nil, err
	}
	w.size += int64(len(line))
	w.torn = false
	w.seq, w.head = r.Seq, hash
	w.appends++
	return r.Seq, w.appends, w.file, nil
}

// sync makes sure that this writer's nth record is on disk. Appends that wait
// here together share one fsync(2).
func (w *Writer) sync(nth uint64, file *os.File) error {
	w.syncMu.Lock()
	defer w.syncMu.Unlock()
	if w.synced >= nth {
		return nil
	}
	if w.failed != nil {
		return w.failed
	}
	w.mu.Lock()
	appends := w.appends
	w.mu.Unlock()
	err := file.Sync()
	if errors.Is(err, os.ErrClosed) {
		return nil // rotated or closed, and synced before that
	}
	if err != nil {
		w.failed = fmt.Errorf("syncing %s (restart once the disk is well): %w", file.Name(), err)
		return w.failed
	}
	w.synced = appends
	return nil
}

// lock takes the lock of the file that is at Path now, opening it where
// another process has rotated it away, and reads the end of the chain where
// another process has written.
func (w *Writer) lock() (unlock func(), err error) {
	for {
		if w.file == nil {
			f, err := os.OpenFile(w.cfg.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
			if err != nil {
				return nil, err
			}
			if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
				return nil, errors.Join(fmt.Errorf("%s is not a regular file, so no audit trail can be kept in it", w.cfg.Path), err, f.Close())
			}
			w.file, w.size = f, -1
		}
		fd := int(w.file.Fd())
		if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
			return nil, fmt.Errorf("locking %s: %w", w.cfg.Path, err)
		}
		unlock := func() { _ = unix.Flock(fd, unix.LOCK_UN) }
		info, err := w.file.Stat()
		if err != nil {
			unlock()
			return nil, err
		}
		if at, err := os.Stat(w.cfg.Path); err != nil || !os.SameFile(info, at) {
			unlock()
			_ = w.file.Close()
			w.file = nil
			continue
		}
		if info.Size() != w.size {
			if err := w.readEnd(info.Size()); err != nil {
				unlock()
				return nil, err
			}
		}
		return unlock, nil
	}
}

// rotate renames the full file and starts the next one. It is called with the
// full file's lock and returns the new one's.
func (w *Writer) rotate(unlock func()) (func(), error) {
	if err := w.file.Sync(); err != nil {
		return unlock, fmt.Errorf("syncing %s before its rotation: %w", w.cfg.Path, err)
	}
	for n := w.cfg.Keep; n >= 1; n-- {
		from := w.cfg.Path
		if n > 1 {
			from = rotated(w.cfg.Path, n-1)
		}
		if err := os.Rename(from, rotated(w.cfg.Path, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unlock, fmt.Errorf("rotating the audit log: %w", err)
		}
	}
	unlock()
	_ = w.file.Close()
	w.file = nil
	return w.lock()
}

func rotated(path string, n int) string { return path + "." + strconv.Itoa(n) }

// readEnd finds the newest record: in this file, or in the newest rotated one
// if this is empty.
func (w *Writer) readEnd(size int64) error {
	last, torn, err := lastLine(w.file, size)
	if err != nil {
		return err
	}
	w.size, w.torn, w.seq, w.head = size, torn, 0, firstPrev
	if last == nil && size > 0 && !startsARecord(w.file) {
		return fmt.Errorf("%s holds no audit record: move the file away, or choose another", w.cfg.Path)
	}
	if last == nil {
		older, err := os.Open(rotated(w.cfg.Path, 1))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = older.Close() }()
		info, err := older.Stat()
		if err != nil {
			return err
		}
		if last, _, err = lastLine(older, info.Size()); err != nil || last == nil {
			return err
		}
	}
	r, hash, err := unseal(last)
	if err != nil {
		return fmt.Errorf("%s: the newest record cannot be continued from: %w (move the file away to start a new chain)", w.cfg.Path, err)
	}
	w.seq, w.head = r.Seq, hash
	return nil
}

// startsARecord tells a file whose only record was torn from a file that is
// something else altogether.
func startsARecord(f io.ReaderAt) bool {
	want := []byte(`{"seq":`)
	got := make([]byte, len(want))
	n, _ := f.ReadAt(got, 0) // a shorter file gives a shorter start
	return bytes.HasPrefix(want, bytes.TrimSuffix(got[:n], []byte("\n")))
}

// lastLine returns the newest whole record of f, nil if it has none. Lines
// that a crash tore are passed over; torn says whether the file ends in one.
func lastLine(f io.ReaderAt, size int64) (line []byte, torn bool, err error) {
	const step = 64 << 10
	var tail []byte
	for at := size; at > 0; {
		n := min(step, at)
		at -= n
		block := make([]byte, n, n+int64(len(tail)))
		if _, err := f.ReadAt(block, at); err != nil {
			return nil, false, fmt.Errorf("reading the end of the audit log: %w", err)
		}
		tail = append(block, tail...)
		torn = tail[len(tail)-1] != '\n'
		if line := newestWhole(tail, at == 0); line != nil {
			return line, torn, nil
		}
	}
	return nil, torn, nil
}

// newestWhole returns the newest line of tail that is a sealed record, even if
// only its newline is missing. The first line counts only if tail begins where
// the file does.
func newestWhole(tail []byte, fromStart bool) []byte {
	for end := len(tail); end >= 0; {
		start := bytes.LastIndexByte(tail[:end], '\n') + 1
		if start == 0 && !fromStart {
			return nil
		}
		if _, _, err := unseal(tail[start:end]); err == nil {
			return tail[start:end]
		}
		end = start - 1
	}
	return nil
}
