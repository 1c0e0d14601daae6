package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/tunnels"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type trustCmd struct {
	deviceFlags
	Device      string `arg:"" help:"Name of the device."`
	Fingerprint string `placeholder:"SHA256:…" help:"Fail unless the device shows the key with this fingerprint, and take that key alone."`
	Write       bool   `help:"Append to the known_hosts file what it does not hold yet."`
}

// Run fetches the device's host keys. It decides nothing: the operator does,
// by the fingerprint.
func (c *trustCmd) Run(ctx context.Context, streams program.Streams) error {
	log := program.Log{}.New(streams.Err)
	set, err := c.load(log)
	if err != nil {
		return err
	}
	cfg := sshpool.Config{Devices: set, LoadKey: keyfile.Load, Log: log}
	if c.AcceptorDir != "" {
		cfg.DialTunnel = c.dialTunnel
		cfg.TunnelID = func(string, uint16) string { return "" }
	}
	pool, err := sshpool.New(cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	keys, err := pool.ScanHostKeys(ctx, c.Device)
	if err != nil {
		return err
	}
	keys, err = c.chosen(keys, streams)
	if err != nil {
		return err
	}
	var lines []string
	for _, key := range keys {
		lines = append(lines, knownhosts.Line([]string{c.Device}, key))
	}
	if c.Write {
		path := c.knownHostsFile().Value
		if d, err := pool.Device(c.Device); err == nil && d.KnownHosts != "" {
			path = d.KnownHosts // the file that this device is looked up in
		}
		return appendLines(path, lines, streams)
	}
	_, err = fmt.Fprintln(streams.Out, strings.Join(lines, "\n"))
	return err
}

func (c *trustCmd) chosen(keys []ssh.PublicKey, streams program.Streams) ([]ssh.PublicKey, error) {
	for _, key := range keys {
		fingerprint := ssh.FingerprintSHA256(key)
		_, _ = fmt.Fprintf(streams.Err, "%s shows %s (%s)\n", c.Device, fingerprint, key.Type())
		if c.Fingerprint == fingerprint {
			return []ssh.PublicKey{key}, nil
		}
	}
	if c.Fingerprint != "" {
		return nil, fmt.Errorf("%s shows no key with the fingerprint %s: trust nothing before you know why", c.Device, c.Fingerprint)
	}
	if !c.Write {
		_, _ = fmt.Fprintf(streams.Err, "compare with the device itself: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n")
	}
	return keys, nil
}

// appendLines adds the lines that path does not hold yet.
func appendLines(path string, lines []string, streams program.Streams) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644) //nolint:gosec // known_hosts holds no secret
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", path, err)
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := conflicts(path, old, lines); err != nil {
		return err
	}
	var added bytes.Buffer
	if len(old) > 0 && old[len(old)-1] != '\n' {
		added.WriteByte('\n')
	}
	for _, line := range lines {
		if !bytes.Contains(append(append([]byte("\n"), old...), '\n'), []byte("\n"+line+"\n")) {
			added.WriteString(line + "\n")
			_, _ = fmt.Fprintf(streams.Err, "added to %s: %s\n", path, line)
		}
	}
	if _, err := f.Write(added.Bytes()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Sync()
}

// conflicts refuses to trust a second key of a kind beside another: whoever
// answers for the device now may not be the device.
func conflicts(path string, old []byte, lines []string) error {
	for _, line := range lines {
		fields := strings.Fields(line) // name, kind, key
		number := 0
		for known := range strings.Lines(string(old)) {
			number++
			f := strings.Fields(known)
			if len(f) >= 3 && f[0] == fields[0] && f[1] == fields[1] && f[2] != fields[2] {
				return fmt.Errorf("%s:%d knows another %s key of %s: find out why it changed, remove that line, then trust the new key", path, number, f[1], f[0])
			}
		}
	}
	return nil
}

// dialTunnel asks the acceptor without watching it.
func (c *trustCmd) dialTunnel(ctx context.Context, host string, port uint16) (conn net.Conn, id string, err error) {
	conn, err = tunnels.Connect(ctx, c.AcceptorDir, host, port, 0)
	return conn, "", tunnelError(tunnels.Tunnel{}, err)
}
