package connections_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// twoDevices is what a user writes first: nothing but the required fields.
const twoDevices = `[
  {"name": "edge-vm-1", "mode": "direct", "user": "admin", "host": "192.168.1.100", "port": 22, "id_file": "/data/keys/edge-vm-1.key"},
  {"name": "edge-vm-2", "mode": "tunnel", "user": "pi", "host": "127.0.0.1", "port": 22222, "id_file": "/data/keys/edge-vm-2.key"}
]`

// everyField has no field at its default, so that one which is read wrongly shows.
const everyField = `[
  {
    "name": "web-1", "mode": "direct", "user": "deploy", "host": "web-1.example.org", "port": 2200,
    "id_file": "keys/web-1.key", "certificate_file": "keys/web-1-cert.pub", "known_hosts": "/etc/gw/known_hosts",
    "description": "Web server, north", "tags": ["prod", "site:north"],
    "jump": "bastion", "login_shell": "fish",
    "connect_timeout_s": 11, "command_timeout_s": 51, "keepalive_s": 16, "max_sessions": 9,
    "retry": {"max_attempts": 4, "initial_backoff_ms": 251, "max_backoff_ms": 10001, "cooldown_s": 31},
    "policy": {
      "allow": ["systemctl status *"], "deny": ["** --force* **"], "approve": ["systemctl restart *"], "read_only": ["mytool show **"],
      "approve_by": "operator", "shell": true, "sudo": true,
      "read_paths": ["/var/log"], "write_paths": ["/etc/myapp"],
      "max_timeout_s": 300, "max_output_bytes": 1048576
    }
  },
  {"name": "bastion", "mode": "direct", "user": "jump", "host": "2001:db8::1", "port": 22, "id_file": "keys/bastion.key"}
]`

func withDefaults(device connections.Device) connections.Device {
	device.ConnectTimeout = 10 * time.Second
	device.CommandTimeout = 50 * time.Second
	device.Keepalive = 15 * time.Second
	device.MaxSessions = 8
	device.Retry = connections.Retry{
		MaxAttempts:    3,
		InitialBackoff: 250 * time.Millisecond,
		MaxBackoff:     10 * time.Second,
		Cooldown:       30 * time.Second,
	}
	return device
}

func TestParse(t *testing.T) {
	present := func(items ...string) connections.List {
		return connections.List{Present: true, Items: items}
	}
	tests := []struct {
		name, text string
		want       []connections.Device
	}{
		{"none", `[]`, []connections.Device{}},
		{"byte order mark", "\ufeff[]\n", []connections.Device{}},
		{"required fields", twoDevices, []connections.Device{
			withDefaults(connections.Device{
				Name: "edge-vm-1", Mode: connections.Direct, User: "admin",
				Host: "192.168.1.100", Port: 22, IDFile: "/data/keys/edge-vm-1.key",
			}),
			withDefaults(connections.Device{
				Name: "edge-vm-2", Mode: connections.Tunnel, User: "pi",
				Host: "127.0.0.1", Port: 22222, IDFile: "/data/keys/edge-vm-2.key",
			}),
		}},
		{"every field", everyField, []connections.Device{
			{
				Name: "web-1", Mode: connections.Direct, User: "deploy", Host: "web-1.example.org", Port: 2200,
				IDFile: "/conf/keys/web-1.key", CertificateFile: "/conf/keys/web-1-cert.pub", KnownHosts: "/etc/gw/known_hosts",
				Description: "Web server, north", Tags: []string{"prod", "site:north"},
				Jump: "bastion", LoginShell: "fish",
				ConnectTimeout: 11 * time.Second, CommandTimeout: 51 * time.Second, Keepalive: 16 * time.Second, MaxSessions: 9,
				Retry: connections.Retry{
					MaxAttempts: 4, InitialBackoff: 251 * time.Millisecond,
					MaxBackoff: 10001 * time.Millisecond, Cooldown: 31 * time.Second,
				},
				Policy: &connections.Policy{
					Allow: present("systemctl status *"), Deny: present("** --force* **"),
					Approve: present("systemctl restart *"), ReadOnly: present("mytool show **"),
					ApproveBy: "operator", Shell: true, Sudo: true,
					ReadPaths: present("/var/log"), WritePaths: present("/etc/myapp"),
					MaxTimeout: 5 * time.Minute, MaxOutputBytes: 1 << 20,
				},
			},
			withDefaults(connections.Device{
				Name: "bastion", Mode: connections.Direct, User: "jump",
				Host: "2001:db8::1", Port: 22, IDFile: "/conf/keys/bastion.key",
			}),
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set, err := connections.Parse("/conf/connections.json", []byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, set.Devices()); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
		})
	}
}

// An absent list and an empty one mean opposite things.
func TestParseTellsAbsentFromEmpty(t *testing.T) {
	set := parse(t, one(`"policy": {"allow": []}`))
	device, _ := set.Lookup("a")
	want := &connections.Policy{Allow: connections.List{Present: true, Items: []string{}}, ApproveBy: "any"}
	if diff := cmp.Diff(want, device.Policy); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func TestParseHosts(t *testing.T) {
	tests := []struct {
		mode, host string
		valid      bool
	}{
		{"direct", "localhost", true},
		{"direct", "127.0.0.1", true},
		{"direct", "db_1.internal.", true},
		{"direct", "a", true},
		{"direct", "fe80::1%eth0", true},
		{"direct", "[2001:db8::1]", false},
		{"direct", "db.internal:22", false},
		{"direct", "2001:db8::g", false},
		{"direct", "root@db", false},
		{"direct", "192.168.1.300", false},
		{"direct", "0.0.0.0", false},
		{"direct", "db..internal", false},
		{"direct", "db-.internal", false},
		{"direct", "-db", false},
		{"tunnel", "localhost", true},
		{"tunnel", "127.0.0.1", true},
		{"tunnel", "::1", true},
		{"tunnel", "pump-07", true},
		{"tunnel", "LOCALHOST", false},
		{"tunnel", "127.0.0.2", false},
		{"tunnel", "192.168.1.100", false},
		{"tunnel", "2001:db8::1", false},
		{"tunnel", "pump%07", false},
	}
	for _, test := range tests {
		t.Run(test.mode+" "+test.host, func(t *testing.T) {
			text := `[{"name": "a", "mode": "` + test.mode + `", "user": "u", "host": "` + test.host + `", "port": 22, "id_file": "k"}]`
			_, err := connections.Parse("c.json", []byte(text))
			if valid := err == nil; valid != test.valid {
				t.Errorf("got error %v, want valid = %v", err, test.valid)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connections.json")
	if _, err := connections.Load(path); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), path) != 1 {
		t.Errorf("got error %v, want one that is fs.ErrNotExist and names the file once", err)
	}
	if err := os.WriteFile(path, []byte(everyField), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := connections.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	device, _ := set.Lookup("bastion")
	if got, want := device.IDFile, filepath.Join(filepath.Dir(path), "keys/bastion.key"); got != want {
		t.Errorf("got id_file %q, want %q", got, want)
	}
	if err := os.WriteFile(path, make([]byte, connections.MaxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = connections.Load(path)
	if want := path + ":1:1: the file is larger than 8 MiB"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
	if _, err := connections.Load(filepath.Dir(path)); err == nil {
		t.Error("a folder was loaded")
	}
}

func TestLookup(t *testing.T) {
	set := parse(t, twoDevices)
	if device, ok := set.Lookup("edge-vm-2"); !ok || device.Port != 22222 {
		t.Errorf("got %v, %v", device, ok)
	}
	if _, ok := set.Lookup("EDGE-VM-2"); ok {
		t.Error("found a name in another case")
	}
	if _, ok := connections.Empty().Lookup("edge-vm-2"); ok {
		t.Error("found a device in the empty set")
	}
	if got := connections.Empty().Devices(); len(got) != 0 {
		t.Errorf("got %v in the empty set", got)
	}
}

// What a caller does to a device must not reach other callers.
func TestSetIsImmutable(t *testing.T) {
	set := parse(t, everyField)
	want := set.Devices()
	changed, _ := set.Lookup("web-1")
	for _, device := range []connections.Device{changed, set.Devices()[0]} {
		device.Tags[0] = "changed"
		device.Policy.Shell = false
		for _, list := range []connections.List{
			device.Policy.Allow, device.Policy.Deny, device.Policy.Approve,
			device.Policy.ReadOnly, device.Policy.ReadPaths, device.Policy.WritePaths,
		} {
			list.Items[0] = "changed"
		}
	}
	if diff := cmp.Diff(want, set.Devices()); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

func TestNearest(t *testing.T) {
	var entries []string
	for _, name := range []string{"edge-vm-1", "edge-vm-2", "edge-vm-3", "edge-vm-4", "Pump", "lamp", "db"} {
		entries = append(entries, `{"name": "`+name+`", "mode": "direct", "user": "u", "host": "h", "port": 22, "id_file": "k"}`)
	}
	set := parse(t, "["+strings.Join(entries, ",")+"]")
	tests := []struct {
		name string
		want []string
	}{
		{"pump", []string{"Pump"}},
		{"PUPM", []string{"Pump"}},
		{"edge-mv-3", []string{"edge-vm-3", "edge-vm-1", "edge-vm-2"}},
		{"edge-vm-9", []string{"edge-vm-1", "edge-vm-2", "edge-vm-3"}},
		{"EDGE-VM-4", []string{"edge-vm-4", "edge-vm-1", "edge-vm-2"}},
		{"bd", []string{"db"}},
		{"printer", nil},
		{"", nil},
		{strings.Repeat("edge", 1_000_000), nil},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, set.Nearest(test.name)); diff != "" {
			t.Errorf("nearest to %.20q (-want +got):\n%s", test.name, diff)
		}
	}
	if got := connections.Empty().Nearest("edge"); got != nil {
		t.Errorf("got %v in the empty set", got)
	}
}

func parse(t *testing.T, text string) *connections.Set {
	t.Helper()
	set, err := connections.Parse("connections.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// one is a file with one valid direct-mode device "a" and the given fields.
func one(fields string) string {
	return "[\n{\"name\": \"a\", \"mode\": \"direct\", \"user\": \"u\", \"host\": \"h\", \"port\": 22, \"id_file\": \"k\",\n" + fields + "}\n]\n"
}
