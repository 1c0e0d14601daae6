package remote

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Capture keeps the head and the tail of a stream within a bound, counts its
// bytes and hashes them all. It is safe for concurrent use.
type Capture struct {
	mu       sync.Mutex // guards all below
	limit    int
	head     []byte // the first bytes, up to half the limit
	tail     []byte // a ring of the newest bytes beyond head, up to the rest of the limit
	next     int    // where tail goes on once it is full
	total    int64
	hash     hash.Hash
	reported int64 // total when a line was last shown as progress
	// spill opens a place for the whole stream once it is longer than limit;
	// nil if there is none, or it has been opened. It may return nil.
	spill func() io.WriteCloser
	whole io.WriteCloser // nil while nothing is spilled
}

func newCapture(limit int, spill func() io.WriteCloser) *Capture {
	return &Capture{limit: limit, hash: sha256.New(), spill: spill}
}

// maxProgressLine bounds what progress shows of a line.
const maxProgressLine = 200

// Write implements io.Writer. It never fails.
func (c *Capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spillLocked(p)
	c.total += int64(len(p))
	c.hash.Write(p)
	rest := p
	if room := c.headRoom() - len(c.head); room > 0 {
		n := min(room, len(rest))
		c.head = append(c.head, rest[:n]...)
		rest = rest[n:]
	}
	c.ringLocked(rest)
	return len(p), nil
}

// spillLocked keeps the stream whole elsewhere from when it outgrows the
// limit. A place that fails is given up: head and tail are still here.
func (c *Capture) spillLocked(p []byte) {
	if c.spill != nil && c.total+int64(len(p)) > int64(c.limit) {
		c.whole, c.spill = c.spill(), nil
		if c.whole != nil {
			c.writeWholeLocked(append(append([]byte(nil), c.head...), c.tail...)) // the tail has not wrapped yet
		}
	}
	c.writeWholeLocked(p)
}

func (c *Capture) writeWholeLocked(p []byte) {
	if c.whole == nil {
		return
	}
	if _, err := c.whole.Write(p); err != nil {
		_ = c.whole.Close()
		c.whole = nil
	}
}

// Spilled ends the stream and says whether the whole of it was kept elsewhere.
func (c *Capture) Spilled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole == nil {
		return false
	}
	err := c.whole.Close()
	c.whole = nil
	return err == nil
}

func (c *Capture) headRoom() int { return c.limit - c.limit/2 }

func (c *Capture) ringLocked(p []byte) {
	size := c.limit / 2
	if over := len(p) - size; over > 0 {
		p = p[over:]
	}
	if room := size - len(c.tail); room > 0 {
		n := min(room, len(p))
		c.tail = append(c.tail, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(c.tail[c.next:], p)
		c.next = (c.next + n) % size
		p = p[n:]
	}
}

// Total is how many bytes the stream has had.
func (c *Capture) Total() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// SHA256 is the hash of all bytes so far, in hex.
func (c *Capture) SHA256() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hex.EncodeToString(c.hash.Sum(nil))
}

// Truncated says whether bytes between head and tail were dropped.
func (c *Capture) Truncated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total > int64(c.limit)
}

// Bytes returns what was kept. If bytes were dropped, a line that says how
// many stands in their place; runes that the cut would split are dropped too.
func (c *Capture) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	tail := append(append([]byte(nil), c.tail[c.next:]...), c.tail[:c.next]...)
	if c.total <= int64(c.limit) {
		return append(append([]byte(nil), c.head...), tail...)
	}
	head, tail := wholeRunes(c.head, tail)
	dropped := c.total - int64(len(head)) - int64(len(tail))
	kept := fmt.Appendf(append([]byte(nil), head...), "\n[... %d bytes omitted ...]\n", dropped)
	return append(kept, tail...)
}

// wholeRunes trims a rune that is cut off at the end of head or the start of
// tail, so that text stays text.
func wholeRunes(head, tail []byte) (trimmedHead, trimmedTail []byte) {
	for i := 1; i < utf8.UTFMax && i <= len(head); i++ {
		if at := len(head) - i; utf8.RuneStart(head[at]) {
			if !utf8.FullRune(head[at:]) {
				head = head[:at]
			}
			break
		}
	}
	for i := 0; i < utf8.UTFMax-1 && len(tail) > 0 && !utf8.RuneStart(tail[0]); i++ {
		tail = tail[1:]
	}
	return head, tail
}

// newLine returns the newest line of output, as printable text, if there was
// any since it was last asked for.
func (c *Capture) newLine() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total == c.reported {
		return ""
	}
	c.reported = c.total
	newest := c.head
	if len(c.tail) > 0 {
		newest = append(append([]byte(nil), c.tail[c.next:]...), c.tail[:c.next]...)
	}
	newest = bytes.TrimSpace(newest)
	newest = newest[bytes.LastIndexByte(newest, '\n')+1:]
	if len(newest) > maxProgressLine {
		newest = newest[:maxProgressLine]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(newest), "?"))
}
