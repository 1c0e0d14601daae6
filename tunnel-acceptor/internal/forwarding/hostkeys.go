package forwarding

import (
	"bytes"
	"crypto/rand"
	"slices"

	"golang.org/x/crypto/ssh"
)

// Host keys are rotated without touching a device: all are announced after the
// login, the client asks for proof of those it does not know, and then keeps
// them (OpenSSH's PROTOCOL, section 2.5; UpdateHostKeys in ssh_config). The
// first of each type proves the gateway in the key exchange.
const (
	hostKeysAnnounce = "hostkeys-00@openssh.com"
	hostKeysProve    = "hostkeys-prove-00@openssh.com"
	// maxProofs bounds what a session can make us sign. OpenSSH asks once.
	maxProofs = 2
)

// announceHostKeys tells the client every host key.
func (s *session) announceHostKeys() {
	var payload []byte
	for _, key := range s.server.cfg.HostKeys {
		payload = append(payload, sshString(key.PublicKey().Marshal())...)
	}
	_, _, _ = s.ssh.SendRequest(hostKeysAnnounce, false, payload)
}

// handleProve signs for each of the keys that the client names. One that is
// not ours refuses them all.
func (s *session) handleProve(req *ssh.Request) (ok bool, payload []byte) {
	if s.proofs++; s.proofs > maxProofs {
		return false, nil
	}
	var asked [][]byte
	for rest := req.Payload; len(rest) > 0; {
		var next struct {
			Key  []byte
			Rest []byte `ssh:"rest"`
		}
		if err := ssh.Unmarshal(rest, &next); err != nil || len(asked) == len(s.server.cfg.HostKeys) {
			return false, nil
		}
		asked, rest = append(asked, next.Key), next.Rest
	}
	for _, blob := range asked {
		i := slices.IndexFunc(s.server.cfg.HostKeys, func(key ssh.Signer) bool {
			return bytes.Equal(key.PublicKey().Marshal(), blob)
		})
		if i < 0 {
			return false, nil
		}
		signature, err := proof(s.server.cfg.HostKeys[i], s.ssh.SessionID(), blob)
		if err != nil {
			s.server.cfg.Log.Warn("a host key cannot prove itself", "error", err)
			return false, nil
		}
		payload = append(payload, sshString(ssh.Marshal(signature))...)
	}
	return len(asked) > 0, payload
}

func proof(key ssh.Signer, sessionID, blob []byte) (*ssh.Signature, error) {
	data := slices.Concat(sshString([]byte(hostKeysProve)), sshString(sessionID), sshString(blob))
	if with, ok := key.(ssh.AlgorithmSigner); ok && key.PublicKey().Type() == ssh.KeyAlgoRSA {
		return with.SignWithAlgorithm(rand.Reader, data, ssh.KeyAlgoRSASHA512) // Sign would use SHA-1
	}
	return key.Sign(rand.Reader, data)
}

// sshString is b with its length before it (RFC 4251 section 5).
func sshString(b []byte) []byte { return ssh.Marshal(struct{ B []byte }{b}) }
