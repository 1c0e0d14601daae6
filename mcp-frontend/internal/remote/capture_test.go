package remote

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCaptureKeepsHeadAndTail(t *testing.T) {
	for _, limit := range []int{0, 1, 2, 10, 11, 64} {
		for _, size := range []int{0, 1, 9, 10, 11, 63, 64, 65, 1000} {
			for _, step := range []int{1, 3, 7, 1000} {
				input := make([]byte, size)
				for i := range input {
					input[i] = byte('a' + i%26)
				}
				c := newCapture(limit, nil)
				for rest := input; len(rest) > 0; {
					n := min(step, len(rest))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				want := string(input)
				if size > limit {
					head := limit - limit/2
					want = fmt.Sprintf("%s\n[... %d bytes omitted ...]\n%s", input[:head], size-limit, input[size-limit/2:])
				}
				if got := string(c.Bytes()); got != want {
					t.Errorf("limit %d, size %d, step %d: got %q, want %q", limit, size, step, got, want)
				}
				sum := sha256.Sum256(input)
				if c.Total() != int64(size) || c.SHA256() != hex.EncodeToString(sum[:]) || c.Truncated() != (size > limit) {
					t.Errorf("limit %d, size %d: got total %d, truncated %v", limit, size, c.Total(), c.Truncated())
				}
			}
		}
	}
}

func TestCaptureSplitsNoRune(t *testing.T) {
	for limit := 2; limit < 40; limit++ {
		c := newCapture(limit, nil)
		text := strings.Repeat("aé€😀", 100)
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		got := c.Bytes()
		if !utf8.Valid(got) {
			t.Errorf("limit %d: %q is not valid UTF-8", limit, got)
		}
		var dropped int
		_, after, _ := bytes.Cut(got, []byte("[... "))
		if _, err := fmt.Sscanf(string(after), "%d bytes", &dropped); err != nil {
			t.Fatal(err)
		}
		marker := len(fmt.Sprintf("\n[... %d bytes omitted ...]\n", dropped))
		if want := len(text) - (len(got) - marker); dropped != want {
			t.Errorf("limit %d: says %d bytes are omitted, want %d", limit, dropped, want)
		}
	}
}

func TestCaptureShowsTheNewestLineOnce(t *testing.T) {
	c := newCapture(100, nil)
	for _, step := range []struct{ write, want string }{
		{"", ""},
		{"first\nsecond\n", "second"},
		{"", ""},
		{"\x1b[31mred", "[31mred"},
		{strings.Repeat("x", 500), strings.Repeat("x", 50)}, // what the tail of 50 bytes holds
	} {
		if _, err := c.Write([]byte(step.write)); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(c.newLine()); got != step.want {
			t.Errorf("after %q: got %q, want %q", step.write, got, step.want)
		}
	}
}
