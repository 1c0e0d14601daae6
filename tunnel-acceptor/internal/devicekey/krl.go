package devicekey

import (
	"crypto/sha1" //nolint:gosec // see revoked.go
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"

	"golang.org/x/crypto/ssh"
)

// The binary revocation list, as OpenSSH's PROTOCOL.krl describes it and krl.c
// reads it. It is a header and sections, each a type byte and a string.
const (
	krlMagic   = "SSHKRL\n\x00"
	krlVersion = 1

	sectionCertificates = 1
	sectionKeys         = 2
	sectionSHA1         = 3
	sectionSignature    = 4
	sectionSHA256       = 5

	certSerialList   = 0x20
	certSerialRange  = 0x21
	certSerialBitmap = 0x22
	certKeyID        = 0x23
)

// serialRange includes both ends.
type serialRange struct {
	low, high uint64
}

// serialBitmap has bit n set for serial offset+n; bits is big-endian, so that
// bit 0 is the lowest one of the last byte.
type serialBitmap struct {
	offset uint64
	bits   []byte
}

func (b serialBitmap) has(serial uint64) bool {
	if serial < b.offset || (serial-b.offset)/8 >= uint64(len(b.bits)) {
		return false
	}
	n := serial - b.offset
	return b.bits[uint64(len(b.bits))-1-n/8]&(1<<(n%8)) != 0
}

// addKRL adds what follows the magic number.
func (r *Revoked) addKRL(data []byte) error {
	in := &reader{rest: data}
	if version := in.uint32(); in.err == nil && version != krlVersion {
		return fmt.Errorf("format version %d is not known", version)
	}
	in.uint64() // the list's number
	in.uint64() // when it was made
	if flags := in.uint64(); flags != 0 {
		return fmt.Errorf("flags %#x are not known", flags)
	}
	in.string() // reserved
	in.string() // comment
	for in.more() {
		kind, body := in.byte(), &reader{rest: in.string()}
		if in.err != nil {
			break
		}
		if err := r.addSection(kind, body); err != nil {
			return err
		}
	}
	return in.err
}

func (r *Revoked) addSection(kind byte, in *reader) error {
	switch kind {
	case sectionCertificates:
		return r.addCertificates(in)
	case sectionKeys:
		for in.more() {
			key, err := in.key()
			if err != nil {
				return err
			}
			r.keys[wire(plain(key))] = true
		}
	case sectionSHA1:
		for in.more() {
			hash := in.string()
			if len(hash) != sha1.Size {
				return errors.New("a SHA-1 hash has the wrong length")
			}
			r.sha1s[[sha1.Size]byte(hash)] = true
		}
	case sectionSHA256:
		for in.more() {
			hash := in.string()
			if len(hash) != sha256.Size {
				return errors.New("a SHA-256 hash has the wrong length")
			}
			r.sha256s[[sha256.Size]byte(hash)] = true
		}
	case sectionSignature:
		// OpenSSH stopped checking these; a signature that nobody checks is worse than none.
		return errors.New("it is signed, which is not supported: make it without a signature")
	default:
		return fmt.Errorf("section type %d is not known", kind)
	}
	return in.err
}

// addCertificates reads the revoked certificates of one authority, or of every
// one if none is named.
func (r *Revoked) addCertificates(in *reader) error {
	authority := ""
	if blob := in.string(); len(blob) > 0 {
		key, err := readKey(blob)
		if err != nil {
			return err
		}
		authority = wire(plain(key))
	}
	in.string() // reserved
	if in.err != nil {
		return in.err
	}
	certs := r.certs[authority]
	if certs == nil {
		certs = &revokedCerts{keyIDs: map[string]bool{}}
		r.certs[authority] = certs
	}
	for in.more() {
		kind, body := in.byte(), &reader{rest: in.string()}
		if in.err != nil {
			break
		}
		if err := certs.addSection(kind, body); err != nil {
			return err
		}
	}
	return in.err
}

func (c *revokedCerts) addSection(kind byte, in *reader) error {
	switch kind {
	case certSerialList:
		for in.more() {
			serial := in.uint64()
			if err := c.addRange(serial, serial, in); err != nil {
				return err
			}
		}
	case certSerialRange:
		low, high := in.uint64(), in.uint64()
		if err := c.addRange(low, high, in); err != nil {
			return err
		}
	case certSerialBitmap:
		b := serialBitmap{offset: in.uint64(), bits: in.string()}
		if in.err == nil && !b.valid() {
			return errors.New("a bitmap of serials is not valid")
		}
		c.bitmaps = append(c.bitmaps, b)
	case certKeyID:
		for in.more() {
			if id := in.string(); in.err == nil {
				c.keyIDs[string(id)] = true
			}
		}
	default:
		return fmt.Errorf("certificate section type %#x is not known", kind)
	}
	if in.err == nil && len(in.rest) > 0 {
		return errors.New("a certificate section has unread data")
	}
	return in.err
}

// addRange refuses what OpenSSH refuses (krl.c: ssh_krl_revoke_cert_by_serial_range):
// serial 0 is every certificate that was given none.
func (c *revokedCerts) addRange(low, high uint64, in *reader) error {
	if in.err != nil {
		return in.err
	}
	if low == 0 || low > high {
		return fmt.Errorf("the serials %d to %d are not a range", low, high)
	}
	c.serials = append(c.serials, serialRange{low, high})
	return nil
}

// valid refuses a negative number, one that runs past the last serial, and serial 0.
func (b serialBitmap) valid() bool {
	if len(b.bits) > 0 && b.bits[0]&0x80 != 0 {
		return false
	}
	length := uint64(new(big.Int).SetBytes(b.bits).BitLen())
	return length <= math.MaxUint64-b.offset && !b.has(0)
}

// reader takes values off the front of data. The first that is cut off sets err,
// after which all are zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) more() bool {
	return r.err == nil && len(r.rest) > 0
}

func (r *reader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.rest)) {
		r.err = errors.New("it is cut off")
	}
	if r.err != nil {
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() []byte {
	return r.take(uint64(r.uint32()))
}

func (r *reader) key() (ssh.PublicKey, error) {
	blob := r.string()
	if r.err != nil {
		return nil, r.err
	}
	return readKey(blob)
}
