package sshpool

import (
	"strings"
	"testing"
)

// What an unauthenticated peer chose must not steer a terminal, nor fill a
// model's context: the names in its KEXINIT, for one.
func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"ssh-ed25519, rsa-sha2-512":       "ssh-ed25519, rsa-sha2-512",
		"\x1b]0;OWNED\x07\x1b[2K\rdevice": "?]0;OWNED??[2K?device",
		"\xff\xfe":                        "??",
		"line\nbreak":                     "line?break",
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := printable(strings.Repeat("x", 10000)); len(got) > 210 {
		t.Errorf("10,000 characters became %d", len(got))
	}
	h := &hostKeys{path: "known_hosts"}
	if e := h.otherKinds([]string{"\x1b[2J"}); strings.ContainsRune(e.Error(), '\x1b') {
		t.Errorf("a peer's algorithm name passes as it is: %q", e.Error())
	}
}
