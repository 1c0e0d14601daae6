package sshpool

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// Under which lines a device is looked up.
func TestHostKeyLookUp(t *testing.T) {
	t.Parallel()
	key, other := sshdtest.NewKey(t, "ed25519"), sshdtest.NewKey(t, "ed25519")
	hashed := func(host string) string {
		return knownhosts.HashHostname(knownhosts.Normalize(host)) + " " + key.Public
	}
	at22 := connections.Device{Name: "edge", Mode: connections.Direct, Host: "10.0.0.5", Port: 22}
	at2222 := connections.Device{Name: "edge", Mode: connections.Direct, Host: "10.0.0.5", Port: 2222}
	tunnel := connections.Device{Name: "edge", Mode: connections.Tunnel, Host: "127.0.0.1", Port: 22222}
	slot := connections.Device{Name: "pump", Mode: connections.Tunnel, Host: "edge", Port: 22}
	for name, c := range map[string]struct {
		device connections.Device
		lines  []string
		want   Code // "" for a key that is trusted
	}{
		"nothing":                          {tunnel, nil, HostKeyUnknown},
		"the name":                         {tunnel, []string{"edge " + key.Public}, ""},
		"the name hashed":                  {tunnel, []string{hashed("edge")}, ""},
		"the name and others":              {tunnel, []string{"core,edge,rim " + key.Public}, ""},
		"the name by a pattern":            {tunnel, []string{"ed?e,e* " + key.Public}, ""},
		"the name, excepted":               {tunnel, []string{"e*,!edge " + key.Public}, HostKeyUnknown},
		"the name with another key":        {tunnel, []string{"edge " + other.Public}, HostKeyMismatch},
		"an old line and a new one":        {tunnel, []string{"edge " + other.Public, "edge " + key.Public}, ""},
		"a comment and an empty line":      {tunnel, []string{"# edge", "", "edge " + key.Public + " the edge"}, ""},
		"address and port":                 {tunnel, []string{"[127.0.0.1]:22222 " + key.Public}, ""},
		"address and port hashed":          {tunnel, []string{hashed("127.0.0.1:22222")}, ""},
		"another port":                     {tunnel, []string{"[127.0.0.1]:22223 " + key.Public}, HostKeyUnknown},
		"the address, as a tunnel":         {tunnel, []string{"127.0.0.1 " + key.Public}, HostKeyUnknown},
		"the address, of a slot at 22":     {slot, []string{"edge " + key.Public, "[edge]:22 " + key.Public}, HostKeyUnknown},
		"the address, direct at 22":        {at22, []string{"10.0.0.5 " + key.Public}, ""},
		"the address, direct elsewhere":    {at2222, []string{"10.0.0.5 " + key.Public}, HostKeyUnknown},
		"address and port, direct":         {at2222, []string{"[10.0.0.5]:2222 " + key.Public}, ""},
		"the name before the address":      {at22, []string{"10.0.0.5 " + key.Public, "edge " + other.Public}, HostKeyMismatch},
		"revoked":                          {tunnel, []string{"edge " + key.Public, "@revoked * " + key.Public}, HostKeyMismatch},
		"revoked and unknown":              {tunnel, []string{"@revoked * " + key.Public}, HostKeyMismatch},
		"another key is revoked":           {tunnel, []string{"@revoked * " + other.Public, "edge " + key.Public}, ""},
		"an authority, but no certificate": {tunnel, []string{"@cert-authority edge " + other.Public}, HostKeyMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := knownHosts(t, c.lines...)
			hosts, err := loadHostKeys(path, c.device)
			if err != nil {
				t.Fatal(err)
			}
			var got Code
			if e := hosts.verify(key.Signer.PublicKey()); e != nil {
				got = e.Code
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestBadKnownHosts(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	e := mustFail(t, onePool(t, s, nil, s.Known("edge"), "edge ssh-ed25519 nonsense"), "edge", HostKeyUnknown)
	contains(t, e.Error(), "known_hosts:2")
	if s.Accepted() != 0 {
		t.Error("the device was dialled")
	}
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{HostKeys: []sshdtest.Key{sshdtest.NewKey(t, "ed25519"), sshdtest.NewKey(t, "rsa")}})
	stranger := sshdtest.NewKey(t, "ed25519")
	fingerprint := ssh.FingerprintSHA256(s.HostKeys[0].Signer.PublicKey())
	address := fmt.Sprintf("[%s]:%d ", s.Host, s.Port)
	for name, c := range map[string]struct {
		line string
		want Code
		says []string
	}{
		"by name":           {line: s.Known("edge")},
		"by address":        {line: address + s.HostKeys[0].Public},
		"only the rsa line": {line: "edge " + s.HostKeys[1].Public},
		"changed": {
			"edge " + stranger.Public, HostKeyMismatch,
			[]string{fingerprint, "known_hosts:1", "do not go on", "mcp-frontend trust edge"},
		},
		"unknown": {
			"rim " + s.HostKeys[0].Public, HostKeyUnknown,
			[]string{fingerprint, "mcp-frontend trust edge --fingerprint " + fingerprint + " --write"},
		},
		"portless": {"127.0.0.1 " + s.HostKeys[0].Public, HostKeyUnknown, nil},
		"a kind that the device has not": {
			"edge " + sshdtest.NewKey(t, "ecdsa").Public, HostKeyMismatch, []string{"ssh-ed25519", "no key of a kind"},
		},
		"revoked": {
			s.Known("edge") + "\n" + s.Known("@revoked *"), HostKeyMismatch, []string{fingerprint, "known_hosts:2 revokes"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := onePool(t, s, nil, c.line)
			if c.want == "" {
				lease := acquire(t, p, "edge")
				defer lease.Release()
				works(t, lease)
				return
			}
			e := mustFail(t, p, "edge", c.want)
			contains(t, e.Error()+" "+e.Hint, c.says...)
			if e.FixBy != "operator" || e.Stage != StageHostKey {
				t.Errorf("got %+v", e)
			}
			if failures := p.Status()[0].Failures; failures != 0 {
				t.Errorf("%d failures are counted: it was reached", failures)
			}
		})
	}
}

// trust needs no restart: the file is read at each dial.
func TestKnownHostsAreReadAtEachDial(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, nil)
	mustFail(t, p, "edge", HostKeyUnknown)
	sshdtest.Write(t, p.cfg.KnownHosts, s.Known("edge")+"\n", 0o644)
	acquire(t, p, "edge").Release()
}

func TestHostCertificates(t *testing.T) {
	t.Parallel()
	ca := sshdtest.NewKey(t, "ed25519")
	host := sshdtest.NewKey(t, "ed25519")
	cert := ca.Sign(t, host, "-h", "-n", "edge")
	s := sshdtest.Start(t, sshdtest.Config{HostKeys: []sshdtest.Key{host}, Lines: []string{"HostCertificate " + cert}})
	for name, c := range map[string]struct {
		device string
		lines  []string
		want   Code
	}{
		"an authority for the name":       {"edge", []string{"@cert-authority edge " + ca.Public}, ""},
		"an authority for a pattern":      {"edge", []string{"@cert-authority e*,!rim " + ca.Public}, ""},
		"a plain line":                    {"edge", []string{s.Known("edge")}, ""},
		"a device that it does not name":  {"rim", []string{"@cert-authority * " + ca.Public}, HostKeyMismatch},
		"another authority":               {"edge", []string{"@cert-authority * " + sshdtest.NewKey(t, "ed25519").Public}, HostKeyMismatch},
		"a revoked authority":             {"edge", []string{"@cert-authority * " + ca.Public, "@revoked * " + ca.Public}, HostKeyMismatch},
		"a revoked key":                   {"edge", []string{"@cert-authority * " + ca.Public, s.Known("@revoked *")}, HostKeyMismatch},
		"nothing":                         {"edge", []string{"@cert-authority rim " + ca.Public}, HostKeyUnknown},
		"an authority by address, unused": {"edge", []string{s.Known("edge"), fmt.Sprintf("@cert-authority [127.0.0.1]:%d %s", s.Port, ca.Public)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(t, Config{Devices: deviceSet(t, direct(t, c.device, s, nil)), KnownHosts: knownHosts(t, c.lines...)})
			if c.want != "" {
				e := mustFail(t, p, c.device, c.want)
				if c.want == HostKeyUnknown && !strings.Contains(e.Hint, ssh.FingerprintSHA256(host.Signer.PublicKey())) {
					t.Errorf("the hint does not name the plain key, which trust shows: %s", e.Hint)
				}
				return
			}
			acquire(t, p, c.device).Release()
		})
	}
}

// A device of long ago has a host key, but no safe way to prove it.
func TestOnlyUnsafeAlgorithms(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{
		HostKeys: []sshdtest.Key{sshdtest.NewKey(t, "rsa")}, Lines: []string{"HostKeyAlgorithms ssh-rsa"},
	})
	e := mustFail(t, onePool(t, s, nil), "edge", HostKeyUnknown)
	contains(t, e.Error(), "not safe (ssh-rsa)")
	mustFail(t, onePool(t, s, nil, s.Known("edge")), "edge", HostKeyMismatch)
}

func TestScanHostKeys(t *testing.T) {
	t.Parallel()
	keys := []sshdtest.Key{sshdtest.NewKey(t, "ed25519"), sshdtest.NewKey(t, "ecdsa"), sshdtest.NewKey(t, "rsa")}
	s := sshdtest.Start(t, sshdtest.Config{HostKeys: keys})
	got, err := onePool(t, s, nil).ScanHostKeys(bounded(t), "edge")
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range got {
		if want := keys[i].Public; strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) != want {
			t.Errorf("got %s, want %s", key.Type(), want)
		}
	}
	if len(got) != len(keys) {
		t.Errorf("got %d keys, want %d", len(got), len(keys))
	}
}
