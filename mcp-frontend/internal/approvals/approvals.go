// Package approvals holds what needs a human's yes until somebody says so, or
// no, or nobody does in time.
//
// It promises that an approval counts once, for what was shown to the human and
// nothing else: the device, the tool, the command as it is sent, the directory
// and the digest of stdin. It counts for the conversation that asked. Once that
// one has ended, and only then, it also counts for a conversation of the same
// uid whose client says the same name: many MCP clients open a conversation per
// call, and one may restart while its human is being asked. No name lets a
// client use what another one that is still there has asked for.
//
// A client that answers for its human shows the sealed state of the very
// question: an HMAC over a nonce, the expiry, the conversation and what was
// asked, with a key of this process. It counts once, in that conversation only.
//
// What is open lives in memory: a restart forgets it, and nothing is granted by
// that. Every step is on record before it counts, or does not count. How much
// may be open, for one requester and in all, is bounded.
package approvals

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

const (
	// MaxCommand bounds the command, in bytes: a human has to read all of it.
	MaxCommand = 4 << 10
	// MaxQuestion is how long a client may take to ask its human.
	MaxQuestion = 5 * time.Minute

	maxOpen          = 64 // of all requesters
	maxOpenRequester = 8
)

// Why an approval cannot be used or decided.
var (
	ErrUnknown    = errors.New("no such approval is open: it was used, it has expired, or this process was restarted since")
	ErrRequester  = errors.New("the approval was asked for by another client")
	ErrOther      = errors.New("the approval is for another device, tool, command, cwd or stdin")
	ErrDecided    = errors.New("somebody has decided already")
	ErrForged     = errors.New("the request state is not one that was given to this client for this call")
	ErrTooMany    = errors.New("too many requests are waiting for a human")
	ErrUnrecorded = errors.New("the audit trail cannot be written")
)

// Via is who may decide.
type Via string

// Who may decide.
const (
	ViaClient   Via = "client"   // the client asks its human (MCP elicitation)
	ViaOperator Via = "operator" // by the operator socket
)

// State is how far an approval is.
type State string

// The states. One that was used or has expired is gone.
const (
	Pending State = "pending"
	Granted State = "granted"
	Denied  State = "denied"

	asking   State = "asking"   // not on record yet
	deciding State = "deciding" // the decision is not on record yet
)

// Act is what an approval is for. All of it must be the same when it is used.
type Act struct {
	Device      string `json:"device"`
	Tool        string `json:"tool"`
	Command     string `json:"command"` // as it is sent
	Cwd         string `json:"cwd,omitempty"`
	StdinBytes  int64  `json:"stdin_bytes"`
	StdinSHA256 string `json:"stdin_sha256,omitempty"`
}

// Requester is who asks: one conversation, with what its client says of itself.
type Requester struct {
	Session       string  `json:"session"`
	PeerUID       *uint32 `json:"peer_uid,omitempty"` // nil on stdio
	ClientName    string  `json:"client_name"`        // unverified
	ClientVersion string  `json:"client_version"`     // unverified
}

// Request is what an agent asks for, and why a human must say yes to it.
type Request struct {
	Act
	Requester
	Rule string `json:"rule"`
}

// Approval is a request and what became of it.
type Approval struct {
	ID string `json:"id"`
	Request
	Via       Via       `json:"via"`
	State     State     `json:"state"`
	Asked     time.Time `json:"asked"`
	Expires   time.Time `json:"expires"`
	DecidedBy string    `json:"decided_by,omitempty"`
	Reason    string    `json:"reason,omitempty"` // of a denial, in the operator's words
}

// Config is what a store works with.
type Config struct {
	// TTL is how long a request waits for an operator, and how long what was
	// granted may be used after that. Required.
	TTL time.Duration
	// Record keeps an audit record; what cannot be recorded does not happen.
	// Required; called concurrently.
	Record func(audit.Record) error
	Log    *slog.Logger
}

// Store holds what is open. Its methods may be called concurrently.
type Store struct {
	cfg     Config
	key     [32]byte // seals request states
	changed chan struct{}

	mu   sync.Mutex // guards what follows; nothing is recorded under it
	open map[string]*entry
}

type entry struct {
	Approval
	nonce [16]byte
	ended bool // the conversation that asked has ended
}

// New returns an empty store.
func New(cfg Config) (*Store, error) {
	if cfg.TTL <= 0 {
		return nil, errors.New("the time to live of approvals must be more than 0")
	}
	if cfg.Record == nil || cfg.Log == nil {
		return nil, errors.New("approvals: a part of the configuration is nil")
	}
	s := &Store{cfg: cfg, changed: make(chan struct{}, 1), open: make(map[string]*entry)}
	_, _ = rand.Read(s.key[:]) // it never fails
	return s, nil
}

// Run puts on record what expires, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	for {
		timer := time.NewTimer(s.sweep())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// sweep removes what has expired and returns when to look again.
func (s *Store) sweep() time.Duration {
	now, next := time.Now(), time.Hour
	var gone []Approval
	s.mu.Lock()
	for id, e := range s.open {
		switch left := e.Expires.Sub(now); {
		case left > 0:
			next = min(next, left)
		case e.State == asking || e.State == deciding:
			next = min(next, time.Second)
		default:
			delete(s.open, id)
			gone = append(gone, e.Approval)
		}
	}
	s.mu.Unlock()
	for _, a := range gone {
		s.expired(a, "")
	}
	return next
}

// expired records that nobody can use a any more; a denied one is told already.
func (s *Store) expired(a Approval, why string) {
	if a.State == Denied {
		return
	}
	if why == "" {
		why = "nobody decided in time"
		if a.State == Granted {
			why = "it was not used in time"
		}
	}
	if err := s.record("approval_expired", a, why); err != nil {
		s.cfg.Log.Error("an approval that expired could not be recorded", "approval_id", a.ID, "error", err)
	}
}

// Ended tells that a conversation is over: its client may come back in another.
func (s *Store) Ended(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.open {
		e.ended = e.ended || e.Session == session
	}
}

// record leaves one step of a on the trail, under the requester's name.
func (s *Store) record(event string, a Approval, reason string) error {
	r := audit.Record{
		Event: event, Session: a.Session, PeerUID: a.PeerUID,
		Device: a.Device, Tool: a.Tool, Command: a.Command, Cwd: a.Cwd, StdinBytes: a.StdinBytes, StdinSHA256: a.StdinSHA256,
		Decision: "approve", Rule: a.Rule, ApprovalID: a.ID, DecidedBy: a.DecidedBy, Reason: reason,
	}
	if a.ClientName != "" {
		r.Client = &audit.Client{Name: a.ClientName, Version: a.ClientVersion, Unverified: true}
	}
	if err := s.cfg.Record(r); err != nil {
		return errors.Join(ErrUnrecorded, err)
	}
	return nil
}

// mayUse says whether the requester now speaks for the one who asked.
func (e *entry) mayUse(now Requester) bool {
	if e.Session == now.Session {
		return true
	}
	sameUID := e.PeerUID == nil && now.PeerUID == nil || e.PeerUID != nil && now.PeerUID != nil && *e.PeerUID == *now.PeerUID
	return e.ended && sameUID && e.ClientName == now.ClientName
}

// alphabet has no letter that is taken for another, nor for a digit.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newID is eight characters in two groups: 40 bits, to be typed by a human.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	for i := range b {
		b[i] = alphabet[b[i]%byte(len(alphabet))]
	}
	return string(b[:4]) + "-" + string(b[4:])
}

// normal is an id as newID writes it, of one that a human typed.
func normal(id string) string {
	id = strings.NewReplacer("-", "", " ", "", "o", "0", "i", "1", "l", "1").Replace(strings.ToLower(id))
	if len(id) != 8 {
		return ""
	}
	return id[:4] + "-" + id[4:]
}
