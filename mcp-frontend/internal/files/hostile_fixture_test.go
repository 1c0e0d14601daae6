package files

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// A device may be anybody's. hostile is one whose SFTP server answers what a
// test says, so that what no real server does can be shown: it is no stand-in
// for one that does its work.
type hostile struct {
	// answer returns the packets that answer one; type and body without the length.
	answer func(kind byte, id []byte, body []byte) [][]byte
	deaf   bool // it takes no data and no end of a channel after the greeting
}

// Packet types of draft-ietf-secsh-filexfer-02.
const (
	fxpOpen, fxpClose, fxpRead, fxpLstat, fxpFstat, fxpOpendir, fxpReaddir, fxpRealpath = 3, 4, 5, 7, 8, 11, 12, 16
	fxpStatus, fxpHandle, fxpData, fxpName, fxpAttrs                                    = 101, 102, 103, 104, 105
)

func text(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }

func packet(kind byte, parts ...[]byte) []byte {
	return append([]byte{kind}, bytes.Join(parts, nil)...)
}

// attrs are those of a directory or of a file of that size.
func attrs(dir bool, size uint64) []byte {
	mode := uint32(0o100644)
	if dir {
		mode = 0o040755
	}
	a := binary.BigEndian.AppendUint32(nil, 1|4) // size, permissions
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(a, size), mode)
}

func entryOf(name string) []byte {
	return bytes.Join([][]byte{text(name), text(""), attrs(false, 1<<63+5)}, nil)
}

// dial returns a client of the device.
func (h hostile) dial(t *testing.T) *ssh.Client {
	t.Helper()
	hostKey, userKey := sshdtest.NewKey(t, "ed25519"), sshdtest.NewKey(t, "ed25519")
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(hostKey.Signer)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		theirs, err := ln.Accept()
		if err != nil {
			return
		}
		conn, channels, requests, err := ssh.NewServerConn(theirs, config)
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				_ = r.Reply(true, nil)
			}
		}()
		for c := range channels {
			channel, requests, err := c.Accept()
			if err != nil {
				continue
			}
			go func() {
				for r := range requests {
					_ = r.Reply(true, nil)
				}
				if !h.deaf {
					_ = channel.Close()
				}
			}()
			go h.serve(channel)
		}
		_ = conn.Wait()
	}()
	t.Cleanup(func() {
		_ = ln.Close()
	})
	ours, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := sshdtest.Client(t, ours, "anybody", userKey, hostKey)
	t.Cleanup(func() {
		_ = client.Close()
		<-ended
	})
	return client
}

func (h hostile) serve(channel ssh.Channel) {
	send := func(p []byte) error {
		_, err := channel.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...))
		return err
	}
	for {
		var length [4]byte
		if _, err := io.ReadFull(channel, length[:]); err != nil {
			return
		}
		p := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(channel, p); err != nil {
			return
		}
		if p[0] == 1 { // SSH_FXP_INIT
			if send([]byte{2, 0, 0, 0, 3}) != nil {
				return
			}
			if h.deaf {
				return
			}
			continue
		}
		for _, answer := range h.answer(p[0], p[1:5], p[5:]) {
			if send(answer) != nil {
				return
			}
		}
	}
}

// usual answers as a server with one directory and one file does, but for
// what a test is about.
func usual(kind byte, id, body []byte) [][]byte {
	switch kind {
	case fxpRealpath:
		return [][]byte{packet(fxpName, id, []byte{0, 0, 0, 1}, body, text(""), []byte{0, 0, 0, 0})}
	case fxpLstat, fxpFstat:
		return [][]byte{packet(fxpAttrs, id, attrs(!bytes.Contains(body, []byte("file")), 10))}
	case fxpOpen, fxpOpendir:
		return [][]byte{packet(fxpHandle, id, text("file"))}
	default:
		return [][]byte{packet(fxpStatus, id, []byte{0, 0, 0, 0}, text(""), text(""))}
	}
}
