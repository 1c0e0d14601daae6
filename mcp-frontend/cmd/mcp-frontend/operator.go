package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
)

// listenOperator returns the operator's listener; nil without one. A socket, or an operator, that somebody named is there or the
// start fails. The default one may be missing, where its directory cannot be
// written or another daemon of the same directory has it: then nobody can say
// yes by it, and a warning says so.
func (c *serveCmd) listenOperator(ctx context.Context, g *gateway, own uint32) (net.Listener, error) {
	path := c.operatorSocket()
	if path.Value == "" {
		return nil, nil
	}
	uid := own
	if c.OperatorUID != nil {
		uid = *c.OperatorUID
	}
	ln, err := listenFor(ctx, path.Value, c.dirMode(own), uid, own)
	if err != nil && !path.Named && c.OperatorUID == nil {
		g.log.Warn("no operator socket: what needs an operator's yes cannot run", "error", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return localsocket.Only(ln, []uint32{uid}, func(peer uint32) {
		g.log.Warn("refused an operator of another user", "uid", peer)
		_, _ = g.append(audit.Record{Event: "socket_peer_denied", PeerUID: &peer, Reason: "operator.sock"})
	}), nil
}

// dirMode is the mode of a socket's directory that has to be made: an operator
// of another uid must get to the socket, which is closed to all others.
func (c *serveCmd) dirMode(own uint32) fs.FileMode {
	if c.OperatorUID != nil && *c.OperatorUID != own {
		return 0o711
	}
	return 0o700
}

// listenFor listens on a socket that only uid may use. The file is 0600 and
// uid's: giving it away takes root (CAP_CHOWN).
func listenFor(ctx context.Context, path string, dirMode fs.FileMode, uid, own uint32) (net.Listener, error) {
	ln, err := localsocket.Listen(ctx, path, dirMode, 0o600)
	if err != nil || uid == own {
		return ln, err
	}
	dir := filepath.Dir(path)
	if err := os.Lchown(path, int(uid), -1); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("giving the operator socket to --operator-uid %d takes root (%w): run serve as that uid and leave the flag out, or as root", uid, err)
	}
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm()&0o001 == 0 {
		err = fmt.Errorf("the directory %s (mode %04o) keeps uid %d from the operator socket: chmod 711 it, or name another with --operator-socket", dir, info.Mode().Perm(), uid)
	}
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}
