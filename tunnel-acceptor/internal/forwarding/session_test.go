package forwarding

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A session without a forward is of no use, and a client that does not ask
// for it (no ExitOnForwardFailure) would stay so for ever.
func TestSessionsWithoutForwardAreClosed(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(_ *Config, d *delays) {
		d.unboundAfterLogin, d.unboundAfterRefusal = 600*time.Millisecond, 200*time.Millisecond
	})
	idle := a.mustLogin(key)
	if took := waitClosed(t, idle); took < 400*time.Millisecond || took > 2*time.Second {
		t.Errorf("it was closed after %v, want 600 ms", took)
	}
	if got := a.event("session_closed").Reason; got != "it held no forward" {
		t.Errorf("it was closed as %q", got)
	}
	refused := a.mustLogin(key)
	if forward(t, refused, "localhost", 1) {
		t.Fatal("a port that is not granted was granted")
	}
	if took := waitClosed(t, refused); took > 450*time.Millisecond {
		t.Errorf("after the refusal it was closed after %v, want 200 ms", took)
	}
	cancelled := a.hold(key, 22222)
	<-time.After(800 * time.Millisecond)
	if forward(t, cancelled, "localhost", 1) {
		t.Fatal("a port that is not granted was granted")
	}
	<-time.After(400 * time.Millisecond)
	a.checkEcho("edge", 22222) // one that holds a forward may be refused another
	if !cancel(t, cancelled, "localhost", 22222) {
		t.Fatal("the cancel was refused")
	}
	waitClosed(t, cancelled)
}

// The same with a stock client and the delays that ship, as its user sees it.
func TestOpenSSHWithoutExitOnForwardFailure(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(_ *Config, d *delays) { d.unboundAfterRefusal = 300 * time.Millisecond })
	cmd, output := a.openSSH(key, "-N", "-R", "22223:127.0.0.1:9")
	if code := exitCode(t, cmd); code != 255 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"Warning: remote port forwarding failed for listen port 22223", "closed by remote host"} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("it showed\n%s\nwant %q", output, want)
		}
	}
}

// A reload closes the sessions that the new file no longer grants, and those
// only, within a second.
func TestReloadRevokes(t *testing.T) {
	t.Parallel()
	kept, gone, moved, expiring := newKey(t), newKey(t), newKey(t), newKey(t)
	lines := func(rest string) string { return line("kept", kept.PublicKey(), "", 1) + rest }
	a := start(t, lines(line("gone", gone.PublicKey(), "", 2)+line("moved", moved.PublicKey(), "", 3)+line("expiring", expiring.PublicKey(), "", 4)), nil)
	a.hold(kept, 1)
	ended := []*ssh.Client{a.hold(gone, 2), a.hold(moved, 3), a.hold(expiring, 4)}
	fresh := a.mustLogin(gone) // holds nothing yet, not even a session
	a.server.SetKeys(keySet(t, lines(line("moved", moved.PublicKey(), "", 5)+line("expiring", expiring.PublicKey(), `expiry-time="20991231Z",`, 4))))
	for _, client := range append(ended, fresh) {
		if took := waitClosed(t, client); took > time.Second {
			t.Errorf("a session was closed after %v", took)
		}
	}
	a.checkEcho("kept", 1)
	a.waitFor("three revocations", func() bool { return len(a.named("session_revoked")) == 3 })
	if _, err := a.login(gone); err == nil {
		t.Error("a key that is gone still logs in")
	}
	a.hold(moved, 5)
}

// A key that expires ends its live session, unlike in sshd.
func TestExpiryEndsLiveSessions(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	expiry := time.Now().UTC().Add(2 * time.Second).Format("20060102150405Z")
	a := start(t, line("edge", key.PublicKey(), fmt.Sprintf(`expiry-time="%s",`, expiry), 22222), nil)
	client := a.hold(key, 22222)
	if took := waitClosed(t, client); took > 3*time.Second {
		t.Errorf("it was closed after %v", took)
	}
	if got := a.event("session_revoked").Reason; got != "its key expired" {
		t.Errorf("it was closed as %q", got)
	}
	cmd, output := a.openSSH(key, "-N")
	if code := exitCode(t, cmd); code != 255 || !strings.Contains(output.String(), "tunnel-acceptor: this key expired at ") {
		t.Errorf("exit code %d, it showed\n%s", code, output)
	}
}

// A certificate's end ends the session too.
func TestCertificateEndsLiveSessions(t *testing.T) {
	t.Parallel()
	authority, key := newKey(t), newKey(t)
	a := start(t, line("fleet", authority.PublicKey(), `cert-authority,principals="pump-1",`, 22222), nil)
	certificate := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "pump-1", ValidPrincipals: []string{"pump-1"},
		ValidAfter: uint64(time.Now().Add(-time.Minute).Unix()), ValidBefore: uint64(time.Now().Add(2 * time.Second).Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
	}
	if err := certificate.SignCert(zeroes{}, authority.Signer); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(certificate, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	client := a.hold(signer, 22222)
	a.checkEcho("pump-1", 22222)
	if _, err := a.registry.Find("", 22222, 0); err == nil {
		t.Error("a certified device answers for 127.0.0.1")
	}
	if took := waitClosed(t, client); took > 3*time.Second {
		t.Errorf("it was closed after %v", took)
	}
}

// zeroes is a source of randomness for what needs none.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// What cannot be recorded does not happen: no login, no forward.
func TestWithoutAuditNothingIsGranted(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	client := a.mustLogin(key)
	a.onEvent(func(Event) error { return fmt.Errorf("the disk is full") })
	if forward(t, client, "localhost", 22222) || a.state("edge", 22222) != 0 {
		t.Error("a forward was granted")
	}
	if _, err := a.login(key); err == nil {
		t.Error("a login was granted")
	}
}
