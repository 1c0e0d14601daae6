package forwarding

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// forged offers a public key and signs nonsense with it. The server hangs up on
// a signature that is wrong; one in another format than the key's is a failed
// attempt, after which the client goes on.
type forged struct {
	public ssh.PublicKey
	format string
}

func (f forged) PublicKey() ssh.PublicKey { return f.public }

func (f forged) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: f.format, Blob: make([]byte, 64)}, nil
}

func offerOnly(key testKey) ssh.Signer { return forged{key.PublicKey(), ssh.KeyAlgoECDSA256} }

func wrongSignature(key testKey) ssh.Signer { return forged{key.PublicKey(), key.PublicKey().Type()} }

// CVE-2024-45337: the key that was offered last is not the key that was
// proved. An attacker with a key of its own offers it, then the victim's, and
// then signs with its own, whose offer the library has answered before.
func TestIdentityIsTheProvedKey(t *testing.T) {
	t.Parallel()
	victim, attacker := newKey(t), newKey(t)
	a := start(t, line("victim", victim.PublicKey(), "", 1)+line("attacker", attacker.PublicKey(), "", 2), nil)
	for name, offers := range map[string][]ssh.Signer{
		"the victim's key first":        {offerOnly(victim), attacker},
		"own, the victim's, own proved": {offerOnly(attacker), offerOnly(victim), attacker},
	} {
		client, err := a.login(offers...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if forward(t, client, "localhost", 1) {
			t.Errorf("%s: it got the victim's port", name)
		}
		if !forward(t, client, "localhost", 2) {
			t.Errorf("%s: it did not get its own port", name)
		}
		_ = client.Close()
	}
	// A stock client that has the victim's public key alone.
	public := filepath.Join(t.TempDir(), "victim.pub")
	writeFile(t, public, ssh.MarshalAuthorizedKey(victim.PublicKey()))
	cmd, _ := a.openSSH(attacker, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "2:127.0.0.1:9")
	cmd.Args = append(cmd.Args[:1], append([]string{"-i", public}, cmd.Args[1:]...)...)
	startCommand(t, cmd)
	a.waitUp("attacker", 2)
	a.stop()
	for _, e := range a.named("login") {
		if e.Device != "attacker" || e.Fingerprint != ssh.FingerprintSHA256(attacker.PublicKey()) {
			t.Errorf("recorded %+v", e)
		}
	}
}

// Without a proof nobody comes in, whatever the method or the user's name, and
// all is counted as one record.
func TestNothingButAProvedKeyLogsIn(t *testing.T) {
	t.Parallel()
	known, stranger := newKey(t), newKey(t)
	a := start(t, line("edge", known.PublicKey(), "", 22222), nil)
	a.mustLogin(known) // a source with a live session is not held back
	for name, auth := range map[string][]ssh.AuthMethod{
		"none":                 nil,
		"a password":           {ssh.Password("")},
		"keyboard-interactive": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
		"an unknown key":       {ssh.PublicKeys(stranger)},
		"a forged signature":   {ssh.PublicKeys(wrongSignature(known))},
		"an odd signature":     {ssh.PublicKeys(offerOnly(known))},
		"a forged certificate": {ssh.PublicKeys(forgedCertificate(t, stranger, known))},
	} {
		for _, user := range []string{"agent", "edge", "root", "", strings.Repeat("x", 10000)} {
			_, err := ssh.Dial("tcp", a.addr, &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: ssh.FixedHostKey(a.hostKey.PublicKey())})
			if err == nil {
				t.Errorf("%s as %.20q logged in", name, user)
			}
		}
	}
	a.waitFor("all to leave", func() bool { pending, _ := a.server.Counts(); return pending == 0 })
	a.stop()
	if got := len(a.named("login")); got != 1 {
		t.Errorf("%d logins", got)
	}
	for _, e := range a.named("login_refused") {
		if e.Count == 0 || e.Remote != "127.0.0.1" || e.Device != "" {
			t.Errorf("recorded %+v", e)
		}
	}
	if got := len(a.named("login_refused")); got != 2 { // with a key, and without
		t.Errorf("%d records of refusals, want 2: %+v", got, a.named("login_refused"))
	}
}

// forgedCertificate is signed by a key that is no authority.
func forgedCertificate(t *testing.T, authority, key testKey) ssh.Signer {
	t.Helper()
	certificate := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"edge"}, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
	}
	if err := certificate.SignCert(rand.Reader, authority.Signer); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(certificate, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// The user's name says nothing: two attempts under two names are one identity.
// gliderlabs' context would keep the first name.
func TestUserNameMeansNothing(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	for _, user := range []string{"root", "agent", "someone else"} {
		client, err := a.loginAs(user, a.addr, key)
		if err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
	}
	a.waitFor("three goodbyes", func() bool { return len(a.named("session_closed")) == 3 })
	for _, e := range a.named("login") {
		if e.Device != "edge" {
			t.Errorf("recorded %+v", e)
		}
	}
}

// A stranger's key costs no time: sizes and kinds are judged before any
// arithmetic (CVE-2026-39829).
func TestOddKeysAreRefusedQuickly(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	huge := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 8191), E: 65537}
	hugeKey, err := ssh.NewPublicKey(huge)
	if err != nil {
		t.Fatal(err)
	}
	a := start(t, "", nil)
	for name, key := range map[string]ssh.Signer{
		"RSA 2048": keyOf(t, small), "ECDSA P-384": keyOf(t, p384), "RSA 8192": forged{hugeKey, ssh.KeyAlgoRSASHA512},
	} {
		began := time.Now()
		if _, err := a.login(key); err == nil {
			t.Errorf("%s logged in", name)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// Offers of known keys are no failures, so MaxAuthTries does not end them. The
// library's cap does, and a key's real owner gets in before it.
func TestManyOffersAreBounded(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	var offers offeringAgent
	for i := range 140 {
		key := newKey(t)
		lines.WriteString(line(fmt.Sprintf("edge-%d", i), key.PublicKey(), "", uint16(1000+i)))
		offers.keys = append(offers.keys, &agent.Key{Format: key.PublicKey().Type(), Blob: key.PublicKey().Marshal()})
	}
	owner := newKey(t)
	a := start(t, lines.String()+line("owner", owner.PublicKey(), "", 1), nil)
	for count, want := range map[int]bool{100: true, 140: false} {
		cmd, output := a.openSSH(owner, "-v", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "1:127.0.0.1:9")
		cmd.Args[slices.Index(cmd.Args, "IdentitiesOnly=yes")] = "IdentitiesOnly=no"
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+serveAgent(t, offeringAgent{keys: offers.keys[:count]}))
		startCommand(t, cmd)
		if want {
			a.waitUp("owner", 1)
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if !want && !strings.Contains(output.String(), "too many authentication attempts") {
			t.Errorf("after %d offers it showed\n%s", count, output)
		}
	}
	if got := len(a.named("login")); got != 1 {
		t.Errorf("%d logins, want 1", got)
	}
}

// offeringAgent lists keys and signs with none of them.
type offeringAgent struct {
	agent.Agent
	keys []*agent.Key
}

func (o offeringAgent) List() ([]*agent.Key, error) { return o.keys, nil }

func (o offeringAgent) Sign(ssh.PublicKey, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: "none", Blob: []byte{0}}, nil
}

// serveAgent serves an SSH agent and returns its socket.
func serveAgent(t *testing.T, keys agent.Agent) string {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(keys, nc)
				_ = nc.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// A key that was proved and may not be used now learns why; everybody else
// learns nothing.
func TestOnlyTheOwnerLearnsWhy(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), `from="192.0.2.0/24",`, 22222), nil)
	cmd, output := a.openSSH(key, "-N")
	const reason = "this key may not be used from 127.0.0.1"
	if code := exitCode(t, cmd); code != 255 || !strings.Contains(output.String(), "tunnel-acceptor: "+reason) {
		t.Errorf("exit code %d, it showed\n%s", code, output)
	}
	var banner string
	_, err := ssh.Dial("tcp", a.addr, &ssh.ClientConfig{
		User: "agent", Auth: []ssh.AuthMethod{ssh.PublicKeys(wrongSignature(key))}, HostKeyCallback: ssh.FixedHostKey(a.hostKey.PublicKey()),
		BannerCallback: func(message string) error { banner += message; return nil },
	})
	if err == nil || banner != "" {
		t.Errorf("without a proof: %v, banner %q", err, banner)
	}
	a.stop()
	refused := a.named("login_refused")
	if len(refused) != 2 || refused[0].Device+refused[1].Device != "edge" {
		t.Errorf("recorded %+v", refused)
	}
}
