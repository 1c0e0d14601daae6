package sshpool

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// hostKeys is what a known_hosts file says of one device.
type hostKeys struct {
	device     connections.Device
	path       string
	address    string // under which the device is looked up, HOST:PORT
	check      ssh.HostKeyCallback
	algorithms []string // those with a matching line; all if there is none
	known      []knownhosts.KnownKey

	// What the handshake saw.
	seen     ssh.PublicKey
	verified time.Time // zero until seen was found to be the device's
}

// somewhere stands for the remote address, which is never looked up: many
// devices share the tunnels' loopback address.
var somewhere = &net.TCPAddr{IP: net.IPv4zero, Port: 1}

// loadHostKeys reads what path says of d: by the device's name if any line has
// it, else by [host]:port, and by a portless line only for port 22 in direct
// mode, as OpenSSH writes it. A missing file knows nobody.
func loadHostKeys(path string, d connections.Device) (*hostKeys, error) {
	h := &hostKeys{device: d, path: path}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the known hosts: %w", err)
	}
	h.check = func(string, net.Addr, ssh.PublicKey) error { return &knownhosts.KeyError{} }
	if err == nil {
		if h.check, err = knownhosts.New(path); err != nil {
			return nil, fmt.Errorf("reading the known hosts: %w", err)
		}
	}
	h.lookUp(net.JoinHostPort(d.Name, "22")) // a line without a port matches port 22
	if len(h.known) == 0 && (d.Port != 22 || d.Mode == connections.Direct) {
		h.lookUp(net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))))
	}
	h.algorithms = algorithmsFor(h.known, text)
	return h, nil
}

// lookUp asks for the lines of address, by offering a key that none has.
func (h *hostKeys) lookUp(address string) {
	h.address = address
	stranger, err := ssh.NewPublicKey(make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		panic(err) // a key of the right size is always a key
	}
	if unknown, ok := errors.AsType[*knownhosts.KeyError](h.check(address, somewhere, stranger)); ok {
		h.known = unknown.Want
	}
}

// algorithmsFor offers only what a known line can verify, so that a device
// with several keys shows one that we know. A line of a certificate authority
// stands for certificates of any kind; of an unknown device the plain key is
// wanted, which is what an operator can compare.
func algorithmsFor(known []knownhosts.KnownKey, text []byte) []string {
	all := ssh.SupportedAlgorithms().HostKeys
	slices.SortStableFunc(all, func(a, b string) int { // as OpenSSH prefers, so that both show the same key
		return cmp.Compare(strings.Index(b, "ed25519"), strings.Index(a, "ed25519"))
	})
	lines := bytes.Split(text, []byte("\n"))
	var wanted []string
	authority := false
	for _, k := range known {
		if k.Line <= len(lines) && bytes.HasPrefix(bytes.TrimSpace(lines[k.Line-1]), []byte("@cert-authority")) {
			authority = true
			continue
		}
		wanted = append(wanted, k.Key.Type())
	}
	return slices.DeleteFunc(all, func(algorithm string) bool {
		if strings.Contains(algorithm, "-cert-") {
			return !authority
		}
		kind := algorithm
		if strings.HasPrefix(algorithm, "rsa-sha2-") {
			kind = ssh.KeyAlgoRSA
		}
		return len(known) > 0 && !slices.Contains(wanted, kind)
	})
}

// verify returns nil if key is the device's.
func (h *hostKeys) verify(key ssh.PublicKey) *Error {
	err := h.check(h.address, somewhere, key)
	if err == nil {
		return nil
	}
	fingerprint := ssh.FingerprintSHA256(key)
	var unknown *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &unknown) && len(unknown.Want) == 0:
		return &Error{
			Code: HostKeyUnknown, Stage: StageHostKey, FixBy: "operator",
			Err: fmt.Errorf("no line of %s knows the device's host key %s (%s)", h.path, fingerprint, key.Type()),
			Hint: fmt.Sprintf("ask the operator to compare %s with the device's own key, then to run: mcp-frontend trust %s --fingerprint %s --write",
				fingerprint, h.device.Name, fingerprint),
		}
	case errors.As(err, &revoked):
		return h.mismatch(fmt.Errorf("the device showed the key %s, which %s:%d revokes", fingerprint, revoked.Revoked.Filename, revoked.Revoked.Line))
	case errors.As(err, &unknown):
		return h.mismatch(fmt.Errorf("the device showed the key %s, but %s:%d knows another", fingerprint, unknown.Want[0].Filename, unknown.Want[0].Line))
	}
	return h.mismatch(fmt.Errorf("the device's host certificate is refused: %s", printable(err.Error())))
}

// otherKinds is the error of a device that has no key of a kind we know, or,
// as nothing is known of it, of a kind that we take.
func (h *hostKeys) otherKinds(offered []string) *Error {
	if len(h.known) == 0 {
		return &Error{
			Code: HostKeyUnknown, Stage: StageHostKey, FixBy: "operator",
			Err: fmt.Errorf("no line of %s knows the device, and it shows its host key only by algorithms that are not safe (%s)",
				h.path, printable(strings.Join(offered, ", "))),
			Hint: fmt.Sprintf("ask the operator to give %s an ed25519 host key or a newer SSH server", h.device.Name),
		}
	}
	return h.mismatch(fmt.Errorf("the device has no key of a kind that %s:%d knows; it offers %s",
		h.path, h.known[0].Line, printable(strings.Join(offered, ", "))))
}

func (h *hostKeys) mismatch(err error) *Error {
	return &Error{
		Code: HostKeyMismatch, Stage: StageHostKey, Err: err, FixBy: "operator",
		Hint: fmt.Sprintf("do not go on: another machine may be answering for %s. Ask the operator; if the device was reinstalled, they remove its line from %s and run: mcp-frontend trust %s",
			h.device.Name, h.path, h.device.Name),
	}
}

// errSeen ends a handshake once its host key was seen.
var errSeen = errors.New("host key seen")

// ScanHostKeys asks a device for its host keys, one handshake per kind. It
// trusts none of them and authenticates nowhere.
func (p *Pool) ScanHostKeys(ctx context.Context, name string) ([]ssh.PublicKey, error) {
	d, err := p.Device(name)
	if err != nil {
		return nil, err
	}
	var keys []ssh.PublicKey
	var last error
	for _, kind := range [][]string{{ssh.KeyAlgoED25519}, {ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521}, {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}} {
		key, err := p.scan(ctx, d, kind)
		if key != nil {
			keys = append(keys, key)
			continue
		}
		last = err
		if _, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); !ok {
			break // it cannot be reached, whatever the kind
		}
	}
	if len(keys) == 0 {
		return nil, last
	}
	return keys, nil
}

func (p *Pool) scan(ctx context.Context, d connections.Device, kind []string) (seen ssh.PublicKey, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.ConnectTimeout)
	defer cancel()
	nc, _, failure := p.dial(ctx, d)
	if failure != nil {
		return nil, failure
	}
	defer func() { _ = nc.Close() }()
	stopped := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stopped()
	_, _, _, err = ssh.NewClientConn(nc, d.Name, &ssh.ClientConfig{ //nolint:dogsled // the handshake never succeeds
		User: d.User, ClientVersion: clientVersion, HostKeyAlgorithms: kind,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = key
			return errSeen
		},
	})
	return seen, err
}
