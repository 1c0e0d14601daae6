package devicekey

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // OpenSSH's revocation lists name keys by SHA-1 too; a collision only refuses more
	"crypto/sha256"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Revoked is a set of keys and certificates that are refused whatever the
// authorized_keys file says. It is immutable and safe for concurrent use.
type Revoked struct {
	keys    map[string]bool            // plain keys in wire format
	sha1s   map[[sha1.Size]byte]bool   // of plain keys in wire format
	sha256s map[[sha256.Size]byte]bool // the same
	certs   map[string]*revokedCerts   // by the authority's key in wire format; "" is every authority
}

// revokedCerts are the certificates of one authority.
type revokedCerts struct {
	serials []serialRange
	bitmaps []serialBitmap
	keyIDs  map[string]bool
}

// maxRevoked bounds a file of revoked keys.
const maxRevoked = 16 << 20

// LoadRevoked reads OpenSSH's RevokedKeys file: public keys, one a line, or a
// binary revocation list made by ssh-keygen -k. What it cannot read is an error:
// a revocation that is skipped lets the thief in.
func LoadRevoked(path string) (*Revoked, error) {
	data, err := readFile(path, maxRevoked)
	if err != nil {
		return nil, err
	}
	return ParseRevoked(path, data)
}

// ParseRevoked is LoadRevoked for a file's content; path is for its errors.
func ParseRevoked(path string, data []byte) (*Revoked, error) {
	r := newRevoked()
	if list, ok := bytes.CutPrefix(data, []byte(krlMagic)); ok {
		if err := r.addKRL(list); err != nil {
			return nil, fmt.Errorf("%s: key revocation list: %w", path, err)
		}
		return r, nil
	}
	found := &problems{path: path}
	number := 0
	for raw := range bytes.Lines(data) {
		number++
		text := strings.Trim(strings.TrimRight(string(raw), "\r\n"), " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		key, _, err := parseKey(text)
		if err != nil {
			found.add(number, "%v", err)
			continue
		}
		r.keys[wire(plain(key))] = true
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	return r, nil
}

func newRevoked() *Revoked {
	return &Revoked{
		keys:    map[string]bool{},
		sha1s:   map[[sha1.Size]byte]bool{},
		sha256s: map[[sha256.Size]byte]bool{},
		certs:   map[string]*revokedCerts{},
	}
}

// reason says what of key is revoked, or "". For a certificate that may be the
// certified key, the certificate or its authority (krl.c: ssh_krl_check_key).
func (r *Revoked) reason(key ssh.PublicKey) string {
	if r == nil {
		return ""
	}
	if r.hasKey(plain(key)) {
		return "this key is revoked"
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return ""
	}
	if r.hasKey(cert.SignatureKey) {
		return "the certificate's authority is revoked"
	}
	if r.certs[""].has(cert) || r.certs[wire(cert.SignatureKey)].has(cert) {
		return fmt.Sprintf("the certificate is revoked (serial %d, key id %.100q)", cert.Serial, cert.KeyId)
	}
	return ""
}

func (r *Revoked) hasKey(key ssh.PublicKey) bool {
	blob := key.Marshal()
	return r.keys[string(blob)] || r.sha256s[sha256.Sum256(blob)] ||
		r.sha1s[sha1.Sum(blob)] //nolint:gosec // see the import
}

func (c *revokedCerts) has(cert *ssh.Certificate) bool {
	if c == nil {
		return false
	}
	if c.keyIDs[cert.KeyId] {
		return true
	}
	// Zero is the serial of certificates that were given none (krl.c: is_key_revoked).
	if cert.Serial == 0 {
		return false
	}
	for _, r := range c.serials {
		if r.low <= cert.Serial && cert.Serial <= r.high {
			return true
		}
	}
	for _, b := range c.bitmaps {
		if b.has(cert.Serial) {
			return true
		}
	}
	return false
}

// plain is the key without its certificate: a certificate in a plain list
// revokes the key it certifies (authfile.c: sshkey_in_file).
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}
