package approvals

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Lines say what a human must know to decide, each as a name and a text that is
// safe to show: what would steer a terminal, or hide or reorder text, is escaped.
func (a Approval) Lines() [][2]string {
	lines := [][2]string{{"device", Visible(a.Device)}, {"command", Visible(a.Command)}}
	if a.Cwd != "" {
		lines = append(lines, [2]string{"cwd", Visible(a.Cwd)})
	}
	if a.StdinSHA256 != "" {
		lines = append(lines, [2]string{"stdin", fmt.Sprintf("%d bytes, sha256 %s", a.StdinBytes, a.StdinSHA256)})
	}
	who := fmt.Sprintf("client %q %q (unverified), session %s", a.ClientName, a.ClientVersion, a.Session)
	if a.PeerUID != nil {
		who += fmt.Sprintf(", uid %d", *a.PeerUID)
	}
	return append(lines, [2]string{"asked by", who + ", with " + a.Tool}, [2]string{"needs a yes by", Visible(a.Rule)})
}

// Question is what a client shows to its human.
func (a Approval) Question() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Run this command on %s?\n", Visible(a.Device))
	for _, line := range a.Lines() {
		fmt.Fprintf(&b, "\n%s: %s", line[0], line[1])
	}
	return b.String()
}

// Visible escapes every character of text that is not seen as itself: controls,
// those that reorder or hide text, spaces that are none, and what is no UTF-8.
func Visible(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
		text = text[size:]
	}
	return b.String()
}
