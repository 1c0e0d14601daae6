// Command tunnel-acceptor lets devices behind NAT hold reverse ports by a
// plain `ssh -N -R`, and lets local peers reach them through unix sockets.
// It is the only part of the gateway that faces the network.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// version is set by the linker.
var version string

type cli struct {
	Serve       serveCmd         `cmd:"" help:"Accept devices and report their tunnels."`
	List        listCmd          `cmd:"" help:"Show the tunnels of the running acceptor."`
	Check       checkCmd         `cmd:"" help:"Validate the authorized keys and say what each key may do."`
	Healthcheck healthcheckCmd   `cmd:"" help:"Exit 0 when the acceptor serves."`
	Version     kong.VersionFlag `env:"-" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(program.Program{
		Name:    "tunnel-acceptor",
		About:   "Accepts reverse SSH tunnels from devices behind NAT, and nothing else.",
		Version: version,
		CLI:     &cli{},
	}.Run(ctx, os.Args[1:], program.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
