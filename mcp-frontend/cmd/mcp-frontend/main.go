// Command mcp-frontend lets AI agents run audited commands on remote devices:
// it serves MCP on stdio or on a local socket, and reaches devices over SSH,
// directly or through the tunnels of tunnel-acceptor. It never listens on a
// network address.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// version is set by the linker.
var version string

type cli struct {
	Serve       serveCmd         `cmd:"" help:"Run the daemon that attached clients share."`
	Attach      attachCmd        `cmd:"" help:"Connect stdin and stdout to the daemon: what an MCP client starts."`
	Stdio       stdioCmd         `cmd:"" help:"Serve one MCP client on stdin and stdout, without a daemon."`
	Status      statusCmd        `cmd:"" help:"Show the devices as the daemon sees them."`
	Check       checkCmd         `cmd:"" help:"Validate connections.json, keys, known hosts and policies."`
	Trust       trustCmd         `cmd:"" help:"Fetch a device's host keys, for known_hosts."`
	Keys        keysCmd          `cmd:"" help:"Make, import and show the gateway's client keys."`
	Approvals   approvalsCmd     `cmd:"" help:"Show what waits for an operator's yes."`
	Approve     approveCmd       `cmd:"" help:"Say yes, once, to what an agent wants to run."`
	Deny        denyCmd          `cmd:"" help:"Say no to what an agent wants to run."`
	Audit       auditCmd         `cmd:"" help:"Verify and read audit trails."`
	Healthcheck healthcheckCmd   `cmd:"" help:"Exit 0 when the daemon serves."`
	Version     kong.VersionFlag `env:"-" help:"Print the version."`
}

// gcPercent bounds the garbage of long outputs, of which the SSH library makes
// 32 KiB for each packet: with Go's 100, 32 outputs of 100 MB at once took 165
// MiB, now a quarter, for a tenth of the runs a second of a device that is kept
// busy. GOGC in the environment overrides it.
const gcPercent = 30

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(program.Program{
		Name:    "mcp-frontend",
		About:   "Serves MCP to AI agents and runs their commands on devices over SSH.",
		Version: version,
		CLI:     &cli{},
	}.Run(ctx, os.Args[1:], program.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
