package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/forwarding"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/tunnelapi"
)

type serveCmd struct {
	keyFlags
	runDirFlag
	program.Log
	Listen               string        `default:":2222" help:"SSH address, the only one that faces the network."`
	HostKey              []string      `placeholder:"FILE" help:"Private host key (repeatable; default data/acceptor/ssh_host_ed25519_key, made at first start). The first of each type is used, further ones are announced to devices for a later rotation."`
	AllowUID             []uint32      `name:"allow-uid" placeholder:"UID" help:"Further uid that may use the sockets beside the own one (repeatable)."`
	Ciphers              []string      `default:"aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com" help:"Ciphers to offer, best first."`
	ClientAliveInterval  time.Duration `default:"15s" help:"Silence after which a device is asked for a sign of life."`
	ClientAliveCountMax  int           `default:"3" help:"Intervals of silence after which a device is gone."`
	LoginGraceTime       time.Duration `default:"20s" help:"Time a connection has to log in."`
	MaxAuthTries         int           `default:"3" help:"Failed attempts that end a connection."`
	MaxStartups          int           `default:"100" help:"Connections on their way to a login at once; further ones wait."`
	MaxStartupsPerSource int           `default:"20" help:"The same from one source address that has no live session."`
	MaxConnections       int           `default:"10000" help:"Devices logged in at once."`
	MaxTunnelsPerDevice  int           `default:"8" help:"Tunnels of one device."`
	MaxStreamsPerTunnel  int           `default:"128" help:"Open streams of one tunnel."`
	AuditLog             string        `default:"data/acceptor/audit.jsonl" placeholder:"FILE" help:"Audit trail."`
	AuditMaxSize         program.Size  `default:"64MiB" help:"Size at which the audit trail is rotated."`
	AuditKeep            int           `default:"10" help:"Rotated audit files that are kept."`
	LoopbackPorts        bool          `help:"Also listen on 127.0.0.1:PORT while a tunnel is up; any local process may then connect."`
	MetricsListen        string        `placeholder:"ADDRESS" help:"Serve /metrics (Prometheus) and /healthz on :PORT (of 127.0.0.1 alone), unix:PATH, or HOST:PORT to be reached from elsewhere."`
	DrainTimeout         time.Duration `default:"10s" help:"Time that open streams have to end after SIGTERM."`
}

const defaultHostKey = "data/acceptor/ssh_host_ed25519_key"

// sshVersion follows "SSH-2.0-": it names the program, and tells a stranger
// no version to look up.
const sshVersion = "tunnel-acceptor"

func (c *serveCmd) Run(ctx context.Context, streams program.Streams) error {
	log := c.New(streams.Err)
	signal.Ignore(syscall.SIGPIPE) // whoever reads our log may die; the tunnels go on
	changes := c.changes()
	keys, err := c.load(log)
	if err != nil {
		return program.Brief(err, "tunnel-acceptor check")
	}
	hostKeys, err := c.hostKeys(log)
	if err != nil {
		return err
	}
	trail, err := audit.Open(audit.Config{Path: c.AuditLog, Process: "tunnel-acceptor", MaxSize: int64(c.AuditMaxSize), Keep: c.AuditKeep})
	if err != nil {
		return err
	}
	defer func() { _ = trail.Close() }()
	rec := newRecorder(trail, log)

	tunnels := registry.New()
	tunnels.SetGranted(granted(keys))
	server, err := forwarding.New(forwarding.Config{
		Keys: keys, Registry: tunnels, HostKeys: hostKeys, Version: sshVersion, Ciphers: c.Ciphers,
		AliveInterval: c.ClientAliveInterval, AliveCount: c.ClientAliveCountMax,
		LoginGrace: c.LoginGraceTime, MaxAuthTries: c.MaxAuthTries,
		MaxStartups: c.MaxStartups, MaxStartupsPerSource: c.MaxStartupsPerSource, MaxConnections: c.MaxConnections,
		MaxTunnels: c.MaxTunnelsPerDevice, MaxStreams: c.MaxStreamsPerTunnel,
		DrainTimeout: c.DrainTimeout, Record: rec.event, Log: log,
	})
	if err != nil {
		return err
	}
	control := tunnelapi.NewControl(tunnels, publicLines(hostKeys))
	dial := tunnelapi.NewDial(tunnels, rec.append, log)

	// Bind everything before serving anything: a start is whole or not at all.
	controlListener, err := c.listenLocal(ctx, controlSocket, rec)
	if err != nil {
		return err
	}
	defer func() { _ = controlListener.Close() }()
	dialListener, err := c.listenLocal(ctx, dialSocket, rec)
	if err != nil {
		return err
	}
	defer func() { _ = dialListener.Close() }()
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()

	metricsListener, err := listenMetrics(ctx, c.MetricsListen)
	if err != nil {
		return err
	}

	if metricsListener != nil {
		defer func() { _ = metricsListener.Close() }()
		log.Info("metrics", "listen", metricsListener.Addr().String())
	}

	if err := rec.append(audit.Record{Event: "started", Reason: "listening on " + listener.Addr().String()}); err != nil {
		return err
	}
	for _, key := range hostKeys {
		log.Info("host key", "fingerprint", ssh.FingerprintSHA256(key.PublicKey()), "public_key", keyfile.PublicLine(key.PublicKey(), ""))
	}
	log.Info("ready", "listen", listener.Addr().String(), "control", controlListener.Addr().String(), "dial", dialListener.Addr().String())

	// The sockets outlive the SSH side, which drains through them.
	local, stopLocal := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLocal()
	parts := []func(ctx context.Context) error{
		func(ctx context.Context) error {
			defer stopLocal()
			return server.Serve(ctx, listener)
		},
		func(ctx context.Context) error {
			defer context.AfterFunc(ctx, control.Draining)()
			return control.Serve(local, controlListener)
		},
		func(context.Context) error { return dial.Serve(local, dialListener) },
		func(ctx context.Context) error {
			changes.each(ctx, func() { c.reload(log, rec, server, tunnels) })
			return nil
		},
	}
	if c.LoopbackPorts {
		parts = append(parts, func(context.Context) error { return tunnelapi.NewPorts(dial).Serve(local) })
	}
	if metricsListener != nil {
		parts = append(parts, func(ctx context.Context) error {
			return serveMetrics(ctx, local, metricsListener, newMetrics(rec, server, tunnels))
		})
	}
	err = program.Together(ctx, parts...)
	if recordErr := rec.append(audit.Record{Event: "stopped"}); err == nil {
		err = recordErr
	}
	return err
}

// listenLocal listens on a socket of the run directory, for our own uid and
// those that are allowed.
func (c *serveCmd) listenLocal(ctx context.Context, name string, rec *recorder) (net.Listener, error) {
	ln, err := localsocket.Listen(ctx, filepath.Join(c.RunDir, name), 0o750, 0o660)
	if err != nil {
		return nil, err
	}
	uids := append([]uint32{uint32(os.Getuid())}, c.AllowUID...)
	return localsocket.Only(ln, uids, func(uid uint32) {
		_ = rec.append(audit.Record{Event: "socket_peer_denied", PeerUID: &uid, Reason: name})
	}), nil
}

// hostKeys reads the host keys, making the default one at the first start.
func (c *serveCmd) hostKeys(log *slog.Logger) ([]ssh.Signer, error) {
	paths := c.HostKey
	if len(paths) == 0 {
		if _, err := os.Stat(defaultHostKey); os.IsNotExist(err) {
			if _, err := keyfile.Create(defaultHostKey, "tunnel-acceptor"); err != nil {
				return nil, err
			}
			log.Info("made a host key", "path", defaultHostKey)
		}
		paths = []string{defaultHostKey}
	}
	var keys []ssh.Signer
	seen := make(map[string]string)
	for _, path := range paths {
		key, err := keyfile.Load(path)
		if err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
		fingerprint := ssh.FingerprintSHA256(key.PublicKey())
		if other := seen[fingerprint]; other != "" {
			return nil, fmt.Errorf("host key: %s and %s are the same key", other, path)
		}
		seen[fingerprint] = path
		keys = append(keys, key)
	}
	return keys, nil
}

func publicLines(keys []ssh.Signer) []string {
	lines := make([]string, 0, len(keys))
	for _, key := range keys {
		lines = append(lines, strings.TrimSpace(keyfile.PublicLine(key.PublicKey(), "")))
	}
	return lines
}
