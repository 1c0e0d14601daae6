// Package devicekey decides, from OpenSSH authorized_keys lines, which device a
// proved public key is and which reverse ports it may hold.
//
// It promises:
//   - A file is taken whole or refused whole. Nothing in it is skipped: an
//     unknown option, an unreadable key or an ambiguous pair of lines is an
//     error, and all errors are reported at once, each as "path:line: message".
//   - A line without restrict and without a permitlisten of a fixed port grants
//     nothing, ever; it is an error.
//   - Whoever has not proved a listed key, or a certificate that a listed
//     authority signed, learns nothing ([ErrUnknownKey]). Whoever has proved one
//     that may not be used learns why ([Denied]).
//
// It assumes that the caller has verified the client's signature with the very
// key that it passes to [Set.Authorize] (CVE-2024-45337 was the opposite), and
// that the remote address is the one of the connection itself.
//
// It needs no lock: a [Set] never changes after it was made. It does no I/O
// beside [Load] and [LoadRevoked], looks up no host name and logs nothing.
package devicekey

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// ErrUnknownKey says that the file knows neither the key nor the certificate's
// authority, or that it does not accept the kind of key. Its text is constant,
// so that it teaches a stranger nothing.
var ErrUnknownKey = errors.New("unknown key")

// Denied is the refusal of a key that was proved and is known, but may not be
// used now, from here or in this way.
type Denied struct {
	Device string // "" when a certificate names no device of this gateway
	Reason string // one printable line, for the key's owner
}

func (d *Denied) Error() string {
	if d.Device == "" {
		return d.Reason
	}
	return d.Device + ": " + d.Reason
}

// Grant is what one proved key may do.
type Grant struct {
	Device          string
	Ports           []uint16  // sorted, unique, at least one
	Fingerprint     string    // SHA256:… of the plain key; for a certificate, of the certified key
	KeyID           string    // the certificate's key id, else ""
	Serial          uint64    // the certificate's serial, else 0
	Certificate     bool      // such a device is reachable by name only, see DESIGN section 4
	Expires         time.Time // the earlier of expiry-time and the certificate's end; zero is never
	Line            int       // the line that granted it
	NoTouchRequired bool      // signatures of this security key need no touch
}

// Entry is one line in words.
type Entry struct {
	Line          int
	Device        string   // "" on a cert-authority line
	Principals    []string // device names that certificates may claim; "*" is any
	Ports         []uint16
	Fingerprint   string
	KeyType       string
	From          string    // as written; "" is anywhere
	Expires       time.Time // expiry-time; zero is never
	CertAuthority bool
}

// Set is one accepted file. It is immutable and safe for concurrent use.
type Set struct {
	lines       []*line
	keys        map[string]*line   // by the plain key in wire format
	authorities map[string][]*line // by the authority's key in wire format
	names       map[string]claim   // by device name in lower case
	revoked     *Revoked
}

// maxFile bounds an authorized_keys file; 1 MiB holds about 5,000 devices.
const maxFile = 1 << 20

// Empty returns the set that knows no key.
func Empty() *Set {
	return &Set{}
}

// Load reads and parses the file at path. A missing file is an error that
// matches [os.ErrNotExist].
func Load(path string) (*Set, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// WithRevoked returns the set with r in place of whatever was revoked before.
// A nil r revokes nothing.
func (s *Set) WithRevoked(r *Revoked) *Set {
	with := *s
	with.revoked = r
	return &with
}

// Precheck judges a key that is only offered: whether asking for a signature
// makes sense. It lets a known key pass that is expired, revoked or comes from
// a wrong address, so that its owner, having proved it, can be told why. Every
// refusal is [ErrUnknownKey].
//
// noTouch says that the line waives the touch of a security key; x/crypto wants
// to hear it here, as Permissions.Extensions["no-touch-required"]. It is false
// for certificates, whose own extension x/crypto reads by itself.
func (s *Set) Precheck(key ssh.PublicKey) (noTouch bool, err error) {
	// Kind and size come first: what a stranger may make us compute is bounded
	// before anything else happens (CVE-2026-39829, huge RSA keys).
	if unacceptable(key) != nil {
		return false, ErrUnknownKey
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		if len(s.authorities[wire(cert.SignatureKey)]) == 0 {
			return false, ErrUnknownKey
		}
		return false, nil
	}
	l := s.keys[wire(key)]
	if l == nil {
		return false, ErrUnknownKey
	}
	return l.noTouch, nil
}

// Authorize says what key, which the client has proved to hold, may do when it
// connects from remote at now. The error is [ErrUnknownKey] or a [*Denied].
//
// A live session is checked again, after a reload or a change of the revoked
// keys, by calling Authorize on the new set with the same key and remote: it
// ends if that fails or the device differs, and each of its forwards whose port
// is no longer in Ports ends. A session also ends at its grant's Expires.
func (s *Set) Authorize(key ssh.PublicKey, remote netip.Addr, now time.Time) (*Grant, error) {
	if unacceptable(key) != nil {
		return nil, ErrUnknownKey
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		return s.authorizeCertificate(cert, remote, now)
	}
	l := s.keys[wire(key)]
	if l == nil {
		return nil, ErrUnknownKey
	}
	if reason := s.revoked.reason(key); reason != "" {
		return nil, &Denied{Device: l.device, Reason: reason}
	}
	if reason := l.refusal(remote, now); reason != "" {
		return nil, &Denied{Device: l.device, Reason: reason}
	}
	return &Grant{
		Device:          l.device,
		Ports:           slices.Clone(l.ports),
		Fingerprint:     ssh.FingerprintSHA256(key),
		Expires:         l.expires,
		Line:            l.number,
		NoTouchRequired: l.noTouch,
	}, nil
}

// Entries returns every line of the file in its order, expired ones too.
func (s *Set) Entries() []Entry {
	entries := make([]Entry, 0, len(s.lines))
	for _, l := range s.lines {
		entries = append(entries, Entry{
			Line:          l.number,
			Device:        l.device,
			Principals:    slices.Clone(l.principals),
			Ports:         slices.Clone(l.ports),
			Fingerprint:   ssh.FingerprintSHA256(l.key),
			KeyType:       l.key.Type(),
			From:          l.from.String(),
			Expires:       l.expires,
			CertAuthority: l.authority,
		})
	}
	return entries
}

// refusal says why the line may not be used from remote at now, or "".
func (l *line) refusal(remote netip.Addr, now time.Time) string {
	if !l.expires.IsZero() && !now.Before(l.expires) {
		return "this key expired at " + l.expires.UTC().Format(time.RFC3339)
	}
	if !l.from.admits(remote) {
		return fmt.Sprintf("this key may not be used from %s", remote.Unmap())
	}
	return ""
}

// wire is the key as a map index.
func wire(key ssh.PublicKey) string {
	return string(key.Marshal())
}

// readFile reads at most limit bytes and refuses a longer file.
func readFile(path string, limit int64) (data []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, tooLarge(path, limit)
	}
	return data, nil
}

func tooLarge(path string, limit int64) error {
	return fmt.Errorf("%s: larger than %d KiB", path, limit>>10)
}
