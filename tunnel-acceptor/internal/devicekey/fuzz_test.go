package devicekey_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

// Whatever is accepted is restricted, names its ports, and no line of it was
// skipped.
func FuzzParse(f *testing.F) {
	key, ca := text(signer(f, 1).PublicKey()), text(signer(f, 2).PublicKey())
	for _, seed := range []string{
		`restrict,port-forwarding,permitlisten="22222" ` + key + " edge-1",
		`restrict,permitlisten="[::1]:22222",from="10.0.0.0/8,!10.0.0.1",expiry-time="20271231Z" ` + key + " edge-1\n# x\n\n" +
			`cert-authority,restrict,principals="*",permitlisten="22" ` + ca + " device CA",
		"restrict " + key, key + " edge-1", `restrict,permitlisten="1\"`, "-----BEGIN OPENSSH PRIVATE KEY-----\nx",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := devicekey.Parse("f", data)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "f:") {
					t.Errorf("not a problem of a line: %q", line)
				}
			}
			return
		}
		var lines []string
		for line := range strings.SplitSeq(string(data), "\n") {
			line = strings.Trim(strings.TrimRight(line, "\r"), " \t")
			if line != "" && line[0] != '#' {
				lines = append(lines, line)
			}
		}
		entries := set.Entries()
		if len(entries) != len(lines) {
			t.Fatalf("%d entries from %d lines", len(entries), len(lines))
		}
		for i, entry := range entries {
			if len(entry.Ports) == 0 || entry.Ports[0] == 0 {
				t.Errorf("no fixed port: %+v", entry)
			}
			if !strings.Contains(strings.ToLower(lines[i]), "restrict") {
				t.Errorf("not restricted: %q", lines[i])
			}
			if entry.CertAuthority != (entry.Device == "") || entry.CertAuthority != (len(entry.Principals) > 0) {
				t.Errorf("neither a device nor an authority: %+v", entry)
			}
		}
	})
}

func FuzzParseRevoked(f *testing.F) {
	f.Add([]byte(text(signer(f, 1).PublicKey())))
	dir := f.TempDir()
	write(f, dir, "spec", "serial: 5\nserial: 7-90\nid: x\nsha1: "+text(signer(f, 1).PublicKey())+"\n")
	write(f, dir, "ca.pub", text(signer(f, 2).PublicKey())+"\n")
	keygen(f, dir, "-k", "-f", "krl", "-s", "ca.pub", "spec")
	krl, err := os.ReadFile(filepath.Join(dir, "krl"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(krl)
	ca := signer(f, 2)
	cert := &ssh.Certificate{
		Key: signer(f, 3).PublicKey(), Serial: 5, CertType: ssh.UserCert, ValidPrincipals: []string{"edge-1"}, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		f.Fatal(err)
	}
	set := parse(f, `cert-authority,restrict,principals="edge-1",permitlisten="1" `+text(ca.PublicKey()))
	f.Fuzz(func(t *testing.T, data []byte) {
		revoked, err := devicekey.ParseRevoked("revoked", data)
		if err != nil {
			return
		}
		var denied *devicekey.Denied
		if _, err := set.WithRevoked(revoked).Authorize(cert, home, now); err != nil && !errors.As(err, &denied) {
			t.Error(err)
		}
	})
}
