package approvals

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"time"
)

func fillNonce(e *entry) { _, _ = rand.Read(e.nonce[:]) }

// A request state is a payload (nonce, expiry in Unix seconds, id) and the HMAC
// of it, of the conversation and of the act. The specification asks for all of
// them (2026-07-28, multi round-trip requests, server requirements 4 and 5).
const (
	payloadSize = 16 + 8 + len("0123-4567")
	stateSize   = payloadSize + sha256.Size
)

var stateEncoding = base64.RawURLEncoding.Strict()

// Seal returns the request state of the question id for its requester; "" if
// nothing is asked under that id.
func (s *Store) Seal(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.findLocked(id)
	if err != nil {
		return ""
	}
	payload := append([]byte{}, e.nonce[:]...)
	payload = binary.BigEndian.AppendUint64(payload, uint64(e.Expires.Unix()))
	payload = append(payload, e.ID...)
	return stateEncoding.EncodeToString(append(payload, s.mac(payload, e.Request)...))
}

// Unseal returns the open question that state belongs to, if it was asked of
// r's conversation for r's act: ErrForged if not, ErrUnknown if it was answered
// before or has expired.
func (s *Store) Unseal(state string, r Request) (Approval, error) {
	if len(state) != stateEncoding.EncodedLen(stateSize) {
		return Approval{}, ErrForged
	}
	raw, err := stateEncoding.DecodeString(state)
	if err != nil {
		return Approval{}, ErrForged
	}
	payload, mac := raw[:payloadSize], raw[payloadSize:]
	if !hmac.Equal(mac, s.mac(payload, r)) {
		return Approval{}, ErrForged
	}
	if expiry := binary.BigEndian.Uint64(payload[16:24]); time.Now().Unix() > int64(expiry) {
		return Approval{}, ErrUnknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.findLocked(string(payload[24:]))
	if err != nil || e.State != Pending || e.Via != ViaClient || !hmac.Equal(payload[:16], e.nonce[:]) {
		return Approval{}, ErrUnknown
	}
	return e.Approval, nil
}

func (s *Store) mac(payload []byte, r Request) []byte {
	h := hmac.New(sha256.New, s.key[:])
	bound, err := json.Marshal(struct {
		Payload []byte
		Session string
		Act     Act
	}{payload, r.Session, r.Act})
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	h.Write(bound)
	return h.Sum(nil)
}
