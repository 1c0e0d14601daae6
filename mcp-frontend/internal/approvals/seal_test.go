package approvals_test

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
)

// A sealed state counts once, unaltered, in the conversation and for the call
// that it was made for, in the process that made it.
func TestSealedState(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	another, _ := newStore(t)
	r := by("s1", "reboot")
	a := mustAsk(t, s, approvals.ViaClient, r)
	state := s.Seal(a.ID)
	if strings.Contains(state, "reboot") {
		t.Error("the state shows what it is for")
	}
	raw, err := base64.RawURLEncoding.DecodeString(state)
	if err != nil {
		t.Fatal(err)
	}
	forged := []string{"", "x", state + "A", state[1:], strings.ToUpper(state), another.Seal(mustAsk(t, another, approvals.ViaClient, r).ID)}
	for i := range raw { // every single byte counts
		altered := slices.Clone(raw)
		altered[i] ^= 1
		forged = append(forged, base64.RawURLEncoding.EncodeToString(altered))
	}
	last := state[:len(state)-1]
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" { // nor is there another way to write it
		if alias := last + string(c); alias != state {
			forged = append(forged, alias)
		}
	}
	for _, f := range forged {
		if _, err := s.Unseal(f, r); !errors.Is(err, approvals.ErrForged) {
			t.Errorf("state %q: got %v, want ErrForged", f, err)
		}
	}
	for name, other := range map[string]approvals.Request{"another conversation": by("s2", "reboot"), "another command": by("s1", "poweroff")} {
		if _, err := s.Unseal(state, other); !errors.Is(err, approvals.ErrForged) {
			t.Errorf("%s: got %v, want ErrForged", name, err)
		}
	}
	s.Ended("s1") // no heir: the question was put to that conversation
	if _, err := s.Unseal(state, by("s2", "reboot")); !errors.Is(err, approvals.ErrForged) {
		t.Errorf("a later conversation: got %v, want ErrForged", err)
	}
	if got, err := s.Unseal(state, r); err != nil || got.ID != a.ID {
		t.Fatalf("the right one: got %v, %v", got, err)
	}
	mustGrant(t, s, a)
	if _, err := s.Unseal(state, r); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("a replay: got %v, want ErrUnknown", err)
	}
	// An operator's approval is no question, and a client's is not for operators.
	o := mustAsk(t, s, approvals.ViaOperator, r)
	if _, err := s.Unseal(s.Seal(o.ID), r); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("the state of an operator's approval: got %v, want ErrUnknown", err)
	}
	q := mustAsk(t, s, approvals.ViaClient, by("s1", "halt"))
	if _, err := s.Decide(q.ID, approvals.ViaOperator, true, "operator uid 0", ""); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("an operator's yes to a client's question: got %v, want ErrUnknown", err)
	}
	if _, err := s.Decide(o.ID, approvals.ViaClient, true, "client session s1", ""); !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("a client's yes for an operator: got %v, want ErrUnknown", err)
	}
}
