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
		MaxAuthTries: s.cfg.MaxAuthTries,
		VerifiedPublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			return s.authorize(c, key)
		},
	}
}

// handleOffer answers an offer of a key that is not proved: whether a
// signature by it is worth asking for. It grants nothing.
func (s *Server) handleOffer(ctx gliderssh.Context, key gliderssh.PublicKey) bool {
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
	event := Event{Name: "login_refused", Remote: c.remote.String(), Fingerprint: ssh.FingerprintSHA256(key)}
	grant, err := s.keys.Load().Authorize(key, c.remote.Addr(), time.Now())
	if err == nil && s.loggedIn.Load() >= int64(s.cfg.MaxConnections) {
		err = &devicekey.Denied{Device: grant.Device, Reason: "the gateway has its full number of devices connected"}
	}
	if err != nil {
		event.Reason = err.Error()
		var denied *devicekey.Denied
		if !errors.As(err, &denied) {
			_ = s.cfg.Record(event)
			return nil, err
		}
		event.Device, event.Reason = denied.Device, denied.Reason
		_ = s.cfg.Record(event)
		return nil, &ssh.BannerError{Err: err, Message: "tunnel-acceptor: " + denied.Reason + "\r\n"}
	}
	event.Name, event.Device, event.Fingerprint = "login", grant.Device, grant.Fingerprint
	if err := s.cfg.Record(event); err != nil {
		return nil, err
	}
	c.login(grant)
	return &ssh.Permissions{ExtraData: map[any]any{identityKey{}: identity{key: key, grant: grant}}}, nil
}

// SetKeys replaces the device keys and closes live sessions that the new set
// no longer grants what they hold.
func (s *Server) SetKeys(set *devicekey.Set) {
	s.keys.Store(set)
	for _, c := range s.connections() {
		if session := c.session.Load(); session != nil {
			session.recheck(set)
			continue
		}
		c.mu.Lock()
		loggedIn := c.grant != nil
		c.mu.Unlock()
		if loggedIn { // it holds nothing yet: it may log in again under the new set
			c.close("the device keys were reloaded")
		}
	}
}
