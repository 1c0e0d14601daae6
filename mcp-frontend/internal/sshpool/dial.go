package sshpool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// clientVersion is our identification string; it tells no version to look up.
const clientVersion = "SSH-2.0-mcp-frontend"

// start runs f in a goroutine that Close waits for, unless the pool is closed.
func (p *Pool) start(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.background.Go(f)
	return true
}

// connect makes one attempt to connect, bounded by the device's timeout.
func (p *Pool) connect(ctx context.Context, d connections.Device) (*conn, *Error) {
	ctx, cancel := context.WithTimeout(ctx, d.ConnectTimeout)
	defer cancel()
	signer, err := p.signer(d)
	if err != nil {
		return nil, keyError(err)
	}
	hosts, err := loadHostKeys(p.knownHosts(d), d)
	if err != nil {
		return nil, knownHostsError(err)
	}
	nc, tunnelID, failure := p.dial(ctx, d)
	if failure != nil {
		return nil, failure
	}
	m := newMeter(nc)
	client, failure := handshake(ctx, m, d, signer, hosts)
	if failure != nil {
		return nil, failure
	}
	c := newConn(client, m, tunnelID, d.MaxSessions)
	c.hostKey = hosts.seen
	if !p.start(func() {
		why := c.watch(p.ctx, d.Keepalive, p.cfg.IdleTimeout)
		p.cfg.Log.Info("disconnected", "device", d.Name, "why", why)
	}) {
		_ = client.Close()
		return nil, &Error{Code: Cancelled, Stage: StageDial, Err: errors.New("the gateway is shutting down"), FixBy: "operator"}
	}
	p.cfg.Log.Info("connected", "device", d.Name, "mode", d.Mode, "tunnel_id", tunnelID)
	return c, nil
}

func (p *Pool) knownHosts(d connections.Device) string {
	if d.KnownHosts != "" {
		return d.KnownHosts
	}
	return p.cfg.KnownHosts
}

// signer reads the device's key, with its certificate if it has one.
func (p *Pool) signer(d connections.Device) (ssh.Signer, error) {
	signer, err := p.cfg.LoadKey(d.IDFile)
	if err != nil || d.CertificateFile == "" {
		return signer, err
	}
	data, err := os.ReadFile(d.CertificateFile)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s holds no certificate that can be read: %w", d.CertificateFile, err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s holds a plain key, not a certificate", d.CertificateFile)
	}
	return ssh.NewCertSigner(cert, signer)
}

func keyError(err error) *Error {
	return &Error{
		Code: KeyUnusable, Stage: StageConfig, Err: err, FixBy: "operator",
		Hint: "ask the operator to mend the device's key file (chmod 600, owned by the gateway's user), then call again",
	}
}

// dial opens the byte stream that the SSH connection runs over.
func (p *Pool) dial(ctx context.Context, d connections.Device) (nc net.Conn, tunnelID string, failure *Error) {
	var err error
	switch {
	case d.Mode == connections.Tunnel && p.cfg.DialTunnel == nil:
		return nil, "", &Error{
			Code: AcceptorDown, Stage: StageAcceptor, Err: errors.New("this gateway runs without a tunnel acceptor"),
			Hint: "ask the operator to set --acceptor-dir", FixBy: "operator",
		}
	case d.Mode == connections.Tunnel:
		nc, tunnelID, err = p.cfg.DialTunnel(ctx, d.Host, d.Port)
	case d.Jump != "":
		nc, err = p.dialThrough(ctx, d)
	default:
		nc, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))))
	}
	if err == nil {
		return nc, tunnelID, nil
	}
	if errors.As(err, &failure) {
		return nil, "", failure
	}
	return nil, "", dialFailed(StageDial, err)
}

func dialFailed(stage string, err error) *Error {
	return &Error{
		Code: DialFailed, Stage: stage, Err: errors.New(printable(err.Error())), Retriable: true, FixBy: "operator",
		Hint: "the device may be off or unreachable: try again later, or ask the operator to look at its network and sshd",
	}
}

// dialThrough opens a stream from the jump host, whose own lease it holds as
// long as the stream lives.
func (p *Pool) dialThrough(ctx context.Context, d connections.Device) (net.Conn, error) {
	lease, err := p.acquire(ctx, d.Jump, 0)
	if err != nil {
		return nil, throughJump(d.Jump, err)
	}
	nc, err := lease.Client.DialContext(ctx, "tcp", net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))))
	if err != nil {
		lease.Release()
		return nil, throughJump(d.Jump, err)
	}
	return &leasedConn{Conn: nc, release: sync.OnceFunc(lease.Release)}, nil
}

// handshake makes an SSH connection of nc, whose owner it becomes.
func handshake(ctx context.Context, nc net.Conn, d connections.Device, signer ssh.Signer, hosts *hostKeys) (*ssh.Client, *Error) {
	stopped := context.AfterFunc(ctx, func() { _ = nc.Close() }) // not a deadline: streams of a jump host have none
	var refused *Error
	secure := ssh.SupportedAlgorithms()
	sc, chans, reqs, err := ssh.NewClientConn(nc, hosts.address, &ssh.ClientConfig{
		Config: ssh.Config{
			KeyExchanges: secure.KeyExchanges, Ciphers: secure.Ciphers, MACs: secure.MACs,
		},
		User:              d.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		ClientVersion:     clientVersion,
		HostKeyAlgorithms: hosts.algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if refused = hosts.verify(key); refused != nil {
				return refused
			}
			hosts.seen, hosts.verified = key, time.Now()
			return nil
		},
	})
	if !stopped() && err == nil {
		err = context.Cause(ctx)
		_ = sc.Close()
	}
	if err != nil {
		_ = nc.Close()
	}
	verified := !hosts.verified.IsZero()
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case err == nil:
		return ssh.NewClient(sc, chans, reqs), nil
	case refused != nil:
		return nil, refused
	case errors.As(err, &negotiation) && strings.Contains(negotiation.What, "host key"):
		return nil, hosts.otherKinds(negotiation.RequestedAlgorithms)
	case ctx.Err() != nil:
		return nil, dialFailed(StageDial, fmt.Errorf("no SSH connection within %s", d.ConnectTimeout))
	case verified && strings.Contains(err.Error(), "unable to authenticate"):
		return nil, authFailed(d, signer)
	case verified:
		return nil, dialFailed(StageAuth, err)
	}
	return nil, dialFailed(StageDial, err)
}

func authFailed(d connections.Device, signer ssh.Signer) *Error {
	key, instead := signer.PublicKey(), ""
	if cert, ok := key.(*ssh.Certificate); ok {
		key, instead = cert.Key, fmt.Sprintf("; or to let %s trust the authority of %s for that user (TrustedUserCAKeys)", d.Name, d.CertificateFile)
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return &Error{
		Code: AuthFailed, Stage: StageAuth, FixBy: "operator",
		Err:  fmt.Errorf("the device refused the gateway's key for user %q", d.User),
		Hint: fmt.Sprintf("ask the operator to add this line to ~%s/.ssh/authorized_keys on %s: %s%s", d.User, d.Name, public, instead),
	}
}

// leasedConn is a stream through a jump host. It may be closed more than once,
// also at the same time.
type leasedConn struct {
	net.Conn
	release func() // once
}

// Close ends the stream and gives the jump host's lease back.
func (c *leasedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
