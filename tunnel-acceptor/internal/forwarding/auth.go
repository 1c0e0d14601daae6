package forwarding

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

// Ciphers are those that may be offered: all AEAD. aes128-gcm is first as Go
// runs it ten times as fast as chacha20-poly1305, which dropbear needs.
var Ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}

func checkCiphers(ciphers []string) error {
	if len(ciphers) == 0 {
		return errors.New("no cipher is left to offer")
	}
	for _, name := range ciphers {
		if !slices.Contains(Ciphers, name) {
			return fmt.Errorf("cipher %q is not offered: choose among %s", name, strings.Join(Ciphers, ", "))
		}
	}
	return nil
}

// rekeyBytes is when new keys are exchanged; RFC 4253 section 9 asks for 1 GiB.
const rekeyBytes = 1 << 30

// identityKey finds the identity in Permissions.ExtraData.
type identityKey struct{}

// identity is what a device proved: the only source of what it may do.
type identity struct {
	key   ssh.PublicKey
	grant *devicekey.Grant
}

// identityOf reads the identity of a connection that has logged in.
func identityOf(sc *ssh.ServerConn) (identity, bool) {
	if sc.Permissions == nil {
		return identity{}, false
	}
	id, ok := sc.Permissions.ExtraData[identityKey{}].(identity)
	return id, ok
}

// serverConfig is made anew for each connection: gliderlabs adds host keys to
// it. Every list is explicit, as the library's defaults still offer SHA-1.
func (s *Server) serverConfig(ctx gliderssh.Context) *ssh.ServerConfig {
	c := connOf(ctx)
	return &ssh.ServerConfig{
		Config: ssh.Config{
			RekeyThreshold: rekeyBytes,
			KeyExchanges:   []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
			Ciphers:        s.cfg.Ciphers,
			MACs:           []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
		},
		PublicKeyAuthAlgorithms: []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		},
		MaxAuthTries:    s.cfg.MaxAuthTries,
		AuthLogCallback: c.attempted,
		VerifiedPublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			return s.authorize(c, key)
		},
	}
}

// handleOffer answers an offer of a key that is not proved: whether a
// signature by it is worth asking for. It grants nothing.
func (s *Server) handleOffer(ctx gliderssh.Context, key gliderssh.PublicKey) bool {
	c := connOf(ctx)
	fingerprint := ssh.FingerprintSHA256(key)
	c.offered.Store(&fingerprint)
	c.fail(refusal{reason: notProved}) // until it logs in; the library does not tell of a bad signature
	noTouch, err := s.keys.Load().Precheck(key)
	// A fresh value each time: gliderlabs shares one among all offers.
	perms := &ssh.Permissions{}
	if noTouch {
		perms.Extensions = map[string]string{"no-touch-required": ""}
	}
	ctx.Permissions().Permissions = perms
	return err == nil
}

// authorize decides on a key that the device has proved to hold.
func (s *Server) authorize(c *conn, key ssh.PublicKey) (*ssh.Permissions, error) {
	grant, err := s.keys.Load().Authorize(key, c.remote.Addr(), time.Now())
	if err == nil {
		if full := c.login(grant); full != nil {
			err = &devicekey.Denied{Device: grant.Device, Reason: full.Error()}
		}
	}
	if denied, ok := errors.AsType[*devicekey.Denied](err); ok {
		c.fail(refusal{device: denied.Device, reason: denied.Reason})
		return nil, &ssh.BannerError{Err: err, Message: "tunnel-acceptor: " + denied.Reason + "\r\n"}
	}
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Record(Event{
		Name: "login", Device: grant.Device, Remote: c.remote.String(), Fingerprint: grant.Fingerprint,
	}); err != nil {
		c.close("its login could not be recorded")
		return nil, err
	}
	return &ssh.Permissions{ExtraData: map[any]any{identityKey{}: identity{key: key, grant: grant}}}, nil
}

// notProved is why most attempts to log in fail.
const notProved = "no known key was proved"

// attempted notes each attempt to log in. "none" is how clients ask what there
// is, and no failure.
func (c *conn) attempted(_ ssh.ConnMetadata, method string, err error) {
	if err != nil && method != "none" {
		c.fail(refusal{reason: notProved})
	}
}

// SetKeys replaces the device keys and closes live sessions that the new set
// no longer grants what they hold.
func (s *Server) SetKeys(set *devicekey.Set) {
	s.keys.Store(set)
	for _, c := range s.connections() {
		if session := c.session.Load(); session != nil {
			session.start(func() { session.recheck(set) })
		} else if c.loggedIn.Load() { // it holds nothing yet: it may log in again under the new set
			c.close("the device keys were reloaded")
		}
	}
}
