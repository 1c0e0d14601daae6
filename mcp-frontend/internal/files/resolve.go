package files

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
)

// Bounds of a path: Linux's PATH_MAX, and what anybody nests.
const (
	maxPath     = 4096
	maxElements = 100
)

// target is a path as the device resolved it, judged.
type target struct {
	request Request
	path    string      // absolute, without links
	info    fs.FileInfo // nil where there is nothing yet
}

// resolve asks the device where the path leads, and judges that. With create
// the last element need not be there.
//
// SFTP's realpath resolves links on OpenSSH, and is allowed not to: so each
// element is looked at as well. One round trip where the path holds no link,
// two where it does, whatever the depth.
func (s *Session) resolve(r Request, create bool) (target, error) {
	const doing = "resolving"
	if !strings.HasPrefix(r.Path, "/") || len(r.Path) > maxPath || strings.ContainsRune(r.Path, 0) {
		return target{}, &Error{Kind: Invalid, Doing: doing, Path: r.Path, Err: errors.New("a path must be absolute, and shorter than 4096 bytes")}
	}
	guess := path.Clean(r.Path)
	guessed := make(chan look, 1)
	go func() { guessed <- s.lookAlong(guess) }()
	resolved, err := s.client.RealPath(r.Path)
	seen := <-guessed // what it leads to is judged before anything is made of it
	if errors.Is(err, fs.ErrNotExist) && create {
		resolved, err = s.resolveParent(r.Path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// What may not be seen is not told to be missing.
		if denied := judge(r, path.Clean(r.Path)); denied != nil {
			return target{}, denied
		}
	}
	if err != nil {
		return target{}, s.failed(doing, r.Path, err)
	}
	if !strings.HasPrefix(resolved, "/") || path.Clean(resolved) != resolved || len(resolved) > maxPath || strings.Count(resolved, "/") > maxElements {
		return target{}, &Error{Kind: Invalid, Doing: doing, Path: r.Path, Err: errors.New("the device resolves it to what is no path, or one that is too long")}
	}
	if err := judge(r, resolved); err != nil {
		return target{}, err
	}
	if resolved != guess {
		seen = s.lookAlong(resolved)
	}
	if seen.err != nil {
		return target{}, seen.err
	}
	if seen.info == nil && !create {
		return target{}, s.failed(doing, r.Path, fs.ErrNotExist)
	}
	return target{r, resolved, seen.info}, nil
}

// look is what there is at a path; info is nil for nothing.
type look struct {
	info fs.FileInfo
	err  error
}

// resolveParent is for servers whose realpath wants all of a path to exist.
func (s *Session) resolveParent(name string) (string, error) {
	dir, base := path.Split(name)
	if base == "" || base == "." || base == ".." {
		return "", fs.ErrNotExist
	}
	resolved, err := s.client.RealPath(dir)
	return path.Join(resolved, base), err
}

// lookAlong looks at what is at a resolved path, and makes sure that no
// element of it is a link. All elements are asked about at once.
func (s *Session) lookAlong(resolved string) look {
	elements := []string{resolved}
	for p := path.Dir(resolved); p != "/" && len(elements) <= maxElements; p = path.Dir(p) {
		elements = append(elements, p)
	}
	looks := make([]look, len(elements))
	var asking sync.WaitGroup
	for i, p := range elements {
		asking.Go(func() { looks[i].info, looks[i].err = s.client.Lstat(p) })
	}
	asking.Wait()
	for i, p := range elements {
		l := looks[i]
		missing := errors.Is(l.err, fs.ErrNotExist) // of the others, opening will tell
		switch {
		case l.err == nil && l.info.Mode()&fs.ModeSymlink != 0:
			return look{err: &Error{Kind: Denied, Doing: "resolving", Path: p, Err: errors.New("it is a link, which the device does not resolve")}}
		case l.err != nil && !missing && (i == 0 || !errors.Is(l.err, fs.ErrPermission)):
			return look{err: s.failed("looking at", p, l.err)}
		}
	}
	if looks[0].err != nil {
		return look{}
	}
	return looks[0]
}

func judge(r Request, resolved string) error {
	if err := r.Judge(resolved); err != nil {
		return &Error{Kind: Denied, Doing: "judging", Path: resolved, Err: err, Policy: true}
	}
	return nil
}

// permit asks for the permit. Nothing has been opened before.
func (t target) permit() error {
	if t.request.Permit == nil {
		return nil
	}
	if err := t.request.Permit(t.path); err != nil {
		return &Error{Kind: NotPermitted, Doing: "asking for", Path: t.path, Err: err}
	}
	return nil
}

// recheck is done when something has been opened below name: it must still
// lead to itself, and still be allowed.
func (s *Session) recheck(t target, name string) error {
	resolved, err := s.client.RealPath(name)
	if err != nil {
		return s.failed("resolving again", name, err)
	}
	if resolved != name {
		return &Error{Kind: Denied, Doing: "resolving again", Path: name, Err: fmt.Errorf("a link has been put there meanwhile")}
	}
	return judge(t.request, t.path)
}

// regular makes sure that a target is a file that can be read to an end.
func (t target) regular() error {
	if t.info == nil || t.info.Mode().IsRegular() {
		return nil
	}
	what := "it is no regular file"
	if t.info.IsDir() {
		what = "it is a directory"
	}
	return &Error{Kind: Invalid, Doing: "opening", Path: t.path, Err: errors.New(what)}
}

// size is a size that a device claims; one that no file has is 0.
func size(info fs.FileInfo) int64 { return max(info.Size(), 0) }
