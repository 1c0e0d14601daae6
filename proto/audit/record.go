// Package audit is the trail that both processes leave: JSON lines, each
// chained to the one before by SHA-256, on disk before the act they announce.
//
// It promises that an Append that returned nil has its record synced to disk,
// in a file whose lines form one chain even when several processes write it;
// that a failed Append leaves no half line behind; and that rotation and a
// torn last line (a crash in the middle of a write) keep the chain. It refuses
// to hide a failure: what cannot be recorded must not be done, and that is
// for the caller to enforce.
//
// A line is the record's JSON with two members added: prev, the hash of the
// line before (64 zeros for the first), and last of all hash, the SHA-256 of
// the line as it would be without its hash member. The newline is not hashed.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Record is one line of the trail. A field that says nothing is left out.
// Command output and stdin are never recorded, only their sizes and hashes.
type Record struct {
	// Seq, Time, Process and Prev are set by the writer.
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Process string    `json:"process"`
	// Event says what happened, such as "run_started" or "forward_granted".
	Event string `json:"event"`

	// Who: one MCP conversation, or the peer of a local socket.
	Session string  `json:"session,omitempty"`
	Client  *Client `json:"client,omitempty"`
	PeerUID *uint32 `json:"peer_uid,omitempty"`

	// Where: the device, and the tunnel that leads to it.
	Device      string `json:"device,omitempty"`
	TunnelID    string `json:"tunnel_id,omitempty"`
	Generation  uint64 `json:"generation,omitempty"`
	Port        uint16 `json:"port,omitempty"`
	Remote      string `json:"remote,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`

	// What: the run, and the command as it was sent.
	RunID       string `json:"run_id,omitempty"`
	Tool        string `json:"tool,omitempty"`
	Command     string `json:"command,omitempty"`
	Cwd         string `json:"cwd,omitempty"`
	Path        string `json:"path,omitempty"`       // on the device, as it was resolved
	LocalPath   string `json:"local_path,omitempty"` // below the gateway's transfer directory
	StdinBytes  int64  `json:"stdin_bytes,omitempty"`
	StdinSHA256 string `json:"stdin_sha256,omitempty"`

	// On whose authority: the policy's, and that of the human who said yes to
	// what the policy asks about. DecidedBy names an operator's uid or a client's
	// session, as its own claim.
	Decision   string `json:"decision,omitempty"`
	Rule       string `json:"rule,omitempty"`
	ApprovalID string `json:"approval_id,omitempty"`
	DecidedBy  string `json:"decided_by,omitempty"`

	// How it ended. Bytes and SHA256 are of stdout or of the transferred
	// content; StderrBytes and StderrSHA256 of stderr.
	Executed     string `json:"executed,omitempty"`
	Outcome      string `json:"outcome,omitempty"`
	ExitCode     *int   `json:"exit_code,omitempty"`
	Signal       string `json:"signal,omitempty"`
	Bytes        int64  `json:"bytes,omitempty"`
	SHA256       string `json:"sha256,omitempty"`
	StderrBytes  int64  `json:"stderr_bytes,omitempty"`
	StderrSHA256 string `json:"stderr_sha256,omitempty"`
	DurationMS   int64  `json:"duration_ms,omitempty"`
	Count        int64  `json:"count,omitempty"`
	Reason       string `json:"reason,omitempty"`

	Prev string `json:"prev"`
}

// Client is what an MCP client says of itself. It is always unverified.
type Client struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Unverified bool   `json:"unverified"`
}

// firstPrev is the prev of the first record of a chain.
var firstPrev = strings.Repeat("0", hex.EncodedLen(sha256.Size))

const (
	hashMember = `,"hash":"`
	hashTail   = len(hashMember) + 2*sha256.Size + len(`"}`)
)

// seal returns r as a line with its newline, and the line's hash.
func seal(r Record) (line []byte, hash string, err error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // people search the trail for what was run
	if err := encoder.Encode(r); err != nil {
		return nil, "", fmt.Errorf("encoding an audit record: %w", err)
	}
	body := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	sum := sha256.Sum256(body)
	hash = hex.EncodeToString(sum[:])
	line = append(body[:len(body)-1], hashMember...)
	line = append(line, hash...)
	return append(line, "\"}\n"...), hash, nil
}

// unseal checks a line, given without its newline, and returns what it holds.
func unseal(line []byte) (r Record, hash string, err error) {
	cut := len(line) - hashTail
	if cut < 0 || !bytes.HasPrefix(line[cut:], []byte(hashMember)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return Record{}, "", fmt.Errorf("the line does not end with its hash")
	}
	hash = string(line[cut+len(hashMember) : len(line)-len(`"}`)])
	h := sha256.New()
	h.Write(line[:cut])
	h.Write([]byte("}"))
	if got := hex.EncodeToString(h.Sum(nil)); got != hash {
		return Record{}, "", fmt.Errorf("the line's hash is %s, its content hashes to %s", hash, got)
	}
	if err := json.Unmarshal(append(line[:cut:cut], '}'), &r); err != nil {
		return Record{}, "", fmt.Errorf("decoding an audit record: %w", err)
	}
	return r, hash, nil
}
