package devicekey_test

import (
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

var (
	now  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	home = netip.MustParseAddr("203.0.113.7")
)

// signer makes the same ed25519 key for the same seed in every run.
func signer(tb testing.TB, seed byte) ssh.Signer {
	tb.Helper()
	private := ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize))
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// text is a public key as in a .pub file, without a comment.
func text(key ssh.PublicKey) string {
	return key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}

func parse(tb testing.TB, lines ...string) *devicekey.Set {
	tb.Helper()
	set, err := devicekey.Parse("authorized_keys", []byte(strings.Join(lines, "\n")))
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// wantDenied fails unless err is a Denied with exactly this text.
func wantDenied(tb testing.TB, err error, device, reason string) {
	tb.Helper()
	var denied *devicekey.Denied
	if !errors.As(err, &denied) {
		tb.Fatalf("got error %v, want a Denied: %s", err, reason)
	}
	if denied.Device != device || denied.Reason != reason {
		tb.Errorf("got %q, %q\nwant %q, %q", denied.Device, denied.Reason, device, reason)
	}
}

// rsaKey makes a public key of the size; nobody has its private half.
func rsaKey(tb testing.TB, bits uint) ssh.PublicKey {
	tb.Helper()
	modulus := new(big.Int).Lsh(big.NewInt(1), bits-1)
	key, err := ssh.NewPublicKey(&rsa.PublicKey{N: modulus.SetBit(modulus, 0, 1), E: 65537})
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// wireKey reads a key made of fields in wire format.
func wireKey(tb testing.TB, fields any) ssh.PublicKey {
	tb.Helper()
	key, err := ssh.ParsePublicKey(ssh.Marshal(fields))
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func securityKey(tb testing.TB) ssh.PublicKey {
	tb.Helper()
	return wireKey(tb, struct{ Type, Point, Application string }{
		ssh.KeyAlgoSKED25519, strings.Repeat("k", ed25519.PublicKeySize), "ssh:",
	})
}

func TestAuthorize(t *testing.T) {
	key := signer(t, 1).PublicKey()
	set := parse(t, "# devices", "",
		`restrict,port-forwarding,permitlisten="22223",permitlisten="localhost:22222",permitlisten="*:22223",`+
			`from="203.0.113.0/24,!203.0.113.9,2001:db8::/32,::ffff:192.0.2.128/121",expiry-time="20271231Z" `+text(key)+" edge-1")
	got, err := set.Authorize(key, home, now)
	if err != nil {
		t.Fatal(err)
	}
	want := &devicekey.Grant{
		Device:      "edge-1",
		Ports:       []uint16{22222, 22223},
		Fingerprint: ssh.FingerprintSHA256(key),
		Expires:     time.Date(2027, 12, 31, 0, 0, 0, 0, time.UTC),
		Line:        3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("grant (-want +got):\n%s", diff)
	}

	got.Ports[0] = 1
	if again, err := set.Authorize(key, home, now); err != nil || again.Ports[0] != 22222 {
		t.Errorf("a caller changed the set: got %v, %v", again, err)
	}

	for _, remote := range []string{"203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "2001:db8::1%eth0", "192.0.2.200"} {
		if _, err := set.Authorize(key, netip.MustParseAddr(remote), now); err != nil {
			t.Errorf("from %s: %v", remote, err)
		}
	}
	for remote, shown := range map[string]string{
		"203.0.113.9": "203.0.113.9", "::ffff:203.0.113.9": "203.0.113.9", "192.0.2.1": "192.0.2.1", "198.51.100.1": "198.51.100.1", "2001:db9::1": "2001:db9::1",
	} {
		_, err := set.Authorize(key, netip.MustParseAddr(remote), now)
		wantDenied(t, err, "edge-1", "this key may not be used from "+shown)
	}
	_, err = set.Authorize(key, netip.Addr{}, now)
	wantDenied(t, err, "edge-1", "this key may not be used from invalid IP")

	if _, err := set.Authorize(key, home, want.Expires.Add(-1)); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	_, err = set.Authorize(key, home, want.Expires)
	wantDenied(t, err, "edge-1", "this key expired at 2027-12-31T00:00:00Z")
	if got, want := err.Error(), "edge-1: this key expired at 2027-12-31T00:00:00Z"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUnknownKeysLearnNothing(t *testing.T) {
	stranger := signer(t, 9).PublicKey()
	known := parse(t, `restrict,permitlisten="22222" `+text(signer(t, 1).PublicKey())+" edge-1")
	for name, set := range map[string]*devicekey.Set{"empty": devicekey.Empty(), "known": known} {
		if _, err := set.Authorize(stranger, home, now); err != devicekey.ErrUnknownKey { //nolint:errorlint // nothing may be wrapped around it
			t.Errorf("%s: Authorize: got %v", name, err)
		}
		if _, err := set.Precheck(stranger); err != devicekey.ErrUnknownKey { //nolint:errorlint // as above
			t.Errorf("%s: Precheck: got %v", name, err)
		}
	}
}

func TestPrecheckLetsOwnersLearnWhy(t *testing.T) {
	key, touchless := signer(t, 1).PublicKey(), securityKey(t)
	set := parse(t,
		`restrict,permitlisten="22222",expiry-time="20200101",from="192.0.2.1" `+text(key)+" edge-1",
		`restrict,permitlisten="22223",no-touch-required `+text(touchless)+" edge-2")
	if noTouch, err := set.Precheck(key); err != nil || noTouch {
		t.Errorf("expired key: got %v, %v", noTouch, err)
	}
	if noTouch, err := set.Precheck(touchless); err != nil || !noTouch {
		t.Errorf("no-touch-required: got %v, %v", noTouch, err)
	}
	grant, err := set.Authorize(touchless, home, now)
	if err != nil || !grant.NoTouchRequired {
		t.Errorf("no-touch-required: got %+v, %v", grant, err)
	}
}

// A key that no line could hold is refused by kind and size, before its bytes
// are even looked up.
func TestKindsOfKeys(t *testing.T) {
	dsa := wireKey(t, struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", new(big.Int).SetBit(big.NewInt(1), 1023, 1), new(big.Int).SetBit(big.NewInt(1), 159, 1), big.NewInt(2), big.NewInt(2)})
	for name, c := range map[string]struct {
		key  ssh.PublicKey
		want string
	}{
		"ed25519":   {signer(t, 1).PublicKey(), ""},
		"sk":        {securityKey(t), ""},
		"rsa 3072":  {rsaKey(t, 3072), ""},
		"rsa 4096":  {rsaKey(t, 4096), ""},
		"rsa 2048":  {rsaKey(t, 2048), "RSA key of 2048 bits: use ed25519, or RSA of 3072 to 4096 bits"},
		"rsa 3071":  {rsaKey(t, 3071), "RSA key of 3071 bits: use ed25519, or RSA of 3072 to 4096 bits"},
		"rsa 8192":  {rsaKey(t, 8192), "RSA key of 8192 bits: use ed25519, or RSA of 3072 to 4096 bits"},
		"rsa 16384": {rsaKey(t, 16384), "RSA key of 16384 bits: use ed25519, or RSA of 3072 to 4096 bits"},
		"dsa":       {dsa, "key type ssh-dss is not accepted: use ssh-ed25519, sk-ssh-ed25519@openssh.com, ecdsa-sha2-nistp256 or RSA of 3072 to 4096 bits"},
		"p256":      {keygenKey(t, "-t", "ecdsa", "-b", "256"), ""},
		"p384":      {keygenKey(t, "-t", "ecdsa", "-b", "384"), "key type ecdsa-sha2-nistp384 is not accepted: use ssh-ed25519, sk-ssh-ed25519@openssh.com, ecdsa-sha2-nistp256 or RSA of 3072 to 4096 bits"},
	} {
		t.Run(name, func(t *testing.T) {
			data := `restrict,permitlisten="22222" ` + text(c.key) + " edge-1"
			set, err := devicekey.Parse("f", []byte(data))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := set.Precheck(c.key); err != nil {
					t.Errorf("Precheck: %v", err)
				}
				if _, err := set.Authorize(c.key, home, now); err != nil {
					t.Errorf("Authorize: %v", err)
				}
				return
			}
			if err == nil || err.Error() != "f:1: "+c.want {
				t.Errorf("got %v\nwant f:1: %s", err, c.want)
			}
			if _, err := devicekey.Empty().Precheck(c.key); !errors.Is(err, devicekey.ErrUnknownKey) {
				t.Errorf("Precheck: got %v", err)
			}
		})
	}
}

func TestEntries(t *testing.T) {
	key, ca := signer(t, 1).PublicKey(), signer(t, 2).PublicKey()
	set := parse(t,
		`restrict,permitlisten="22222",expiry-time="20200101Z",from="192.0.2.0/24,!192.0.2.9" `+text(key)+" edge-1",
		`cert-authority,restrict,port-forwarding,principals="edge-2,edge-3",permitlisten="22" `+text(ca)+" device CA")
	want := []devicekey.Entry{{
		Line: 1, Device: "edge-1", Ports: []uint16{22222}, Fingerprint: ssh.FingerprintSHA256(key), KeyType: "ssh-ed25519",
		From: "192.0.2.0/24,!192.0.2.9", Expires: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
	}, {
		Line: 2, Principals: []string{"edge-2", "edge-3"}, Ports: []uint16{22}, Fingerprint: ssh.FingerprintSHA256(ca),
		KeyType: "ssh-ed25519", CertAuthority: true,
	}}
	if diff := cmp.Diff(want, set.Entries()); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "authorized_keys")
	if _, err := devicekey.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: got %v", err)
	}
	line := `restrict,permitlisten="22222" ` + text(signer(t, 1).PublicKey()) + " edge-1\r\n"
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := devicekey.Load(path)
	if err != nil || len(set.Entries()) != 1 {
		t.Errorf("got %v, %v", set, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#\n", 1<<19)+"#"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := devicekey.Load(path); err == nil || err.Error() != path+": larger than 1024 KiB" {
		t.Errorf("large file: got %v", err)
	}
}
