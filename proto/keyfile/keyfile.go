// Package keyfile reads and makes OpenSSH private key files, for the
// acceptor's host keys and the frontend's client keys. A key that others may
// read is refused, as ssh(1) does; so is one that needs a passphrase, as
// nobody is there to type it.
package keyfile

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// maxSize bounds a key file; the largest RSA keys take about 13 KiB.
const maxSize = 64 << 10

// Load reads the private key at path, in OpenSSH or PEM format. Its error says
// what to do about it.
func Load(path string) (ssh.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o): run chmod 600 %s", path, mode, path)
	}
	_, signer, err := read(f, path)
	return signer, err
}

// read reads and parses a private key; from names its source in errors.
func read(r io.Reader, from string) (data []byte, signer ssh.Signer, err error) {
	data, err = io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", from, err)
	}
	if len(data) > maxSize {
		return nil, nil, fmt.Errorf("%s is too large for a private key", from)
	}
	signer, err = ssh.ParsePrivateKey(data)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, nil, fmt.Errorf("%s has a passphrase, which nobody is there to type: remove it from a copy with ssh-keygen -p -N ''", from)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s holds no private key that can be read: %w", from, err)
	}
	return data, signer, nil
}

// Import stores the private key that r holds at path, as Create does.
func Import(path string, r io.Reader) (ssh.Signer, error) {
	data, signer, err := read(r, "the input")
	if err != nil {
		return nil, err
	}
	return signer, store(path, data, signer.PublicKey(), "")
}

// Create makes an ed25519 key at path (0600, its directory 0700) and the
// public key at path.pub. It never replaces a file.
func Create(path, comment string) (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return signer, store(path, pem.EncodeToMemory(block), signer.PublicKey(), comment)
}

func store(path string, private []byte, public ssh.PublicKey, comment string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the key's directory: %w", err)
	}
	if err := writeNew(path, private, 0o600); err != nil {
		return err
	}
	return writeNew(path+".pub", []byte(PublicLine(public, comment)+"\n"), 0o644)
}

// PublicLine is key as a line of an authorized_keys or .pub file, without its
// newline.
func PublicLine(key ssh.PublicKey, comment string) string {
	line := string(ssh.MarshalAuthorizedKey(key))
	line = line[:len(line)-1]
	if comment != "" {
		line += " " + comment
	}
	return line
}

// writeNew writes data to a temporary file beside path and links it into
// place, so that a crash leaves the whole file or none.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
