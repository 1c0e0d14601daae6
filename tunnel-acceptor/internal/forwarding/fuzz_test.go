package forwarding

import (
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Whatever a device sends as a forward is one of its own labels with a port
// that exists, or an error.
func FuzzForward(f *testing.F) {
	for _, r := range []forwardRequest{{"localhost", 22222}, {"", 0}, {"*", 65536}, {"\x00", 1}} {
		f.Add(ssh.Marshal(r))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := parseForward(payload)
		if err != nil {
			for _, c := range err.Error() {
				if c < ' ' || c == 0x7f {
					t.Errorf("the error carries %q", c)
				}
			}
			return
		}
		if !slices.Contains(labels, r.label) {
			t.Errorf("accepted %+v", r)
		}
		if got := ssh.Marshal(forwardRequest{r.label, uint32(r.port)}); !slices.Equal(got, payload) {
			t.Errorf("%x was read as %x", payload, got)
		}
	})
}

// No text of a peer can drive a terminal.
func FuzzPrintable(f *testing.F) {
	f.Add("SSH-2.0-\x1b[31m", 10)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = max(0, limit%1000)
		for _, c := range printable(text, limit) {
			if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
				t.Errorf("%q remains", c)
			}
		}
	})
}
