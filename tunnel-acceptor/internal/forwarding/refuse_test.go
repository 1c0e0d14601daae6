package forwarding

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// What a stock ssh shows to whoever asks for more than a forward.
func TestRefusalsAsOpenSSHShowsThem(t *testing.T) {
	t.Parallel()
	key, stranger := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	const prohibited = "open failed: administratively prohibited: " + forwardsOnly
	forwarding := []string{"-N", "-o", "ExitOnForwardFailure=yes"}
	for name, test := range map[string]struct {
		key     testKey
		options []string
		command string
		stderr  string
	}{
		"shell":      {key, []string{"-T"}, "", "channel 0: " + prohibited},
		"command":    {key, nil, "true", "channel 0: " + prohibited},
		"pty":        {key, []string{"-tt"}, "", "channel 0: " + prohibited},
		"subsystem":  {key, []string{"-s"}, "sftp", "channel 0: " + prohibited},
		"agent, X11": {key, []string{"-A", "-X"}, "true", "channel 0: " + prohibited},
		"-W":         {key, []string{"-W", "127.0.0.1:22"}, "", "channel 0: " + prohibited + "\r\nstdio forwarding failed"},
		"port":       {key, append(forwarding, "-R", "22223:127.0.0.1:9"), "", "Error: remote port forwarding failed for listen port 22223"},
		"address":    {key, append(forwarding, "-R", "0.0.0.0:22222:127.0.0.1:9"), "", "Error: remote port forwarding failed for listen port 22222"},
		"socket":     {key, append(forwarding, "-R", "/tmp/x.sock:127.0.0.1:9"), "", "Error: remote port forwarding failed for listen path /tmp/x.sock"},
		"stranger":   {stranger, append(forwarding, "-R", "22222:127.0.0.1:9"), "", "agent@127.0.0.1: Permission denied (publickey)."},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, output := a.openSSH(test.key, test.options...)
			if test.command != "" {
				cmd.Args = append(cmd.Args, test.command)
			}
			if code := exitCode(t, cmd); code != 255 {
				t.Errorf("exit code %d, want 255", code)
			}
			if !strings.Contains(output.String(), test.stderr) {
				t.Errorf("it showed\n%s\nwant\n%s", output, test.stderr)
			}
		})
	}
	if got := a.named("channel_refused"); len(got) != 6 || got[0].Device != "edge" {
		t.Errorf("refused channels recorded: %+v", got)
	}
}

// The same, by type and reason, for what OpenSSH does not send by itself.
func TestChannelTypesAreRefused(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	client := a.mustLogin(key)
	for channel, reason := range map[string]ssh.RejectionReason{
		"session": ssh.Prohibited, "direct-tcpip": ssh.Prohibited, "direct-streamlocal@openssh.com": ssh.Prohibited,
		"tun@openssh.com": ssh.Prohibited, "forwarded-tcpip": ssh.UnknownChannelType, "x11": ssh.UnknownChannelType,
		"auth-agent@openssh.com": ssh.UnknownChannelType, "": ssh.UnknownChannelType,
	} {
		_, _, err := client.OpenChannel(channel, nil)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != reason {
			t.Errorf("channel %q: %v, want reason %d", channel, err, reason)
		} else if reason == ssh.Prohibited && refused.Message != forwardsOnly {
			t.Errorf("channel %q: message %q", channel, refused.Message)
		}
	}
	for _, request := range []string{"streamlocal-forward@openssh.com", "no-more-sessions@openssh.com", "x@example.com", ""} {
		if ok, payload, err := client.SendRequest(request, true, nil); ok || len(payload) != 0 || err != nil {
			t.Errorf("request %q: %v, %q, %v; want an empty failure", request, ok, payload, err)
		}
	}
	if ok, _, err := client.SendRequest(keepalive, true, nil); !ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
}

// A refused forward's answer is empty, whatever was wrong with it.
func TestForwardsAreRefused(t *testing.T) {
	one, two := newKey(t), newKey(t)
	a := start(t, line("one", one.PublicKey(), "", 22222)+line("two", two.PublicKey(), "", 22223, 22224), nil)
	other := a.hold(one, 22222)
	defer other.Close()
	client := a.mustLogin(two)
	for name, payload := range map[string][]byte{
		"another device's port":   ssh.Marshal(forwardRequest{"localhost", 22222}),
		"a port nobody has":       ssh.Marshal(forwardRequest{"localhost", 1}),
		"a port beyond 16 bits":   ssh.Marshal(forwardRequest{"localhost", 65536 + 22223}),
		"a wildcard address":      ssh.Marshal(forwardRequest{"0.0.0.0", 22223}),
		"a name":                  ssh.Marshal(forwardRequest{"two\x1b[2J", 22223}),
		"port 0, two are granted": ssh.Marshal(forwardRequest{"localhost", 0}),
		"nothing":                 nil,
		"a torn payload":          ssh.Marshal(forwardRequest{"localhost", 22223})[:6],
		"too long a payload":      append(ssh.Marshal(forwardRequest{"localhost", 22223}), 1),
	} {
		if ok, answer, err := client.SendRequest("tcpip-forward", true, payload); ok || len(answer) != 0 || err != nil {
			t.Errorf("%s: %v, %q, %v; want an empty failure", name, ok, answer, err)
		}
	}
	for _, e := range a.named("forward_denied") {
		if e.Device != "two" || e.Reason == "" || strings.ContainsRune(e.Reason, 0x1b) {
			t.Errorf("recorded %+v", e)
		}
	}
	if cancel(t, client, "localhost", 22222) || cancel(t, client, "localhost", 22223) || cancel(t, client, "", 0) {
		t.Error("it could cancel what it does not hold")
	}
	a.checkEcho("one", 22222)
}

// Every label that OpenSSH sends for "here" is the device's own slot, and is
// echoed as it came: the client drops a channel that says another.
func TestLabels(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	for _, label := range []string{"localhost", "127.0.0.1", "::1", "", "*"} {
		client := a.mustLogin(key)
		channels := client.HandleChannelOpen("forwarded-tcpip")
		if !forward(t, client, label, 22222) {
			t.Fatalf("label %q was refused", label)
		}
		go func() { _, _ = a.waitUp("edge", 22222).Open(t.Context()) }()
		nc := <-channels
		var open forwardedChannel
		if err := ssh.Unmarshal(nc.ExtraData(), &open); err != nil {
			t.Fatal(err)
		}
		if open.Label != label || open.Port != 22222 {
			t.Errorf("label %q: the channel says %q:%d", label, open.Label, open.Port)
		}
		_ = nc.Reject(ssh.ConnectionFailed, "")
		_ = client.Close()
		a.waitFor("the tunnel's end", func() bool { return a.state("edge", 22222) == 0 })
	}
	echoed := echoService(t)
	for _, spec := range []string{"22222:", "localhost:22222:", "127.0.0.1:22222:", "[::1]:22222:", ":22222:", "*:22222:", "0:"} {
		cmd, _ := a.openSSH(key, "-N", "-o", "ExitOnForwardFailure=yes", "-R", spec+echoed)
		startCommand(t, cmd)
		a.checkEcho("edge", 22222)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		a.waitFor("the tunnel's end", func() bool { return a.state("edge", 22222) == 0 })
	}
}

// Port 0 is the one port that the device has, and only then is it named.
func TestPortZero(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	client := a.mustLogin(key)
	go echo(client.HandleChannelOpen("forwarded-tcpip"))
	if _, _, err := client.SendRequest("tcpip-forward", false, ssh.Marshal(forwardRequest{"", 0})); err != nil {
		t.Fatal(err)
	}
	a.event("forward_denied") // it would never learn which port it became
	ok, payload, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(forwardRequest{"", 0}))
	var port struct{ Port uint32 }
	if !ok || err != nil || ssh.Unmarshal(payload, &port) != nil || port.Port != 22222 {
		t.Errorf("port 0: %v, %q, %v; want 22222", ok, payload, err)
	}
	ok, payload, err = client.SendRequest("tcpip-forward", true, ssh.Marshal(forwardRequest{"127.0.0.1", 22222}))
	if !ok || len(payload) != 0 || err != nil {
		t.Errorf("the same slot again: %v, %q, %v; want an empty success", ok, payload, err)
	}
	a.checkEcho("edge", 22222)
	if !cancel(t, client, "", 0) {
		t.Error("the cancel of port 0 was refused")
	}
	if got := a.state("edge", 22222); got != 0 {
		t.Errorf("after the cancel, the tunnel's state is %d", got)
	}
}

// The limit counts a device's tunnels over all its sessions.
func TestTunnelsPerDeviceAreBounded(t *testing.T) {
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1, 2, 3), func(cfg *Config, _ *delays) { cfg.MaxTunnels = 2 })
	first, second := a.hold(key, 1), a.hold(key, 2)
	if forward(t, second, "", 3) {
		t.Error("a third tunnel was granted")
	}
	if !forward(t, second, "", 1) {
		t.Error("taking over one of two was refused")
	}
	if !cancel(t, second, "", 1) || !forward(t, second, "", 3) {
		t.Error("a tunnel that was given up still counts")
	}
	_ = first
}

func TestSessionsPerDeviceAreBounded(t *testing.T) {
	key, other := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1)+line("other", other.PublicKey(), "", 2), func(cfg *Config, _ *delays) { cfg.MaxTunnels = 2 })
	for range 2 * sessionsPerTunnel {
		a.mustLogin(key)
	}
	if _, err := a.login(key); err == nil {
		t.Error("one session too many was let in")
	}
	cmd, output := a.openSSH(key, "-N")
	if code := exitCode(t, cmd); code != 255 || !strings.Contains(output.String(), "tunnel-acceptor: "+errDeviceFull.Error()) {
		t.Errorf("exit code %d, it showed\n%s", code, output)
	}
	a.mustLogin(other)
}

func TestConnectionsAreBounded(t *testing.T) {
	key, other := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 1)+line("other", other.PublicKey(), "", 2), func(cfg *Config, _ *delays) { cfg.MaxConnections = 1 })
	client := a.mustLogin(key)
	if _, err := a.login(other); err == nil {
		t.Error("one connection too many was let in")
	}
	_ = client.Close()
	a.event("session_closed")
	a.mustLogin(other)
}

// Host keys are rotated by announcing the next one beside the present one: a
// stock client that is asked to then knows both.
func TestHostKeysAreAnnouncedAndProved(t *testing.T) {
	key, next := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(cfg *Config, _ *delays) { cfg.HostKeys = append(cfg.HostKeys, next) })
	dir := t.TempDir()
	known := filepath.Join(dir, "known_hosts")
	_, port, _ := strings.Cut(a.addr, ":")
	writeFile(t, known, fmt.Appendf(nil, "[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(a.hostKey.PublicKey())))
	cmd, output := a.openSSH(key, "-N", "-v", "-o", "UpdateHostKeys=yes", "-R", "22222:127.0.0.1:9")
	for i, arg := range cmd.Args {
		if strings.HasPrefix(arg, "UserKnownHostsFile=") {
			cmd.Args[i] = "UserKnownHostsFile=" + known
		}
	}
	startCommand(t, cmd)
	want := strings.Fields(string(ssh.MarshalAuthorizedKey(next.PublicKey())))[1]
	a.waitFor("the new key in known_hosts", func() bool { return strings.Contains(readFile(t, known), want) })
	if got := readFile(t, known); !strings.Contains(got, strings.Fields(string(ssh.MarshalAuthorizedKey(a.hostKey.PublicKey())))[1]) {
		t.Errorf("the present key is gone from known_hosts:\n%s\n%s", got, output)
	}

	client := a.mustLogin(key)
	stranger := sshString(newKey(t).PublicKey().Marshal())
	own := sshString(next.PublicKey().Marshal())
	if ok, _, _ := client.SendRequest(hostKeysProve, true, append(own, stranger...)); ok {
		t.Error("a key that is not ours was proved")
	}
	if ok, _, _ := client.SendRequest(hostKeysProve, true, own); !ok {
		t.Error("the next key was not proved")
	}
	if ok, _, _ := client.SendRequest(hostKeysProve, true, own); ok {
		t.Error("the session can make us sign without end")
	}
}
