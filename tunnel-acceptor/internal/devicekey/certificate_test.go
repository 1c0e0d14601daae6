package devicekey_test

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

// keygen runs the real ssh-keygen in dir.
func keygen(tb testing.TB, dir string, args ...string) {
	tb.Helper()
	command := exec.CommandContext(tb.Context(), "ssh-keygen", append([]string{"-q"}, args...)...)
	command.Dir = dir
	command.Env = append(os.Environ(), "TZ=UTC")
	if out, err := command.CombinedOutput(); err != nil {
		tb.Fatalf("ssh-keygen %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// keygenKey makes a key with ssh-keygen.
func keygenKey(tb testing.TB, args ...string) ssh.PublicKey {
	tb.Helper()
	dir := tb.TempDir()
	keygen(tb, dir, append(args, "-N", "", "-f", "key")...)
	return readPublic(tb, filepath.Join(dir, "key.pub"))
}

func readPublic(tb testing.TB, path string) ssh.PublicKey {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// authority is a directory with the keys ca and device.
func authority(tb testing.TB) (dir string, ca ssh.PublicKey) {
	tb.Helper()
	dir = tb.TempDir()
	for _, name := range []string{"ca", "device"} {
		keygen(tb, dir, "-t", "ed25519", "-N", "", "-C", "", "-f", name)
	}
	return dir, readPublic(tb, filepath.Join(dir, "ca.pub"))
}

// issue signs device.pub with ca by ssh-keygen.
func issue(tb testing.TB, dir string, args ...string) *ssh.Certificate {
	tb.Helper()
	keygen(tb, dir, append(append([]string{"-s", "ca", "-I", "the id"}, args...), "device.pub")...)
	cert, ok := readPublic(tb, filepath.Join(dir, "device-cert.pub")).(*ssh.Certificate)
	if !ok {
		tb.Fatal("not a certificate")
	}
	return cert
}

func TestCertificateGrant(t *testing.T) {
	dir, ca := authority(t)
	set := parse(t,
		`cert-authority,restrict,port-forwarding,principals="other",permitlisten="22223" `+text(ca),
		`cert-authority,restrict,port-forwarding,principals="edge-4",permitlisten="22224",from="203.0.113.0/24",expiry-time="20280101Z" `+text(ca)+" device CA")
	cert := issue(t, dir, "-n", "admin,edge-4,edge-4", "-z", "7", "-V", "20260101000000:20270101000000",
		"-O", "source-address=203.0.113.7/32,2001:db8::/32")
	got, err := set.Authorize(cert, home, now)
	if err != nil {
		t.Fatal(err)
	}
	want := &devicekey.Grant{
		Device: "edge-4", Ports: []uint16{22224}, Fingerprint: ssh.FingerprintSHA256(cert.Key), KeyID: "the id", Serial: 7,
		Certificate: true, Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), Line: 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("grant (-want +got):\n%s", diff)
	}
	if noTouch, err := set.Precheck(cert); err != nil || noTouch {
		t.Errorf("Precheck: got %v, %v", noTouch, err)
	}
	if _, err := set.Precheck(cert.Key); !errors.Is(err, devicekey.ErrUnknownKey) {
		t.Errorf("the certified key alone: got %v", err)
	}

	forever := issue(t, dir, "-n", "edge-4")
	if got, err = set.Authorize(forever, home, now); err != nil || !got.Expires.Equal(time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the line's expiry-time: got %v, %v", got, err)
	}
	if got, err = parse(t, `cert-authority,restrict,principals="edge-4",permitlisten="1" `+text(ca)).Authorize(forever, home, now); err != nil || !got.Expires.IsZero() {
		t.Errorf("no end: got %v, %v", got, err)
	}
}

func TestCertificateRefusals(t *testing.T) {
	dir, ca := authority(t)
	const line = `cert-authority,restrict,principals="edge-4,edge-5",permitlisten="22224"`
	const anyName = `cert-authority,restrict,principals="*",permitlisten="22224"`
	for name, c := range map[string]struct {
		line   string
		args   []string
		device string
		want   string
	}{
		"no principals":  {line, nil, "", "the certificate has no principals: sign it with -n DEVICE"},
		"no principals*": {anyName, nil, "", "the certificate has no principals: sign it with -n DEVICE"},
		"other":          {line, []string{"-n", "edge-6"}, "", `none of the certificate's principals is granted here: ["edge-6"]`},
		"case":           {line, []string{"-n", "Edge-4"}, "", `none of the certificate's principals is granted here: ["Edge-4"]`},
		"two":            {line, []string{"-n", "edge-4,edge-5"}, "", `the certificate's principals "edge-4" and "edge-5" are both granted here: it must name one device`},
		"two*":           {anyName, []string{"-n", "edge-4,admin"}, "", `the certificate's principals "admin" and "edge-4" are both granted here: it must name one device`},
		"bad name*":      {anyName, []string{"-n", "pi@edge"}, "", `the certificate's principal "pi@edge" cannot be a device's name: rename it, for example to edge (ssh-keygen writes user@host by itself)`},
		"address*":       {anyName, []string{"-n", "127.0.0.1"}, "", `the certificate's principal "127.0.0.1" cannot be a device's name: an IP address is not a name`},
		"upper case*":    {anyName, []string{"-n", "Pump-1"}, "", `the certificate's principal "Pump-1" must be in lower case: its cert-authority line has principals="*"`},
		"plain device*":  {anyName, []string{"-n", "plain"}, "", `the certificate's principal "plain" is the name of a device that is listed by itself`},
		"plain's case*":  {anyName, []string{"-n", "shout"}, "", `the certificate's principal "shout" is the name of a device that is listed by itself`},
		"expired":        {line, []string{"-n", "edge-4", "-V", "20250101000000:20260101000000"}, "edge-4", "the certificate expired at 2026-01-01T00:00:00Z"},
		"not yet":        {line, []string{"-n", "edge-4", "-V", "20270101000000:20280101000000"}, "edge-4", "the certificate is not valid before 2027-01-01T00:00:00Z"},
		"no forwarding":  {line, []string{"-n", "edge-4", "-O", "no-port-forwarding"}, "edge-4", "the certificate lacks permit-port-forwarding"},
		"force-command":  {line, []string{"-n", "edge-4", "-O", "force-command=true"}, "edge-4", "the certificate has a force-command, and this gateway runs no commands"},
		"critical":       {line, []string{"-n", "edge-4", "-O", "critical:tea@example.com=hot"}, "edge-4", `the certificate has the critical option "tea@example.com", which this gateway does not know`},
		"verify":         {line, []string{"-n", "edge-4", "-O", "verify-required"}, "edge-4", `the certificate has the critical option "verify-required", which this gateway does not know`},
		"source":         {line, []string{"-n", "edge-4", "-O", "source-address=192.0.2.0/24"}, "edge-4", "the certificate may not be used from 203.0.113.7"},
		"no source":      {line, []string{"-n", "edge-4", "-O", "critical:source-address"}, "edge-4", "the certificate's source-address is not readable"},
		"host":           {line, []string{"-n", "edge-4", "-h"}, "edge-4", "this is a host certificate: sign the key without -h"},
		"line's from":    {line + `,from="192.0.2.1"`, []string{"-n", "edge-4"}, "edge-4", "this key may not be used from 203.0.113.7"},
		"line's expiry":  {line + `,expiry-time="20260101Z"`, []string{"-n", "edge-4"}, "edge-4", "this key expired at 2026-01-01T00:00:00Z"},
		"except":         {line, []string{"-n", "edge-4", "-O", "critical:source-address=!203.0.113.9"}, "edge-4", "the certificate's source-address is not readable"},
		"touch":          {line, []string{"-n", "edge-4", "-O", "no-touch-required"}, "edge-4", "the certificate waives the touch of its security key, but its cert-authority line has no no-touch-required"},
	} {
		t.Run(name, func(t *testing.T) {
			set := parse(t, c.line+" "+text(ca),
				`restrict,permitlisten="22222" `+text(signer(t, 1).PublicKey())+" plain",
				`restrict,permitlisten="22223" `+text(signer(t, 2).PublicKey())+" SHOUT")
			cert := issue(t, dir, c.args...)
			if _, err := set.Precheck(cert); err != nil {
				t.Errorf("Precheck: %v", err)
			}
			_, err := set.Authorize(cert, home, now)
			wantDenied(t, err, c.device, c.want)
		})
	}
}

func TestCertificateOfAnyDevice(t *testing.T) {
	dir, ca := authority(t)
	set := parse(t, `cert-authority,restrict,principals="*",permitlisten="22",no-touch-required `+text(ca))
	got, err := set.Authorize(issue(t, dir, "-n", "pump-07", "-O", "no-touch-required"), home, now)
	if err != nil || got.Device != "pump-07" || !got.NoTouchRequired {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What claims a listed authority but was not signed by it is a stranger's: it
// learns nothing, whatever else is wrong with it.
func TestForgedCertificatesLearnNothing(t *testing.T) {
	ca, device := signer(t, 1), signer(t, 2)
	set := parse(t, `cert-authority,restrict,principals="edge-4",permitlisten="22224" `+text(ca.PublicKey()))
	forge := func(by ssh.Signer, change func(*ssh.Certificate)) *ssh.Certificate {
		cert := &ssh.Certificate{
			Key: device.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"edge-4"}, ValidBefore: ssh.CertTimeInfinity,
			Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
		}
		if err := cert.SignCert(rand.Reader, by); err != nil {
			t.Fatal(err)
		}
		change(cert)
		return cert
	}
	if _, err := set.Authorize(forge(ca, func(*ssh.Certificate) {}), home, now); err != nil {
		t.Fatalf("the real one: %v", err)
	}
	for name, cert := range map[string]*ssh.Certificate{
		"other authority":   forge(device, func(*ssh.Certificate) {}),
		"authority swapped": forge(device, func(c *ssh.Certificate) { c.SignatureKey = ca.PublicKey() }),
		"key swapped":       forge(ca, func(c *ssh.Certificate) { c.Key = signer(t, 3).PublicKey() }),
		"principal changed": forge(ca, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"edge-5"} }),
		"end changed":       forge(ca, func(c *ssh.Certificate) { c.ValidBefore = 1 }),
		"option added":      forge(ca, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "x"} }),
		"kind of key":       forge(ca, func(c *ssh.Certificate) { c.Key = rsaKey(t, 2048) }),
		"start far away":    forge(ca, func(c *ssh.Certificate) { c.ValidAfter = 1<<63 - 1 }),
		"nested":            forge(ca, func(c *ssh.Certificate) { c.SignatureKey = forge(ca, func(*ssh.Certificate) {}) }),
	} {
		if _, err := set.Authorize(cert, home, now); err != devicekey.ErrUnknownKey { //nolint:errorlint // nothing may be wrapped around it
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := set.Precheck(forge(device, func(*ssh.Certificate) {})); err != devicekey.ErrUnknownKey { //nolint:errorlint // as above
		t.Errorf("Precheck of an unknown authority: got %v", err)
	}
}

// A start that Go's time cannot count must not turn into one that has passed.
func TestCertificateOfTheFarFuture(t *testing.T) {
	ca := signer(t, 1)
	set := parse(t, `cert-authority,restrict,principals="edge-4",permitlisten="22224" `+text(ca.PublicKey()))
	for _, start := range []uint64{1 << 39, 1 << 40, 1 << 50, 1<<63 - 1, 1 << 63, 1<<64 - 2} {
		cert := &ssh.Certificate{
			Key: signer(t, 2).PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"edge-4"},
			ValidAfter: start, ValidBefore: ssh.CertTimeInfinity,
			Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
		}
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		if grant, err := set.Authorize(cert, home, now); err == nil {
			t.Errorf("valid after %d: granted %+v", start, grant)
		}
	}
}

// x/crypto 90f76b8: a chain of nested certificates exhausted the stack. The
// library must refuse the first link, here and on a line of the file.
func TestNestedCertificates(t *testing.T) {
	ca := signer(t, 1)
	cert := &ssh.Certificate{Key: signer(t, 2).PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	_, err := devicekey.Parse("f", []byte(`cert-authority,restrict,principals="*",permitlisten="1" `+text(cert)))
	if want := "f:1: this is a certificate: list the key that signed it, with cert-authority"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	for range 3 {
		cert = &ssh.Certificate{Key: cert.Key, CertType: ssh.UserCert, SignatureKey: cert, Signature: cert.Signature}
	}
	if _, err := ssh.ParsePublicKey(cert.Marshal()); err == nil {
		t.Error("the library read a nested certificate")
	}
	_, err = devicekey.Parse("f", []byte(`restrict,permitlisten="1" `+text(cert)+" e"))
	if err == nil || !strings.HasPrefix(err.Error(), "f:1: a public key is not readable: the signature key type ") {
		t.Errorf("got %v", err)
	}
}

// SHA-1 signatures can be forged by collision; ssh-keygen still makes them.
func TestCertificateSignedWithSHA1(t *testing.T) {
	dir := t.TempDir()
	keygen(t, dir, "-t", "rsa", "-b", "3072", "-N", "", "-f", "ca")
	keygen(t, dir, "-t", "ed25519", "-N", "", "-f", "device")
	set := parse(t, `cert-authority,restrict,principals="edge-4",permitlisten="1" `+text(readPublic(t, filepath.Join(dir, "ca.pub"))))
	if _, err := set.Authorize(issue(t, dir, "-n", "edge-4", "-t", "rsa-sha2-256"), home, now); err != nil {
		t.Errorf("rsa-sha2-256: %v", err)
	}
	_, err := set.Authorize(issue(t, dir, "-n", "edge-4", "-t", "ssh-rsa"), home, now)
	wantDenied(t, err, "edge-4", "the certificate is signed with SHA-1: sign it with -t rsa-sha2-512")
}

func TestSourceAddressOfMappedClient(t *testing.T) {
	dir, ca := authority(t)
	set := parse(t, `cert-authority,restrict,principals="*",permitlisten="22" `+text(ca))
	cert := issue(t, dir, "-n", "pump-07", "-O", "source-address=203.0.113.0/24")
	if _, err := set.Authorize(cert, netip.MustParseAddr("::ffff:203.0.113.7"), now); err != nil {
		t.Error(err)
	}
}
