package devicekey_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

func write(tb testing.TB, dir, name, content string) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func loadRevoked(tb testing.TB, path string) *devicekey.Revoked {
	tb.Helper()
	revoked, err := devicekey.LoadRevoked(path)
	if err != nil {
		tb.Fatal(err)
	}
	return revoked
}

// Each list is made by the real ssh-keygen -k, and holds other things too.
func TestRevokedCertificates(t *testing.T) {
	dir, ca := authority(t)
	other := keygenKey(t, "-t", "ed25519")
	write(t, dir, "other.pub", text(other)+"\n")
	set := parse(t, `cert-authority,restrict,principals="edge-4",permitlisten="22224" `+text(ca))
	cert := issue(t, dir, "-n", "edge-4", "-z", "1000")
	unnumbered := issue(t, dir, "-n", "edge-4")

	hash := func(key ssh.PublicKey) string { return "hash: " + ssh.FingerprintSHA256(key) }
	const bySerial = `the certificate is revoked (serial 1000, key id "the id")`
	var sparse, dense strings.Builder
	for i := 900; i < 1100; i += 2 {
		dense.WriteString("serial: " + strconv.Itoa(i) + "\n")
		sparse.WriteString("serial: " + strconv.Itoa(i*i*i) + "\n")
	}
	for name, c := range map[string]struct {
		spec string
		args []string
		want string
	}{
		"nothing":         {"", nil, ""},
		"other serial":    {"serial: 999\nserial: 1001\nid: other", []string{"-s", "ca.pub"}, ""},
		"serial":          {"serial: 1000", []string{"-s", "ca.pub"}, bySerial},
		"range":           {"serial: 5-2000", []string{"-s", "ca.pub"}, bySerial},
		"list":            {sparse.String() + "serial: 1000", []string{"-s", "ca.pub"}, bySerial},
		"bitmap":          {dense.String(), []string{"-s", "ca.pub"}, bySerial},
		"bitmap, not it":  {strings.ReplaceAll(dense.String(), "serial: 1000\n", ""), []string{"-s", "ca.pub"}, ""},
		"key id":          {"id: the id", []string{"-s", "ca.pub"}, bySerial},
		"any authority":   {"serial: 1000", []string{"-s", "none"}, bySerial},
		"other authority": {"serial: 1000\nid: the id", []string{"-s", "other.pub"}, ""},
		"key":             {"key: " + text(cert.Key), nil, "this key is revoked"},
		"sha1":            {"sha1: " + text(cert.Key), nil, "this key is revoked"},
		"sha256":          {"sha256: " + text(cert.Key), nil, "this key is revoked"},
		"hash":            {hash(cert.Key), nil, "this key is revoked"},
		"authority's key": {"key: " + text(ca), nil, "the certificate's authority is revoked"},
		"other key":       {"key: " + text(other) + "\nsha1: " + text(other) + "\n" + hash(other), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, dir, "spec", c.spec+"\n")
			keygen(t, dir, append(append([]string{"-k", "-f", "krl"}, c.args...), "spec")...)
			with := set.WithRevoked(loadRevoked(t, filepath.Join(dir, "krl")))
			_, err := with.Authorize(cert, home, now)
			if c.want != "" {
				wantDenied(t, err, "edge-4", c.want)
			} else if err != nil {
				t.Error(err)
			}
			if _, err := with.Precheck(cert); err != nil {
				t.Errorf("Precheck: %v", err)
			}
			if _, err := with.Authorize(unnumbered, home, now); (c.want == bySerial && name != "key id") && err != nil {
				t.Errorf("a certificate without a serial: %v", err)
			}
			if _, err := set.Authorize(cert, home, now); err != nil {
				t.Errorf("the set itself changed: %v", err)
			}
		})
	}
}

func TestRevokedKeys(t *testing.T) {
	one, two := signer(t, 1).PublicKey(), signer(t, 2).PublicKey()
	set := parse(t, `restrict,permitlisten="1" `+text(one)+" one", `restrict,permitlisten="2" `+text(two)+" two")
	revoked := loadRevoked(t, write(t, t.TempDir(), "revoked", "# stolen\n\n"+text(one)+" pi@edge stolen\r\n"))
	set = set.WithRevoked(revoked)
	_, err := set.Authorize(one, home, now)
	wantDenied(t, err, "one", "this key is revoked")
	if _, err := set.Authorize(two, home, now); err != nil {
		t.Error(err)
	}
	if _, err := set.WithRevoked(nil).Authorize(one, home, now); err != nil {
		t.Error(err)
	}
}

// A certificate in the plain list revokes the key that it certifies, as in OpenSSH.
func TestRevokedKeysByCertificate(t *testing.T) {
	dir, _ := authority(t)
	cert := issue(t, dir, "-n", "edge-4")
	set := parse(t, `restrict,permitlisten="1" `+text(cert.Key)+" one")
	_, err := set.WithRevoked(loadRevoked(t, filepath.Join(dir, "device-cert.pub"))).Authorize(cert.Key, home, now)
	wantDenied(t, err, "one", "this key is revoked")
}

func TestUnreadableRevoked(t *testing.T) {
	dir := t.TempDir()
	if _, err := devicekey.LoadRevoked(filepath.Join(dir, "missing")); err == nil {
		t.Error("missing file: accepted")
	}
	str := func(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
	num := func(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
	section := func(kind byte, body string) string { return string([]byte{kind}) + str(body) }
	certs := func(sub string) string { return section(1, str("")+str("")+sub) }
	header := "SSHKRL\n\x00" + "\x00\x00\x00\x01" + num(1) + num(0) + num(0) + str("") + str("")
	if _, err := devicekey.LoadRevoked(write(t, dir, "header", header)); err != nil {
		t.Errorf("empty list: %v", err)
	}
	for name, c := range map[string]struct{ content, want string }{
		"spec of ssh-keygen": {"serial: 5\nid: x\n", ":1: the public key is not valid base64: it may be cut off or broken into lines\nFILE:2: the public key is not valid base64: it may be cut off or broken into lines"},
		"cut header":         {header[:20], ": key revocation list: it is cut off"},
		"version":            {"SSHKRL\n\x00" + "\x00\x00\x00\x02", ": key revocation list: format version 2 is not known"},
		"flags":              {header[:28] + num(1) + str("") + str(""), ": key revocation list: flags 0x1 are not known"},
		"cut section":        {header + "\x02\x00\x00\x00\x09", ": key revocation list: it is cut off"},
		"unknown section":    {header + section(9, ""), ": key revocation list: section type 9 is not known"},
		"extension":          {header + section(255, str("x")+"\x00"+str("")), ": key revocation list: section type 255 is not known"},
		"signature":          {header + section(4, ""), ": key revocation list: it is signed, which is not supported: make it without a signature"},
		"short sha1":         {header + section(3, str("x")), ": key revocation list: a SHA-1 hash has the wrong length"},
		"short sha256":       {header + section(5, str("x")), ": key revocation list: a SHA-256 hash has the wrong length"},
		"bad key":            {header + section(2, str(str("ssh-\x1b"))), `: key revocation list: a public key is not readable: unknown key algorithm: ssh-\x1b`},
		"bad authority":      {header + section(1, str("x")+str("")), ": key revocation list: a public key is not readable: short read"},
		"cert section":       {header + certs(section(0x39, "")), ": key revocation list: certificate section type 0x39 is not known"},
		"serial 0":           {header + certs(section(0x20, num(0))), ": key revocation list: the serials 0 to 0 are not a range"},
		"serial cut":         {header + certs(section(0x20, "x")), ": key revocation list: it is cut off"},
		"range":              {header + certs(section(0x21, num(2)+num(1))), ": key revocation list: the serials 2 to 1 are not a range"},
		"range and more":     {header + certs(section(0x21, num(1)+num(2)+"x")), ": key revocation list: a certificate section has unread data"},
		"negative bitmap":    {header + certs(section(0x22, num(1)+str("\x80"))), ": key revocation list: a bitmap of serials is not valid"},
		"bitmap past end":    {header + certs(section(0x22, num(1<<64-2)+str("\x04"))), ": key revocation list: a bitmap of serials is not valid"},
		"bitmap of 0":        {header + certs(section(0x22, num(0)+str("\x01"))), ": key revocation list: a bitmap of serials is not valid"},
		"key id cut":         {header + certs(section(0x23, "\x00\x00\x00\x05x")), ": key revocation list: it is cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, dir, "revoked", c.content)
			_, err := devicekey.LoadRevoked(path)
			want := strings.ReplaceAll("FILE"+c.want, "FILE", path)
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}
