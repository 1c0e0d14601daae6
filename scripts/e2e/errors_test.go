package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whatever is wrong with a device is that device's error, with its own code
// and a next step, and the other device goes on working in the same session.
func TestDeviceErrors(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	f := g.frontend

	unknown := startSSHD(t, g.userKey)
	f.add(t, directEntry("unknown-host-key", unknown, logins[0]), g.userKey)

	changed := startSSHD(t, g.userKey)
	f.add(t, directEntry("changed-host-key", changed, logins[0]), g.userKey,
		fmt.Sprintf("[127.0.0.1]:%d %s", changed.port, newKey(t).public))

	f.addDirect(t, "wrong-user-key", g.direct, logins[0], newKey(t))

	f.addDirect(t, "readable-key", g.direct, logins[0], g.userKey)
	if err := os.Chmod(f.idFile("readable-key"), 0o640); err != nil {
		t.Fatal(err)
	}
	f.addDirect(t, "missing-key", g.direct, logins[0], g.userKey)
	if err := os.Remove(f.idFile("missing-key")); err != nil {
		t.Fatal(err)
	}
	f.addDirect(t, "garbled-key", g.direct, logins[0], g.userKey)
	write(t, f.idFile("garbled-key"), "not a key\n", 0o600)

	closed := entry{"name": "closed-port", "mode": "direct", "user": string(logins[0]), "host": "127.0.0.1", "port": freePort(t)}
	f.add(t, closed, g.userKey)

	c := f.stdio(t)
	const operator, model = "operator", "model"
	for _, test := range []struct {
		device, code, fixBy string
		hint                []string // words of the hint or the message
	}{
		{"unknown-host-key", "HOST_KEY_UNKNOWN", operator, []string{unknown.hostKey.fingerprint, "mcp-frontend trust unknown-host-key"}},
		{"changed-host-key", "HOST_KEY_MISMATCH", operator, []string{changed.hostKey.fingerprint}},
		{"wrong-user-key", "AUTH_FAILED", operator, nil},
		{"readable-key", "KEY_UNUSABLE", operator, []string{"chmod 600", f.idFile("readable-key")}},
		{"missing-key", "KEY_UNUSABLE", operator, []string{"missing-key.key"}},
		{"garbled-key", "KEY_UNUSABLE", operator, []string{"garbled-key.key"}},
		{"closed-port", "DIAL_FAILED", "", nil},
		{tunnelDevice, "TUNNEL_DOWN", "", nil},
		{"edge-vm-l", "DEVICE_NOT_FOUND", model, []string{directDevice, tunnelDevice}},
		{"", "INVALID_ARGUMENT", model, nil},
	} {
		t.Run(test.code+" "+test.device, func(t *testing.T) {
			run := c.run(t, test.device, "uname -a")
			e := run.refused(t, test.code)
			for _, words := range test.hint {
				if !strings.Contains(e.Hint+" "+e.Message, words) {
					t.Errorf("neither hint nor message has %q:\n%s\n%s", words, e.Hint, e.Message)
				}
			}
			if test.fixBy != "" && e.FixBy != test.fixBy {
				t.Errorf("fix_by: got %q, want %s", e.FixBy, test.fixBy)
			}
			c.mustWork(t, directDevice)
		})
	}

	t.Run("list", func(t *testing.T) {
		devices := c.devices(t)
		for _, name := range []string{"readable-key", "missing-key", "garbled-key"} {
			if got := devices[name].State; got != "misconfigured" {
				t.Errorf("%s: state %q, want misconfigured", name, got)
			}
		}
		if got := devices[directDevice]; got.State != "up" || got.Mode != "direct" || got.Failures != 0 {
			t.Errorf("%s: got %+v, want up, direct, no failures", directDevice, got)
		}
		if got := devices["wrong-user-key"]; got.Failures == 0 || got.LastError == nil {
			t.Errorf("wrong-user-key: got %+v, want a failure and the last error", got)
		}
	})
}

// The tunnel is up, but nothing listens where it leads.
func TestTunnelLeadsNowhere(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	openTunnel(t, g.acceptor, g.deviceKey, fmt.Sprintf("22222:localhost:%d", freePort(t)))
	eventually(t, soon, "the tunnel is up", func() error { return g.acceptor.up(t, tunnelDevice, tunnelPort) })
	c := g.frontend.stdio(t)
	c.run(t, tunnelDevice, "true").refused(t, "DIAL_FAILED")
	c.mustWork(t, directDevice)
}

func TestAcceptorDown(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	c := g.frontend.stdio(t)
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	if code := g.acceptor.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the acceptor ended with %d", code)
	}
	eventually(t, soon, "the frontend sees it", func() error {
		if e := c.works(t, tunnelDevice); e == nil || e.Code != "ACCEPTOR_DOWN" {
			return fmt.Errorf("got %+v, want ACCEPTOR_DOWN", e)
		}
		return nil
	})
	c.run(t, tunnelDevice, "true").refused(t, "ACCEPTOR_DOWN")
	if state := c.devices(t)[tunnelDevice].State; state != "unknown" && state != "down" {
		t.Errorf("state: got %q of a device whose acceptor is down", state)
	}
	c.mustWork(t, directDevice)
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)

	for name, test := range map[string]struct {
		tool      string
		arguments args
		names     string // the argument that the message names
	}{
		"nothing":              {"ssh_run", args{}, "device"},
		"no command":           {"ssh_run", args{"device": directDevice}, "command"},
		"empty command":        {"ssh_run", args{"device": directDevice, "command": ""}, "command"},
		"device is a number":   {"ssh_run", args{"device": 7, "command": "true"}, "device"},
		"command is a list":    {"ssh_run", args{"device": directDevice, "command": []string{"true"}}, "command"},
		"unknown argument":     {"ssh_run", args{"device": directDevice, "command": "true", "colour": "red"}, "colour"},
		"host instead":         {"ssh_run", args{"host": "127.0.0.1", "command": "true"}, "host"},
		"timeout 0":            {"ssh_run", args{"device": directDevice, "command": "true", "timeout_s": 0}, "timeout_s"},
		"timeout negative":     {"ssh_run", args{"device": directDevice, "command": "true", "timeout_s": -1}, "timeout_s"},
		"timeout is text":      {"ssh_run", args{"device": directDevice, "command": "true", "timeout_s": "soon"}, "timeout_s"},
		"output negative":      {"ssh_run", args{"device": directDevice, "command": "true", "max_output_bytes": -5}, "max_output_bytes"},
		"NUL in the command":   {"ssh_run", args{"device": directDevice, "command": "echo a\x00b"}, "command"},
		"list: unknown filter": {"ssh_list_devices", args{"colour": "red"}, "colour"},
		"list: unknown state":  {"ssh_list_devices", args{"state": "asleep"}, "state"},
	} {
		t.Run(name, func(t *testing.T) {
			result := c.callTool(t, test.tool, test.arguments)
			e := decode[struct {
				Error *toolError `json:"error"`
			}](t, result).Error
			if !result.IsError || e == nil || e.Code != "INVALID_ARGUMENT" {
				t.Fatalf("isError %v, error %+v; want INVALID_ARGUMENT", result.IsError, e)
			}
			if !strings.Contains(e.Message, test.names) || e.Hint == "" || e.FixBy != "model" {
				t.Errorf("message %q, hint %q, fix_by %q; want %s named, a hint, model", e.Message, e.Hint, e.FixBy, test.names)
			}
			c.mustWork(t, directDevice)
		})
	}
}

// A bad file refuses the start, with the place and the way out; on reload it
// is refused whole and the old one stays.
func TestUnknownFieldInConnections(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	good := read(t, f.connections)
	bad := strings.Replace(good, `    "id_file"`, "    \"idfile\": \"x\",\n    \"id_file\"", 1)
	at := place(t, bad, `"idfile"`)

	t.Run("start", func(t *testing.T) {
		write(t, f.connections, bad, 0o600)
		for _, command := range []string{"stdio", "serve", "check"} {
			done := runCmd(t, f.command(command))
			if done.code != 1 {
				t.Errorf("%s: exit code %d, want 1", command, done.code)
			}
			said := done.stderr
			if command == "check" {
				said += done.stdout
			} else if done.stdout != "" {
				t.Errorf("%s: stdout: %q", command, done.stdout)
			}
			for _, words := range []string{"connections.json", at, "idfile", "id_file"} {
				if !strings.Contains(said, words) {
					t.Errorf("%s does not say %q:\n%s", command, words, said)
				}
			}
			noStackTrace(t, said)
		}
	})

	t.Run("reload", func(t *testing.T) {
		write(t, f.connections, good, 0o600)
		daemon := f.serve(t)
		c := f.attach(t)
		c.mustWork(t, directDevice)

		write(t, f.connections, bad, 0o600)
		daemon.signal(t, syscall.SIGHUP)
		daemon.waitFor(t, at) // the log says where
		c.mustWork(t, directDevice)
		if devices := c.devices(t); len(devices) != 1 {
			t.Errorf("after a refused reload: %v", devices)
		}

		f.addDirect(t, "edge-vm-3", startSSHD(t, userKey), logins[0], userKey)
		daemon.signal(t, syscall.SIGHUP)
		eventually(t, soon, "the good file is taken", func() error {
			if _, known := c.devices(t)["edge-vm-3"]; !known {
				return fmt.Errorf("edge-vm-3 is not listed")
			}
			return nil
		})
		c.mustWork(t, "edge-vm-3")
		c.mustWork(t, directDevice)
	})
}

// place is where the text stands in a file: LINE:COLUMN.
func place(t *testing.T, content, text string) string {
	t.Helper()
	before, _, found := strings.Cut(content, text)
	if !found {
		t.Fatalf("%q is not in %s", text, content)
	}
	return fmt.Sprintf("%d:%d", strings.Count(before, "\n")+1, len(before)-strings.LastIndexByte(before, '\n'))
}

func noStackTrace(t *testing.T, said string) {
	t.Helper()
	for _, words := range []string{"goroutine ", "panic:", ".go:"} {
		if strings.Contains(said, words) {
			t.Errorf("a stack trace or a source position:\n%s", said)
		}
	}
}

// The issue's own connections.json, word for word, with other paths.
func TestExampleConnections(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	keys := mkdir(t, g.frontend.dir, "keys")
	const example = `[
  {"name": "edge-vm-1", "mode": "direct", "user": "USER", "host": "127.0.0.1", "port": PORT, "id_file": "KEYS/edge-vm-1.key"},
  {"name": "edge-vm-2", "mode": "tunnel", "user": "USER", "host": "127.0.0.1", "port": 22222, "id_file": "KEYS/edge-vm-2.key"}
]
`
	content := strings.NewReplacer("USER", string(logins[0]), "PORT", fmt.Sprint(g.direct.port), "KEYS", keys).Replace(example)
	write(t, filepath.Join(g.frontend.dir, "connections.json"), content, 0o644)
	c := g.frontend.stdio(t)
	c.mustWork(t, "edge-vm-1")
	eventually(t, soon, "edge-vm-2 works", func() error { return errorOf(c.works(t, "edge-vm-2")) })
}
