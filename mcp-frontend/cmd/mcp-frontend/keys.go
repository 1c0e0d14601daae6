package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type keysCmd struct {
	Generate keysGenerateCmd `cmd:"" help:"Make NAME.key and print its public key."`
	Import   keysImportCmd   `cmd:"" help:"Read a private key from stdin, or a file, into NAME.key."`
	List     keysListCmd     `cmd:"" help:"List the keys."`
	Public   keysPublicCmd   `cmd:"" help:"Print the public key of NAME.key, for a device's authorized_keys."`
}

type keysDirFlag struct {
	KeysDir string `default:"data/keys" placeholder:"DIR" help:"Directory of the client keys (default data/keys)."`
}

// keyName keeps a name inside the directory.
var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (f keysDirFlag) file(name string) (string, error) {
	if !keyName.MatchString(name) {
		return "", fmt.Errorf("%q is no name for a key: use letters, digits, dot, dash and underscore", name)
	}
	return filepath.Join(f.KeysDir, name+".key"), nil
}

func printPublic(w io.Writer, key ssh.Signer, comment string) error {
	_, err := fmt.Fprintln(w, keyfile.PublicLine(key.PublicKey(), comment))
	return err
}

type keysGenerateCmd struct {
	keysDirFlag
	Name string `arg:""`
}

// Run makes a key.
func (c *keysGenerateCmd) Run(_ context.Context, streams program.Streams) error {
	path, err := c.file(c.Name)
	if err != nil {
		return err
	}
	key, err := keyfile.Create(path, c.Name)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already; it is not replaced", path)
	}
	if err != nil {
		return err
	}
	return printPublic(streams.Out, key, c.Name)
}

type keysImportCmd struct {
	keysDirFlag
	From string `placeholder:"FILE" help:"Read FILE in place of stdin."`
	Name string `arg:""`
}

// Run stores the key on stdin, or in a file that may be readable by more than
// its owner (a mounted Secret). To import the same key again changes nothing,
// so that it can be done at each start.
func (c *keysImportCmd) Run(_ context.Context, streams program.Streams) error {
	path, err := c.file(c.Name)
	if err != nil {
		return err
	}
	from := streams.In
	if c.From != "" {
		f, err := os.Open(c.From)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	key, err := keyfile.Import(path, from)
	if errors.Is(err, fs.ErrExist) {
		stored, loadErr := keyfile.Load(path)
		if loadErr != nil || !bytes.Equal(stored.PublicKey().Marshal(), key.PublicKey().Marshal()) {
			return fmt.Errorf("%s exists already; it is not replaced", path)
		}
	} else if err != nil {
		return err
	}
	return printPublic(streams.Out, key, c.Name)
}

type keysListCmd struct{ keysDirFlag }

// Run lists the keys with their fingerprints.
func (c *keysListCmd) Run(_ context.Context, streams program.Streams) error {
	files, err := os.ReadDir(c.KeysDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		name, isKey := strings.CutSuffix(f.Name(), ".key")
		if !isKey {
			continue
		}
		about := ""
		if key, err := keyfile.Load(filepath.Join(c.KeysDir, f.Name())); err != nil {
			about = "unusable: " + err.Error()
		} else {
			about = key.PublicKey().Type() + " " + ssh.FingerprintSHA256(key.PublicKey())
		}
		if _, err := fmt.Fprintf(streams.Out, "%s  %s\n", name, about); err != nil {
			return err
		}
	}
	return nil
}

type keysPublicCmd struct {
	keysDirFlag
	Name string `arg:""`
}

// Run prints a public key.
func (c *keysPublicCmd) Run(_ context.Context, streams program.Streams) error {
	path, err := c.file(c.Name)
	if err != nil {
		return err
	}
	key, err := keyfile.Load(path)
	if err != nil {
		return err
	}
	return printPublic(streams.Out, key, c.Name)
}
