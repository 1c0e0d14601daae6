package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// deviceFlags name what describes the devices.
type deviceFlags struct {
	Connections program.Path `placeholder:"FILE" help:"Devices (default data/connections.json)."`
	KnownHosts  program.Path `placeholder:"FILE" help:"Host keys in OpenSSH's known_hosts format (default known_hosts beside connections.json)."`
	AcceptorDir string       `default:"run/acceptor" placeholder:"DIR" help:"The acceptor's --run-dir; empty for no tunnels (default run/acceptor)."`
}

func (f deviceFlags) connectionsFile() program.Path { return f.Connections.Or("data/connections.json") }

// beside is a file in the folder of connections.json.
func (f deviceFlags) beside(name string) string {
	return filepath.Join(filepath.Dir(f.connectionsFile().Value), name)
}

func (f deviceFlags) knownHostsFile() program.Path { return f.KnownHosts.Or(f.beside("known_hosts")) }

// load reads the devices. A default file that is missing counts as empty, with
// one warning.
func (f deviceFlags) load(log *slog.Logger) (*connections.Set, error) {
	path := f.connectionsFile()
	set, err := connections.Load(path.Value)
	if !path.Named && errors.Is(err, fs.ErrNotExist) {
		log.Warn("no connections.json yet: there are no devices", "path", path.Value)
		return connections.Empty(), nil
	}
	return set, err
}

// needKnownHosts fails if a known_hosts file that somebody named is missing.
func (f deviceFlags) needKnownHosts(log *slog.Logger) error {
	path := f.knownHostsFile()
	_, err := os.Stat(path.Value)
	if errors.Is(err, fs.ErrNotExist) && !path.Named {
		log.Warn("no known_hosts yet: no device is trusted", "path", path.Value)
		return nil
	}
	return err
}

// compilePolicy turns a device's policy into the one that judges.
func compilePolicy(d connections.Device) (*policy.Policy, error) {
	var cfg policy.Config
	if p := d.Policy; p != nil {
		cfg = policy.Config{
			Allow: policy.List(p.Allow), Deny: policy.List(p.Deny), Approve: policy.List(p.Approve),
			ReadOnly: policy.List(p.ReadOnly), ReadPaths: policy.List(p.ReadPaths), WritePaths: policy.List(p.WritePaths),
			Shell: p.Shell, Sudo: p.Sudo, ApproveBy: p.ApproveBy,
		}
	}
	compiled, err := policy.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("device %s: policy: %w", d.Name, err)
	}
	return compiled, nil
}
