package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/forwarding"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

type keyFlags struct {
	AuthorizedKeys program.Path `placeholder:"FILE" help:"Device keys in OpenSSH's authorized_keys format (default data/acceptor/authorized_keys)."`
	RevokedKeys    string       `placeholder:"FILE" help:"Revoked keys: a list of public keys, or a KRL."`
}

func (k keyFlags) path() program.Path { return k.AuthorizedKeys.Or("data/acceptor/authorized_keys") }

// load reads the device keys. A default file that is missing counts as empty.
func (k keyFlags) load(log *slog.Logger) (*devicekey.Set, error) {
	path := k.path()
	set, err := devicekey.Load(path.Value)
	if !path.Named && errors.Is(err, fs.ErrNotExist) {
		log.Warn("no authorized keys yet: no device can connect", "path", path.Value)
		set, err = devicekey.Empty(), nil
	}
	if err != nil {
		return nil, err
	}
	if k.RevokedKeys == "" {
		return set, nil
	}
	revoked, err := devicekey.LoadRevoked(k.RevokedKeys)
	if err != nil {
		return nil, err
	}
	return set.WithRevoked(revoked), nil
}

// granted lists the slots that plain keys name. Certificates name theirs when
// they connect.
func granted(set *devicekey.Set) []registry.Key {
	var keys []registry.Key
	for _, e := range set.Entries() {
		if e.CertAuthority {
			continue
		}
		for _, port := range e.Ports {
			keys = append(keys, registry.Key{Device: e.Device, Port: port})
		}
	}
	return keys
}

// changes tell when the device keys must be read again: on SIGHUP, and when
// their files are not what they were.
type changes struct {
	files  keyFlags
	seen   [2]stamp
	hangup chan os.Signal
}

// changes begins to look. Called before the keys are first read, it misses
// nothing that happens after.
func (k keyFlags) changes() *changes {
	c := &changes{files: k, seen: k.stamps(), hangup: make(chan os.Signal, 1)}
	signal.Notify(c.hangup, syscall.SIGHUP)
	return c
}

// each calls reload at every change until ctx ends.
func (c *changes) each(ctx context.Context, reload func()) {
	defer signal.Stop(c.hangup)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hangup:
			c.seen = c.files.stamps()
		case <-tick.C:
			now := c.files.stamps()
			if now == c.seen {
				continue
			}
			c.seen = now
		}
		reload()
	}
}

// reload replaces the device keys. A bad file is refused whole, and the old
// keys stay.
func (c *serveCmd) reload(log *slog.Logger, rec *recorder, server *forwarding.Server, tunnels *registry.Registry) {
	set, err := c.load(log)
	if err != nil {
		log.Error("the new authorized keys are refused, the old ones stay", "error", err)
		_ = rec.append(audit.Record{Event: "reload_refused", Reason: err.Error()})
		return
	}
	// The record comes first, as for everything that changes who may do what.
	if err := rec.append(audit.Record{Event: "reloaded", Count: int64(len(set.Entries()))}); err != nil {
		return
	}
	tunnels.SetGranted(granted(set))
	server.SetKeys(set)
	log.Info("reloaded the authorized keys", "path", c.path().Value, "lines", len(set.Entries()))
}

// stamp tells one version of a file from another.
type stamp struct {
	size    int64
	changed time.Time
	inode   uint64
}

// stamps covers the authorized and the revoked keys.
func (k keyFlags) stamps() (s [2]stamp) {
	for i, path := range []string{k.path().Value, k.RevokedKeys} {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		s[i] = stamp{size: info.Size(), changed: info.ModTime()}
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			s[i].inode = sys.Ino
		}
	}
	return s
}
