// Package outputs keeps the output of commands that was too long to be
// returned, on disk, for a while.
//
// It promises to stay within its bounds: a size for each stream and for all
// together, and an age; the oldest outputs go first. A handle is unguessable,
// and names nothing once its output has gone. Contents are never logged.
package outputs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrExpired says that a handle names no output, or none any more.
var ErrExpired = errors.New("there is no such output any more")

// Config bounds a Store.
type Config struct {
	// Dir holds the outputs; it is made (0700) if it is missing.
	Dir string
	// MaxStream is how many bytes of one stream are kept, its beginning.
	MaxStream int64
	// MaxTotal is how many bytes are kept in all.
	MaxTotal int64
	// MaxAge is how long an output is kept.
	MaxAge time.Duration
}

// Store keeps outputs. It is safe for concurrent use.
type Store struct {
	cfg Config

	mu    sync.Mutex // guards all below
	order []*output  // oldest first
	total int64
}

// output is one stream of one run.
type output struct {
	name    string // of its file
	size    int64
	began   time.Time
	writing bool
}

// Open returns the store in cfg.Dir. Outputs of an earlier run that are still
// young enough can be read on.
func Open(cfg Config) (*Store, error) {
	if cfg.MaxStream <= 0 || cfg.MaxTotal < cfg.MaxStream || cfg.MaxAge <= 0 {
		return nil, errors.New("outputs: the bounds must be above 0, and the total not below a stream's")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory for outputs: %w", err)
	}
	files, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("reading the directory for outputs: %w", err)
	}
	s := &Store{cfg: cfg}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || !info.Mode().IsRegular() || !fileName.MatchString(f.Name()) {
			continue // not ours
		}
		s.order = append(s.order, &output{name: f.Name(), size: info.Size(), began: info.ModTime()})
		s.total += info.Size()
	}
	slices.SortFunc(s.order, func(a, b *output) int { return a.began.Compare(b.began) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trimLocked(0)
	return s, nil
}

// NewID returns a handle for the output of one run.
func NewID() string { return rand.Text() }

var fileName = regexp.MustCompile(`^[A-Z2-7]{26}\.(stdout|stderr)$`)

// name is the file of a stream; "" if the handle or the stream is none.
func name(id, stream string) string {
	if n := id + "." + stream; fileName.MatchString(n) {
		return n
	}
	return ""
}

// Create begins to keep a stream ("stdout" or "stderr") of the run id. What is
// written beyond the bounds is dropped without an error: the beginning counts.
func (s *Store) Create(id, stream string) (io.WriteCloser, error) {
	n := name(id, stream)
	if n == "" {
		return nil, fmt.Errorf("outputs: %q of %q cannot be kept", stream, id)
	}
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keeping an output: %w", err)
	}
	o := &output{name: n, began: time.Now(), writing: true}
	s.mu.Lock()
	s.order = append(s.order, o)
	s.mu.Unlock()
	return &writer{store: s, output: o, file: f}, nil
}

type writer struct {
	store  *Store
	output *output
	file   *os.File
}

// Write implements io.Writer. It fails only if the disk does.
func (w *writer) Write(p []byte) (int, error) {
	room := w.store.reserve(w.output, int64(len(p)))
	if _, err := w.file.Write(p[:room]); err != nil {
		return 0, fmt.Errorf("keeping an output: %w", err)
	}
	return len(p), nil
}

// Close ends the stream.
func (w *writer) Close() error {
	w.store.mu.Lock()
	w.output.writing = false
	w.store.mu.Unlock()
	return w.file.Close()
}

// reserve says how many of n further bytes o may have, making room for them.
func (s *Store) reserve(o *output, n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.cfg.MaxStream-o.size)
	s.trimLocked(n)
	n = max(min(n, s.cfg.MaxTotal-s.total), 0)
	o.size += n
	s.total += n
	return n
}

// trimLocked removes what is too old, and the oldest until n bytes fit. What
// is being written stays.
func (s *Store) trimLocked(n int64) {
	s.order = slices.DeleteFunc(s.order, func(o *output) bool {
		if o.writing || time.Since(o.began) <= s.cfg.MaxAge && s.total+n <= s.cfg.MaxTotal {
			return false
		}
		err := os.Remove(filepath.Join(s.cfg.Dir, o.name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false // it still takes its place
		}
		s.total -= o.size
		return true
	})
}

// Open opens a stream of a run for reading. The error is ErrExpired if it is
// not kept any more.
func (s *Store) Open(id, stream string) (*os.File, error) {
	s.mu.Lock()
	s.trimLocked(0)
	s.mu.Unlock()
	n := name(id, stream)
	if n == "" {
		return nil, ErrExpired
	}
	f, err := os.Open(filepath.Join(s.cfg.Dir, n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrExpired, strings.TrimSuffix(n, "."+stream))
	}
	return f, err
}
