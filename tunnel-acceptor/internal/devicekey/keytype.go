package devicekey

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// An RSA key below 3072 bits is too weak; one above 4096 only costs the gateway
// time, at a stranger's choice.
const (
	minRSABits = 3072
	maxRSABits = 4096
)

// unacceptable says why a kind or size of key is refused, whoever holds it; for
// a certificate it judges the certified key.
func unacceptable(key ssh.PublicKey) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		bits := rsaBits(key)
		if bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key of %d bits: use ed25519, or RSA of %d to %d bits", bits, minRSABits, maxRSABits)
		}
		return nil
	default:
		return fmt.Errorf("key type %s is not accepted: use ssh-ed25519, %s, %s or RSA of %d to %d bits",
			key.Type(), ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, minRSABits, maxRSABits)
	}
}

// rsaBits is 0 for what is not a readable RSA key, which is below any minimum.
func rsaBits(key ssh.PublicKey) int {
	withCrypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	public, ok := withCrypto.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return 0
	}
	return public.N.BitLen()
}

// parseKey reads "type base64 comment". The declared type must be the one inside
// the key, as in OpenSSH's sshkey_read: without that, x/crypto before 0.54 took
// the option in "restrict AAAA…" for a type and the key for an unrestricted one
// (commit 7626c50).
//
// Its errors never quote the text, which may be a misplaced secret.
func parseKey(text string) (key ssh.PublicKey, comment string, err error) {
	declared, rest := cutField(text)
	encoded, comment := cutField(rest)
	if encoded == "" {
		return nil, "", errors.New("no readable public key: a key is its type, its base64 text and a comment")
	}
	blob, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, "", errors.New("the public key is not valid base64: it may be cut off or broken into lines")
	}
	key, err = readKey(blob)
	if err != nil {
		return nil, "", err
	}
	if key.Type() != declared {
		return nil, "", fmt.Errorf("the key type written before the public key differs from the one in it, %s", key.Type())
	}
	return key, comment, nil
}

// readKey reads a key in wire format. The library's reason may quote the key's
// own bytes, so it is made printable.
func readKey(blob []byte) (ssh.PublicKey, error) {
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		reason := strings.TrimPrefix(strconv.QuoteToGraphic(err.Error()), `"ssh: `)
		return nil, fmt.Errorf("a public key is not readable: %.200s", strings.Trim(reason, `"`))
	}
	return key, nil
}

// cutField splits text after its first run of non-blank characters.
func cutField(text string) (field, rest string) {
	end := strings.IndexAny(text, " \t")
	if end < 0 {
		return text, ""
	}
	return text[:end], strings.TrimLeft(text[end:], " \t")
}
