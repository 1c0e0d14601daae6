package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// within is a session that must end by itself: nothing waits for a device.
func within(t *testing.T, client *ssh.Client, limit time.Duration, act func(*Session) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	s, err := Open(ctx, client, func() {})
	if err == nil {
		err = act(s)
		s.Close()
	}
	if took := time.Since(began); took > limit+10*time.Second {
		t.Errorf("it took %v", took)
	}
	return err
}

// Names that are none are left out, and sizes that are none are 0.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	listed := false
	names := []string{"..", ".", "", "/", "a/../..", "good", "x\x00y", "new\nline\x1b[2J", strings.Repeat("n", 5000), "\xff\xfe"}
	h := hostile{answer: func(kind byte, id, body []byte) [][]byte {
		if kind != fxpReaddir {
			return usual(kind, id, body)
		}
		if listed {
			return [][]byte{packet(fxpStatus, id, []byte{0, 0, 0, 1}, text(""), text(""))}
		}
		listed = true
		p := packet(fxpName, id, binary.BigEndian.AppendUint32(nil, uint32(len(names))))
		for _, n := range names {
			p = append(p, entryOf(n)...)
		}
		return [][]byte{p}
	}}
	err := within(t, h.dial(t), time.Minute, func(s *Session) error {
		page, err := s.List(anything("/dir"), "", 100)
		for _, e := range page.Entries {
			if e.Name != "good" && e.Name != "new\nline\x1b[2J" && e.Name != "\xff\xfe" || e.Size != 0 {
				t.Errorf("got %q with the size %d", e.Name, e.Size)
			}
		}
		if len(page.Entries) != 3 {
			t.Errorf("got %d entries", len(page.Entries))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A directory without an end is given up, within a bound of memory.
func TestHostileEndlessDirectory(t *testing.T) {
	t.Parallel()
	many := make([]byte, 0, 200<<10)
	for len(many) < 180<<10 {
		many = append(many, entryOf("a-file-name")...)
	}
	count := uint32(len(many) / len(entryOf("a-file-name")))
	h := hostile{answer: func(kind byte, id, body []byte) [][]byte {
		if kind != fxpReaddir {
			return usual(kind, id, body)
		}
		return [][]byte{packet(fxpName, id, binary.BigEndian.AppendUint32(nil, count), many)}
	}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := within(t, h.dial(t), time.Minute, func(s *Session) error {
		_, err := s.List(anything("/dir"), "", 100)
		return err
	})
	runtime.ReadMemStats(&after)
	mustFail(t, err, LimitExceeded)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 256<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}

// Whatever else is answered, or nothing is, a call ends with an error in time.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]hostile{
		"nothing": {answer: func(byte, []byte, []byte) [][]byte { return nil }},
		"another id": {answer: func(byte, []byte, []byte) [][]byte {
			return [][]byte{packet(fxpStatus, []byte{9, 9, 9, 9}, make([]byte, 12))}
		}},
		"a short packet": {answer: func(byte, []byte, []byte) [][]byte { return [][]byte{{fxpStatus}} }},
		"a huge packet":  {answer: func(byte, []byte, []byte) [][]byte { return [][]byte{make([]byte, 1<<20)} }},
		"a truncated name": {answer: func(_ byte, id, _ []byte) [][]byte {
			return [][]byte{packet(fxpName, id, []byte{0, 0, 0, 1, 255, 255, 255, 255})}
		}},
		"many names":        {answer: func(_ byte, id, _ []byte) [][]byte { return [][]byte{packet(fxpName, id, []byte{255, 255, 255, 255})} }},
		"an unknown packet": {answer: func(_ byte, id, _ []byte) [][]byte { return [][]byte{packet(250, id)} }},
		"deaf":              {deaf: true},
		"endless nothing": {answer: func(kind byte, id, body []byte) [][]byte {
			if kind == fxpRead {
				return [][]byte{packet(fxpData, id, text(""))}
			}
			return usual(kind, id, body)
		}},
		"a path that leads up": {answer: func(kind byte, id, body []byte) [][]byte {
			if kind == fxpRealpath {
				return usual(kind, id, text("/allowed/../etc/file"))
			}
			return usual(kind, id, body)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := h.dial(t)
			for _, act := range []func(*Session) error{
				func(s *Session) error { _, err := s.Read(anything("/file"), 0, 10); return err },
				func(s *Session) error { _, err := s.List(anything("/dir"), "", 10); return err },
				func(s *Session) error {
					_, err := s.Write(anything("/file"), Write{Content: make([]byte, 4<<20)})
					return err
				},
			} {
				err := within(t, client, 500*time.Millisecond, act)
				if e, ok := errors.AsType[*Error](err); err != nil && !ok {
					t.Errorf("got %v (%T)", err, e)
				}
				if err == nil && name != "endless nothing" {
					t.Error("no error")
				}
			}
		})
	}
}

// A read takes no more than it asked for, whatever is sent, and a download no
// more than the size that was told.
func TestHostileData(t *testing.T) {
	t.Parallel()
	h := hostile{answer: func(kind byte, id, body []byte) [][]byte {
		if kind == fxpRead {
			return [][]byte{packet(fxpData, id, text(strings.Repeat("x", 100_000)))}
		}
		return usual(kind, id, body)
	}}
	client := h.dial(t)
	err := within(t, client, 10*time.Second, func(s *Session) error {
		part, err := s.Read(anything("/file"), 0, 10)
		if len(part.Content) > 10 {
			t.Errorf("got %d bytes", len(part.Content))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	d, _ := transfers(t)
	err = within(t, client, 10*time.Second, func(s *Session) error {
		got, err := s.Download(copying(d, "/file", "here"))
		if got.Bytes != 10 {
			t.Errorf("got %d bytes", got.Bytes)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A link that is put into the way between the look and the opening, and one
// that the device does not resolve, lead nowhere.
func TestHostileLinks(t *testing.T) {
	t.Parallel()
	opened := false
	swapping := hostile{answer: func(kind byte, id, body []byte) [][]byte {
		if kind == fxpOpen {
			opened = true
		}
		if kind == fxpRealpath && opened {
			return usual(kind, id, text("/etc/file"))
		}
		return usual(kind, id, body)
	}}
	unresolving := hostile{answer: func(kind byte, id, body []byte) [][]byte {
		if kind == fxpLstat && bytes.HasSuffix(body, []byte("/allowed")) {
			return [][]byte{packet(fxpAttrs, id, []byte{0, 0, 0, 4}, binary.BigEndian.AppendUint32(nil, 0o120777))}
		}
		if kind == fxpOpen {
			t.Error("opened behind a link")
		}
		return usual(kind, id, body)
	}}
	for name, h := range map[string]hostile{"swapping": swapping, "unresolving": unresolving} {
		client := h.dial(t)
		opened = false
		err := within(t, client, time.Minute, func(s *Session) error {
			_, err := s.Read(below("/allowed", "/allowed/file"), 0, 10)
			return err
		})
		if e := mustFail(t, err, Denied); e.Policy {
			t.Errorf("%s: got %v", name, e)
		}
	}
}
