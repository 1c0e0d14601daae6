package files

import (
	"cmp"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxListing is how much a device may send about one directory: OpenSSH's
// server takes about 150 bytes for an entry, so some 100,000 of them.
const maxListing = 16 << 20

// Entry is one file of a directory. Its name is what the device says, of any
// bytes but "/" and NUL.
type Entry struct {
	Name   string
	Type   string // file, directory, symlink or other
	Size   int64
	Mode   fs.FileMode // permissions, with setuid, setgid and sticky
	MTime  time.Time
	Target string // of a symlink, as it is written
}

// Page is a part of a directory in the order of names, byte by byte.
type Page struct {
	Entries []Entry
	More    bool // something follows the last entry
}

// List returns the entries of a directory whose names come after the given
// one, limit at most, or the one entry of what is no directory. Links in a
// directory are told, not followed.
func (s *Session) List(r Request, after string, limit int) (Page, error) {
	t, err := s.resolve(r, false)
	if err != nil {
		return Page{}, err
	}
	if err := t.permit(); err != nil {
		return Page{}, err
	}
	if !t.info.IsDir() {
		return Page{Entries: []Entry{entry(path.Base(t.path), t.info)}}, nil
	}
	s.stream.budget.Store(maxListing)
	infos, err := s.client.ReadDirContext(s.ctx, t.path)
	if err != nil {
		return Page{}, s.failed("listing", t.path, err)
	}
	s.stream.budget.Store(0)
	if err := s.recheck(t, t.path); err != nil {
		return Page{}, err
	}
	infos = slices.DeleteFunc(infos, func(info fs.FileInfo) bool { return !plausible(info.Name()) || info.Name() <= after })
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	page := Page{More: len(infos) > limit}
	infos = infos[:min(limit, len(infos))]
	for _, info := range infos {
		page.Entries = append(page.Entries, entry(info.Name(), info))
	}
	return page, s.readLinks(t.path, page.Entries)
}

// plausible says whether a directory can have an entry of that name.
func plausible(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 1024 && !strings.ContainsAny(name, "/\x00")
}

func entry(name string, info fs.FileInfo) Entry {
	e := Entry{Name: name, Type: "other", Size: size(info), Mode: info.Mode(), MTime: info.ModTime()}
	switch {
	case info.Mode().IsRegular():
		e.Type = "file"
	case info.IsDir():
		e.Type = "directory"
	case info.Mode()&fs.ModeSymlink != 0:
		e.Type = "symlink"
	}
	return e
}

// readLinks fills the targets in, all at once.
func (s *Session) readLinks(dir string, entries []Entry) error {
	var asking sync.WaitGroup
	slots := make(chan struct{}, concurrency)
	for i := range entries {
		if e := &entries[i]; e.Type == "symlink" {
			slots <- struct{}{}
			asking.Go(func() {
				defer func() { <-slots }()
				if to, err := s.client.ReadLink(path.Join(dir, e.Name)); err == nil && len(to) <= maxPath {
					e.Target = to // otherwise it has gone meanwhile
				}
			})
		}
	}
	asking.Wait()
	if why := s.stream.why(); why != nil {
		return s.failed("reading links in", dir, why)
	}
	return nil
}
