package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/files"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcptools"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/tunnels"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// gatewayFlags are what serve and stdio need.
type gatewayFlags struct {
	deviceFlags
	program.Log
	AuditLog     string        `placeholder:"FILE" help:"Audit trail (default audit.jsonl beside connections.json)."`
	AuditMaxSize program.Size  `default:"64MiB" help:"Size at which the audit trail is rotated."`
	AuditKeep    int           `default:"10" help:"Rotated audit files that are kept."`
	TransferDir  string        `placeholder:"DIR" help:"Where sftp_upload reads and sftp_download writes (default transfers beside connections.json)."`
	ApprovalTTL  time.Duration `name:"approval-ttl" default:"15m" help:"How long a request waits for a human, and a human's yes for its use."`
	StateDir     string        `placeholder:"DIR" help:"Jobs, for a day after their end, and long outputs, for an hour (default state beside connections.json)."`
	KeysDir      string        `placeholder:"DIR" help:"Client keys; gateway.key is made at first start (default keys beside connections.json)."`
}

// rules are how the calls to one device are judged and bounded.
type rules struct {
	policy *policy.Policy
	limits mcptools.Limits
}

// gateway is all that serves agents, wired together.
type gateway struct {
	flags     gatewayFlags
	log       *slog.Logger
	trail     *audit.Writer
	tunnels   *tunnels.Directory // nil without an acceptor
	pool      *sshpool.Pool
	mcp       *mcpserve.Server
	sessions  *sessions
	transfers *files.Dir
	waiting   *approvals.Store
	book      *jobs.Book
	jobs      *jobs.Keeper
	rules     atomic.Pointer[map[string]rules]
	hangup    chan os.Signal // SIGHUP asks for a reload
	// operator says whether there is an operator's socket; set before serving.
	operator bool
}

// open reads everything and binds nothing. Close the gateway.
func (f gatewayFlags) open(log *slog.Logger) (*gateway, error) {
	g := &gateway{flags: f, log: log, hangup: make(chan os.Signal, 1)}
	signal.Notify(g.hangup, syscall.SIGHUP) // before anybody can know that we run
	// A client that dies takes our stdout and stderr with it. Writing there must
	// fail, not kill us: the runs of that client are still to be stopped.
	signal.Ignore(syscall.SIGPIPE)
	set, byDevice, err := g.load()
	if err != nil {
		return nil, program.Brief(err, "mcp-frontend check")
	}
	g.rules.Store(&byDevice)
	if err := f.needKnownHosts(log); err != nil {
		return nil, err
	}
	g.makeGatewayKey()
	cfg := sshpool.Config{Devices: set, KnownHosts: f.knownHostsFile().Value, LoadKey: keyfile.Load, Log: log}
	if f.AcceptorDir != "" {
		g.tunnels = tunnels.New(f.AcceptorDir, log)
		cfg.DialTunnel, cfg.FindTunnel, cfg.TunnelID = g.dialTunnel, g.findTunnel, g.tunnelID
	}
	if g.pool, err = sshpool.New(cfg); err != nil {
		return nil, err
	}
	g.warnUnusable()
	path := f.AuditLog
	if path == "" {
		path = f.beside("audit.jsonl")
	}
	g.trail, err = audit.Open(audit.Config{Path: path, Process: "mcp-frontend", MaxSize: int64(f.AuditMaxSize), Keep: f.AuditKeep})
	if err != nil {
		g.close()
		return nil, err
	}
	if err := g.serveTools(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// Bounds of the outputs that are kept for ssh_output_read.
const (
	maxKeptStream = 256 << 20
	maxKept       = 1 << 30
	maxKeptAge    = time.Hour
)

func (g *gateway) serveTools() error {
	kept, err := outputs.Open(outputs.Config{
		Dir: filepath.Join(g.flags.stateDir(), "outputs"), MaxStream: maxKeptStream, MaxTotal: maxKept, MaxAge: maxKeptAge,
	})
	if err != nil {
		return err
	}
	if g.transfers, err = files.OpenDir(g.flags.transferDir()); err != nil {
		return err
	}
	g.waiting, err = approvals.New(approvals.Config{TTL: g.flags.ApprovalTTL, Log: g.log, Record: func(r audit.Record) error {
		_, err := g.append(r)
		return err
	}})
	if err != nil {
		return err
	}
	if g.book, err = jobs.Open(filepath.Join(g.flags.stateDir(), "jobs"), g.log); err != nil {
		return err
	}
	g.jobs, err = jobs.NewKeeper(jobs.Config{Book: g.book, Acquire: g.pool.Acquire, Quote: mcptools.QuoteScript, Record: g.append, Log: g.log})
	if err != nil {
		return err
	}
	server, err := mcptools.New(program.Version(version), mcptools.Config{
		Pool: g.pool, Tunnels: g.tunnels, Outputs: kept, Transfers: g.transfers, Jobs: g.jobs,
		Approvals: g.waiting, Operator: func() bool { return g.operator },
		Policy: func(device string) *policy.Policy { return g.rulesOf(device).policy },
		Limits: func(device string) mcptools.Limits { return g.rulesOf(device).limits },
		Record: g.append,
		Caller: callerOf,
		Progress: func(ctx context.Context, progress float64, message string) {
			_ = mcpserve.Progress(ctx, progress, 0, message)
		},
		Log: g.log,
	})
	if err != nil {
		return err
	}
	g.sessions = &sessions{record: g.append}
	g.mcp, err = mcpserve.New(mcpserve.Config{MCP: server, Log: g.log, Began: g.sessions.start, Ended: g.waiting.Ended})
	return err
}

func callerOf(ctx context.Context) mcptools.Caller { return auditCaller(mcpserve.CallerFrom(ctx)) }

// append keeps an audit record, and tells the operator if it cannot.
func (g *gateway) append(r audit.Record) (uint64, error) {
	seq, err := g.trail.Append(r)
	if err != nil {
		g.log.Error("the audit trail cannot be written, so nothing is done", "event", r.Event, "error", err)
	}
	return seq, err
}

// makeGatewayKey makes the key that new devices can let in, once.
func (g *gateway) makeGatewayKey() {
	path := filepath.Join(g.flags.keysDir(), "gateway.key")
	if _, err := os.Stat(path); err == nil {
		return
	}
	key, err := keyfile.Create(path, "mcp-ssh-gateway")
	if err != nil {
		g.log.Warn("no gateway key could be made; devices need an id_file of their own", "error", err)
		return
	}
	g.log.Info("made the gateway's client key", "path", path, "public_key", keyfile.PublicLine(key.PublicKey(), "mcp-ssh-gateway"))
}

func (f gatewayFlags) keysDir() string {
	if f.KeysDir != "" {
		return f.KeysDir
	}
	return f.beside("keys")
}

func (f gatewayFlags) transferDir() string {
	if f.TransferDir != "" {
		return f.TransferDir
	}
	return f.beside("transfers")
}

func (f gatewayFlags) stateDir() string {
	if f.StateDir != "" {
		return f.StateDir
	}
	return f.beside("state")
}

// close ends what open began.
func (g *gateway) close() {
	signal.Stop(g.hangup)
	if g.pool != nil {
		g.pool.Close()
	}
	if g.transfers != nil {
		_ = g.transfers.Close()
	}
	if g.book != nil {
		g.book.Close()
	}
	if g.trail != nil {
		_ = g.trail.Close()
	}
}

// run serves until ctx ends or a part of serve does, and follows the acceptor
// and SIGHUP meanwhile.
func (g *gateway) run(ctx context.Context, serve ...func(ctx context.Context) error) error {
	if _, err := g.trail.Append(audit.Record{Event: "started"}); err != nil {
		return err
	}
	parts := append(serve, g.watch, g.waiting.Run, g.jobs.Run)
	if g.tunnels != nil {
		parts = append(parts, g.tunnels.Run)
	}
	err := program.Together(ctx, parts...)
	g.sessions.flush()
	_, recordErr := g.trail.Append(audit.Record{Event: "stopped"})
	return errors.Join(err, recordErr)
}
