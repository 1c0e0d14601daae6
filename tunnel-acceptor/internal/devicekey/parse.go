package devicekey

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// line is one device's or authority's line.
type line struct {
	number     int
	key        ssh.PublicKey
	device     string // "" on a cert-authority line
	authority  bool
	principals []string // on a cert-authority line at least one, anyPrincipal only alone
	ports      []uint16 // sorted, unique
	from       *sources
	expires    time.Time
	noTouch    bool
}

// maxLine is far above any line of ours: an RSA key of 4096 bits takes 720 bytes.
const maxLine = 8 << 10

// problems collects what is wrong with a file.
type problems struct {
	path  string
	found []problem
}

type problem struct {
	line    int
	message string
}

func (p *problems) add(number int, format string, args ...any) {
	p.found = append(p.found, problem{number, fmt.Sprintf(format, args...)})
}

// err is nil or one error of one "path:line: message" per line, in file order.
func (p *problems) err() error {
	slices.SortStableFunc(p.found, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var all []error
	for _, one := range p.found {
		all = append(all, fmt.Errorf("%s:%d: %s", p.path, one.line, one.message))
	}
	return errors.Join(all...)
}

// Parse reads the text of an authorized_keys file; path only appears in errors.
func Parse(path string, data []byte) (*Set, error) {
	if len(data) > maxFile {
		return nil, tooLarge(path, maxFile)
	}
	found := &problems{path: path}
	var lines []*line
	number, inPrivateKey := 0, false
	for raw := range bytes.Lines(data) {
		number++
		text := strings.Trim(strings.TrimRight(string(raw), "\r\n"), " \t")
		switch {
		case inPrivateKey:
			inPrivateKey = !strings.Contains(text, "-----END ")
		case strings.Contains(text, "-----BEGIN ") && strings.Contains(text, "PRIVATE KEY-----"):
			inPrivateKey = true
			found.add(number, "this is a private key: remove it, count it as leaked, make a new one and put the line of its .pub file here")
		case text == "" || text[0] == '#':
		case len(text) > maxLine:
			found.add(number, "longer than %d KiB", maxLine>>10)
		default:
			report := func(format string, args ...any) { found.add(number, format, args...) }
			if l := parseLine(number, text, report); l != nil {
				lines = append(lines, l)
			}
		}
	}
	set := index(lines, found)
	if err := found.err(); err != nil {
		return nil, err
	}
	return set, nil
}

// parseLine returns nil if it reported anything.
func parseLine(number int, text string, report func(format string, args ...any)) *line {
	good := true
	bad := func(format string, args ...any) {
		good = false
		report(format, args...)
	}
	if r, ok := unprintable(text); ok {
		bad("unprintable character %U", r)
		return nil
	}
	if first, _ := cutField(text); strings.HasPrefix(first, "ssh-") || strings.HasPrefix(first, "ecdsa-") || strings.HasPrefix(first, "sk-") {
		bad(`no options: a line begins with restrict,port-forwarding,permitlisten="PORT" before the key`)
		return nil
	}
	options, rest, err := splitOptions(text)
	if err != nil {
		bad("%v", err)
		return nil
	}
	l := &line{number: number}
	for _, err := range l.apply(options) {
		bad("%v", err)
	}
	key, comment, err := parseKey(rest)
	if err != nil {
		bad("%v", err)
		return nil
	}
	l.key = key
	if _, ok := key.(*ssh.Certificate); ok {
		bad("this is a certificate: list the key that signed it, with cert-authority")
	} else if err := unacceptable(key); err != nil {
		bad("%v", err)
	}
	if !l.authority {
		l.device = comment
		if comment == "" {
			bad("no comment after the key: it is the device's name")
		} else if err := checkDeviceName(comment); err != nil {
			bad("the comment %.100q is not a device name: %v", comment, err)
		}
	}
	if !good {
		return nil
	}
	return l
}

// unprintable finds what would corrupt a terminal or a log that shows the line.
func unprintable(text string) (rune, bool) {
	for _, r := range text {
		if r != '\t' && !unicode.IsPrint(r) || r == utf8.RuneError {
			return r, true
		}
	}
	return 0, false
}

var deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// checkDeviceName keeps names usable as CONNECT hosts, file names and words, and
// distinct from the addresses that stand for a port.
func checkDeviceName(name string) error {
	if user, host, ok := strings.Cut(name, "@"); ok && user != "" && deviceName.MatchString(host) {
		return fmt.Errorf("rename it, for example to %s (ssh-keygen writes user@host by itself)", host)
	}
	if !deviceName.MatchString(name) {
		return errors.New("use 1 to 63 letters, digits, dots, underscores and hyphens, beginning with a letter or digit")
	}
	bare := strings.TrimRight(name, ".")
	if _, err := netip.ParseAddr(bare); err == nil {
		return errors.New("an IP address is not a name")
	}
	if strings.EqualFold(bare, "localhost") {
		return errors.New("localhost is not a name")
	}
	return nil
}
