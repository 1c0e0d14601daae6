package main

import (
	"context"
	"errors"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcptools"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// rulesOf returns a device's rules. One that has just been removed gets those
// of a device that may do nothing.
func (g *gateway) rulesOf(device string) rules {
	if r, ok := (*g.rules.Load())[device]; ok {
		return r
	}
	nothing, err := policy.New(policy.Config{Allow: policy.List{Present: true}})
	if err != nil {
		panic(err) // an empty list is always sound
	}
	return rules{policy: nothing}
}

// load reads the devices and compiles their policies.
func (g *gateway) load() (*connections.Set, map[string]rules, error) {
	set, err := g.flags.load(g.log)
	if err != nil {
		return nil, nil, err
	}
	byDevice := make(map[string]rules)
	var problems []error
	for _, d := range set.Devices() {
		compiled, err := compilePolicy(d)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		limits := mcptools.Limits{DefaultTimeout: d.CommandTimeout}
		if p := d.Policy; p != nil {
			limits.MaxTimeout, limits.MaxOutputBytes = p.MaxTimeout, p.MaxOutputBytes
		}
		byDevice[d.Name] = rules{policy: compiled, limits: limits}
	}
	return set, byDevice, errors.Join(problems...)
}

// warnUnusable tells the operator which devices cannot work as configured.
func (g *gateway) warnUnusable() {
	for _, s := range g.pool.Status() {
		if s.Unusable != nil {
			g.log.Warn("a device is misconfigured; the others work", "device", s.Device.Name, "error", s.Unusable)
		}
	}
}

// watch reloads connections.json on SIGHUP until ctx ends. A bad file is
// refused whole, and the old devices stay.
func (g *gateway) watch(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.hangup:
			g.reload()
		}
	}
}

func (g *gateway) reload() {
	set, byDevice, err := g.load()
	if err != nil {
		g.log.Error("the new connections.json is refused, the old one stays", "error", err)
		_, _ = g.trail.Append(audit.Record{Event: "reload_refused", Reason: err.Error()})
		return
	}
	if _, err := g.trail.Append(audit.Record{Event: "reloaded", Count: int64(len(byDevice))}); err != nil {
		g.log.Error("the audit trail cannot be written, the old connections.json stays", "error", err)
		return
	}
	g.rules.Store(&byDevice) // first, so that no new device is judged by old rules
	g.pool.SetDevices(set)
	g.warnUnusable()
	g.log.Info("reloaded connections.json", "devices", len(byDevice))
}
