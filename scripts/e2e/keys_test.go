package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// key is a key pair on disk, made by OpenSSH.
type key struct {
	path        string // of the private key, 0600; the public one is path + ".pub"
	public      string // "ssh-ed25519 AAAA…", without a comment
	fingerprint string // "SHA256:…"
	signer      ssh.Signer
}

func newKey(t *testing.T) key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	output(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path)
	return loadKey(t, path)
}

func loadKey(t *testing.T, path string) key {
	t.Helper()
	private, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key{
		path:        path,
		public:      strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))),
		fingerprint: ssh.FingerprintSHA256(signer.PublicKey()),
		signer:      signer,
	}
}
