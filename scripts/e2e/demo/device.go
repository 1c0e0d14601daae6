package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// device stands for a machine behind NAT: an SSH server that listens nowhere,
// and an SSH client that opens a reverse tunnel to it. A real device has
// OpenSSH's sshd and `ssh -N -R` in their place.
type device struct {
	hostKey  ssh.Signer // proves the device to the frontend, inside the tunnel
	tunnel   ssh.Signer // proves the device to the acceptor
	loginKey ssh.PublicKey
	work     sync.WaitGroup
}

func newKey() (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

// connect opens the reverse tunnel and serves what comes through it until the
// returned client is closed.
func (d *device) connect(ctx context.Context, acceptor string, acceptorKey ssh.PublicKey, port int) (*ssh.Client, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", acceptor)
	if err != nil {
		return nil, err
	}
	conn, chans, reqs, err := ssh.NewClientConn(nc, acceptor, &ssh.ClientConfig{
		User: "agent", Auth: []ssh.AuthMethod{ssh.PublicKeys(d.tunnel)}, HostKeyCallback: ssh.FixedHostKey(acceptorKey),
	})
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	client := ssh.NewClient(conn, chans, reqs)
	ln, err := client.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) // tcpip-forward, as ssh -R sends it
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	d.work.Go(func() {
		for {
			stream, err := ln.Accept()
			if err != nil {
				return
			}
			d.work.Go(func() { d.serve(ctx, stream) })
		}
	})
	return client, nil
}

// serve is the device's SSH server for one connection.
func (d *device) serve(ctx context.Context, stream net.Conn) {
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(d.loginKey.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil //nolint:nilnil // no error is a login; permissions are none
	}}
	cfg.AddHostKey(d.hostKey)
	conn, chans, reqs, err := ssh.NewServerConn(stream, cfg)
	if err != nil {
		_ = stream.Close()
		return
	}
	defer func() { _ = conn.Close() }()
	go ssh.DiscardRequests(reqs)
	for ch := range chans {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		d.work.Go(func() { session(ctx, channel, requests) })
	}
}

// session runs one command.
func session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = channel.Close() }()
	for req := range requests {
		var exec struct{ Command string }
		if req.Type != "exec" || ssh.Unmarshal(req.Payload, &exec) != nil {
			_ = req.Reply(false, nil)
			continue
		}
		_ = req.Reply(true, nil)
		go ssh.DiscardRequests(requests)
		status := struct{ Status uint32 }{runShell(ctx, channel, exec.Command)}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

func runShell(ctx context.Context, channel ssh.Channel, command string) uint32 {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as sshd does
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 255
	}
	go func() { // ends with the channel
		_, _ = io.Copy(stdin, channel)
		_ = stdin.Close()
	}()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return uint32(exit.ExitCode())
	}
	return 255
}
