package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type checkCmd struct {
	deviceFlags
	JSON bool `name:"json" help:"Print JSON."`
}

// checked is what check says of one device.
type checked struct {
	Name     string   `json:"name"`
	Mode     string   `json:"mode"`
	Address  string   `json:"address"`
	Policy   []string `json:"policy"`
	Problems []string `json:"problems"`
}

// Run validates everything that can be validated without connecting, and
// fails with the list of what is wrong.
func (c *checkCmd) Run(_ context.Context, streams program.Streams) error {
	log := program.Log{}.New(streams.Err)
	set, err := c.load(log)
	if err != nil {
		return err
	}
	if err := c.needKnownHosts(log); err != nil {
		return err
	}
	pool, err := sshpool.New(sshpool.Config{Devices: set, KnownHosts: c.knownHostsFile().Value, LoadKey: keyfile.Load, Log: log})
	if err != nil {
		return err
	}
	defer pool.Close()
	if c.AcceptorDir == "" {
		log.Warn("no --acceptor-dir: devices in tunnel mode cannot be reached")
	}
	devices := make([]checked, 0)
	wrong := 0
	for _, d := range set.Devices() {
		e := checked{
			Name: d.Name, Mode: string(d.Mode), Address: fmt.Sprintf("%s@%s:%d", d.User, d.Host, d.Port),
			Policy: []string{}, Problems: []string{},
		}
		for _, err := range pool.Problems(d) {
			e.Problems = append(e.Problems, err.Error())
		}
		if compiled, err := compilePolicy(d); err != nil {
			e.Problems = append(e.Problems, err.Error())
		} else {
			e.Policy = compiled.Words()
		}
		wrong += len(e.Problems)
		devices = append(devices, e)
	}
	if err := c.print(streams, devices); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("problems: %d (devices: %d)", wrong, len(devices))
	}
	return nil
}

func (c *checkCmd) print(streams program.Streams, devices []checked) error {
	if c.JSON {
		encoder := json.NewEncoder(streams.Out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"devices": devices})
	}
	var text strings.Builder
	for _, d := range devices {
		for _, problem := range d.Problems {
			fmt.Fprintf(&text, "PROBLEM  %s: %s\n", d.Name, problem)
		}
	}
	// Devices under the same policy stand together above its words.
	for i, d := range devices {
		fmt.Fprintf(&text, "%s (%s, %s)\n", d.Name, d.Mode, d.Address)
		if i+1 < len(devices) && slices.Equal(d.Policy, devices[i+1].Policy) {
			continue
		}
		for _, line := range d.Policy {
			fmt.Fprintf(&text, "    %s\n", line)
		}
	}
	fmt.Fprintf(&text, "devices: %d in %s\n", len(devices), c.connectionsFile().Value)
	_, err := fmt.Fprint(streams.Out, text.String())
	return err
}
