package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// What OpenSSH's client would never send.

// dialAcceptor logs in with the first of the signers that is accepted.
func dialAcceptor(t *testing.T, a *acceptor, signers ...ssh.Signer) (*ssh.Client, error) {
	t.Helper()
	c, err := ssh.Dial("tcp", a.address(), &ssh.ClientConfig{
		User:            "agent",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: ssh.FixedHostKey(a.hostKey.signer.PublicKey()),
		Timeout:         soon,
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// loginError is nil once the acceptor lets the key in.
func loginError(t *testing.T, a *acceptor, k key) error {
	t.Helper()
	c, err := dialAcceptor(t, a, k.signer)
	if err != nil {
		return err
	}
	return c.Close()
}

// forward is the payload of tcpip-forward and cancel-tcpip-forward, RFC 4254 section 7.1.
type forward struct {
	Address string
	Port    uint32
}

func request(t *testing.T, c *ssh.Client, kind string, f forward) (granted bool, payload []byte) {
	t.Helper()
	granted, payload, err := c.SendRequest(kind, true, ssh.Marshal(f))
	if err != nil {
		t.Fatalf("%s %v: %v", kind, f, err)
	}
	return granted, payload
}

func TestRawRefusals(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	intruder, twoPorts := newKey(t), newKey(t)
	g.acceptor.reload(t, g.grant(), grant("intruder", intruder, 22300), grant("two-ports", twoPorts, 22301, 22302))
	g.openTunnel(t)
	frontendClient := g.frontend.stdio(t)
	eventually(t, soon, "the other device works", func() error { return errorOf(frontendClient.works(t, tunnelDevice)) })
	eventually(t, soon, "the intruder may log in", func() error { return loginError(t, g.acceptor, intruder) })

	untouched := func(t *testing.T) {
		t.Helper()
		if run := frontendClient.mustWork(t, tunnelDevice); run.Connect != "reused" {
			t.Errorf("the other device's connection was %s, want reused: its tunnel was disturbed", run.Connect)
		}
	}
	login := func(t *testing.T) *ssh.Client {
		t.Helper()
		c, err := dialAcceptor(t, g.acceptor, intruder.signer)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	t.Run("cancel of another device's forward", func(t *testing.T) {
		for _, address := range []string{"localhost", "127.0.0.1", "", "*", "::1"} {
			if granted, payload := request(t, login(t), "cancel-tcpip-forward", forward{address, tunnelPort}); granted || len(payload) > 0 {
				t.Errorf("cancel %q: granted %v, payload %q; want an empty failure", address, granted, payload)
			}
		}
		untouched(t)
	})
	t.Run("cancel of no forward", func(t *testing.T) {
		if granted, _ := request(t, login(t), "cancel-tcpip-forward", forward{"localhost", 22300}); granted {
			t.Error("granted")
		}
		untouched(t)
	})
	t.Run("cancel of the own forward", func(t *testing.T) {
		c := login(t)
		for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "tcpip-forward"} {
			if granted, payload := request(t, c, kind, forward{"localhost", 22300}); !granted || len(payload) > 0 {
				t.Errorf("%s: granted %v, payload %q; want an empty success", kind, granted, payload)
			}
		}
		untouched(t)
	})
	t.Run("forwards", func(t *testing.T) {
		for _, f := range []forward{
			{"localhost", tunnelPort},
			{"*", tunnelPort},
			{"", tunnelPort},
			{"127.0.0.1", 22},
			{"localhost", 1},
			{"localhost", 65536 + 22300},
			{"localhost", 1 << 31},
		} {
			if granted, payload := request(t, login(t), "tcpip-forward", f); granted || len(payload) > 0 {
				t.Errorf("%v: granted %v, payload %q; want an empty failure", f, granted, payload)
			}
		}
		untouched(t)
	})
	t.Run("port 0 of two", func(t *testing.T) {
		c, err := dialAcceptor(t, g.acceptor, twoPorts.signer)
		if err != nil {
			t.Fatal(err)
		}
		if granted, _ := request(t, c, "tcpip-forward", forward{"localhost", 0}); granted {
			t.Error("granted: port 0 means the one port of a device, and this one has two")
		}
	})
	t.Run("malformed forward", func(t *testing.T) {
		for _, payload := range [][]byte{nil, {0}, {0xff, 0xff, 0xff, 0xff}, []byte("\x00\x00\x00\x09localhost"), bytes.Repeat([]byte{0}, 1000)} {
			granted, _, err := login(t).SendRequest("tcpip-forward", true, payload)
			if granted {
				t.Errorf("%q: granted", payload)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("%q: %v", payload, err)
			}
		}
		untouched(t)
	})
	t.Run("keepalive", func(t *testing.T) {
		if _, _, err := login(t).SendRequest("keepalive@openssh.com", true, nil); err != nil {
			t.Errorf("not answered: %v", err)
		}
	})

	const why = "this gateway accepts reverse forwards only (ssh -N -R)"
	for kind, reason := range map[string]ssh.RejectionReason{
		"session":                        ssh.Prohibited,
		"direct-tcpip":                   ssh.Prohibited,
		"direct-streamlocal@openssh.com": ssh.Prohibited,
		"tun@openssh.com":                ssh.Prohibited,
		"x11":                            ssh.UnknownChannelType,
		"auth-agent@openssh.com":         ssh.UnknownChannelType,
		"forwarded-tcpip":                ssh.UnknownChannelType,
		"made-up@example.com":            ssh.UnknownChannelType,
	} {
		t.Run("channel "+kind, func(t *testing.T) {
			_, _, err := login(t).OpenChannel(kind, nil)
			var refusal *ssh.OpenChannelError
			if !errors.As(err, &refusal) || refusal.Reason != reason {
				t.Fatalf("got %v, want the reason %v", err, reason)
			}
			if reason == ssh.Prohibited && refusal.Message != why {
				t.Errorf("message: got %q, want %q", refusal.Message, why)
			}
			untouched(t)
		})
	}

	t.Run("a signature of another key", func(t *testing.T) {
		_, err := dialAcceptor(t, g.acceptor, unprovable{g.deviceKey.signer.PublicKey(), intruder.signer})
		if err == nil {
			t.Error("logged in without the private key")
		}
		untouched(t)
	})
	t.Run("no key", func(t *testing.T) {
		_, err := dialAcceptor(t, g.acceptor)
		if err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("got %v, want a refused login", err)
		}
		untouched(t)
	})
	t.Run("password", func(t *testing.T) {
		asked := false
		_, err := ssh.Dial("tcp", g.acceptor.address(), &ssh.ClientConfig{
			User: "agent",
			Auth: []ssh.AuthMethod{
				ssh.PasswordCallback(func() (string, error) { asked = true; return "", nil }),
				ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { asked = true; return nil, nil }),
			},
			HostKeyCallback: ssh.FixedHostKey(g.acceptor.hostKey.signer.PublicKey()),
			Timeout:         soon,
		})
		if err == nil || asked {
			t.Errorf("err %v, asked for a password %v; only publickey is offered", err, asked)
		}
		untouched(t)
	})
}

// unprovable offers one key and signs with another.
type unprovable struct {
	offered ssh.PublicKey
	ssh.Signer
}

func (u unprovable) PublicKey() ssh.PublicKey { return u.offered }

func (u unprovable) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	signature, err := u.Signer.Sign(rand, data)
	if err != nil {
		return nil, fmt.Errorf("signing with another key: %w", err)
	}
	return signature, nil
}
