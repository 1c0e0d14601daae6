package connections_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// The messages are what a person has to act on, so they are fixed word by word.
func TestProblems(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		// Not a JSON array at all.
		{"empty", "\n", []string{
			`1:1: the file is empty: write [] for no devices`,
		}},
		{"object", `{"devices": []}`, []string{
			`1:1: the file must be a list of devices: [ {…}, {…} ], not an object`,
		}},
		{"null", `null`, []string{
			`1:1: the file must be a list of devices: [ {…}, {…} ], not null`,
		}},
		{"cut off", "[\n  {\"name\": \"a\"", []string{
			`2:15: the file ends too early: a closing ", } or ] is missing`,
		}},
		{"trailing data", "[]\n []", []string{
			`2:2: there is more after the end of the list: the file must hold one JSON array`,
		}},
		{"trailing comma", "[{\"name\": \"a\",\n}]", []string{
			`1:14: remove the comma before '}'`,
		}},
		{"missing comma", "[{\"name\": \"a\"\n \"mode\": \"direct\"}]", []string{
			`2:2: a comma or a closing bracket is missing before '"'`,
		}},
		{"missing comma between entries", "[[] []]", []string{
			`1:5: a comma or a closing bracket is missing before '['`,
		}},
		{"comment", "[\n  // mine\n]", []string{
			`2:3: JSON has no comments: remove this one`,
		}},
		{"single quotes", "[{'name': 'a'}]", []string{
			`1:3: text needs double quotes`,
		}},
		{"bare word", "[yes]", []string{
			`1:2: not valid JSON: invalid character 'y' looking for beginning of value`,
		}},
		{"latin-1", "[\"\xe9\"]", []string{
			`1:3: not UTF-8 text: save the file as UTF-8`,
		}},
		{"utf-16", "\xff\xfe[\x00]\x00", []string{
			`1:1: not UTF-8 text: save the file as UTF-8`,
		}},

		// Fields.
		{"missing fields", `[{"name": "a"}, {}]`, []string{
			`1:2: device "a": missing "mode", "user", "host", "port", "id_file"`,
			`1:17: entry 2: missing "name", "mode", "user", "host", "port", "id_file"`,
		}},
		{"unknown field", one(`"kown_hosts": "x"`), []string{
			`3:1: device "a": unknown field "kown_hosts"; did you mean "known_hosts"?`,
		}},
		{"unknown field in retry", one(`"retry": {"max_attempt": 1}`), []string{
			`3:11: device "a": retry: unknown field "max_attempt"; did you mean "max_attempts"?`,
		}},
		{"unknown field in policy", one(`"policy": {"alow": []}`), []string{
			`3:12: device "a": policy: unknown field "alow"; did you mean "allow"?`,
		}},
		{"unknown field unlike any", one(`"colour": "red"`), []string{
			`3:1: device "a": unknown field "colour"`,
		}},
		{"field in another case", one(`"Tags": []`), []string{
			`3:1: device "a": unknown field "Tags"; did you mean "tags"?`,
		}},
		{"password", one(`"password": "secret"`), []string{
			`3:1: device "a": unknown field "password"; there are no passwords here, only keys: use "id_file"`,
		}},
		{"field twice", one(`"port": 23`), []string{
			`3:1: the field "port" is given twice, first in line 2`,
		}},
		{"entry is no object", `["a"]`, []string{
			`1:2: entry 1 must be an object with the fields of one device: {…}, not "a"`,
		}},

		// Values.
		{"quoted number", one(`"keepalive_s": "15"`), []string{
			`3:16: device "a": keepalive_s must be a whole number from 1 to 3600, not "15" (remove the quotes)`,
		}},
		{"fraction", one(`"connect_timeout_s": 2.5`), []string{
			`3:22: device "a": connect_timeout_s must be a whole number from 1 to 300, not 2.5`,
		}},
		{"zero", one(`"command_timeout_s": 0`), []string{
			`3:22: device "a": command_timeout_s must be a whole number from 1 to 3600, not 0`,
		}},
		{"huge number", one(`"keepalive_s": 1e999999999`), []string{
			`3:16: device "a": keepalive_s must be a whole number from 1 to 3600, not 1e999999999`,
		}},
		{"too many sessions", one(`"max_sessions": 11`), []string{
			`3:17: device "a": max_sessions must be a whole number from 1 to 9 (sshd's MaxSessions is 10, and one stays free to stop runs), not 11`,
		}},
		{"null value", one(`"jump": null`), []string{
			`3:9: device "a": jump must be the name of another entry, not null`,
		}},
		{"not a boolean", one(`"policy": {"shell": "yes"}`), []string{
			`3:21: device "a": policy.shell must be true or false, not "yes"`,
		}},
		{"not in the list", one(`"policy": {"approve_by": "me"}`), []string{
			`3:26: device "a": policy.approve_by must be "any", "operator" or "client", not "me"`,
		}},
		{"login shell", one(`"login_shell": "bash"`), []string{
			`3:16: device "a": login_shell must be "posix", "fish", "csh", "powershell" or "cmd", not "bash"`,
		}},
		{"pattern that is no text", one(`"policy": {"allow": ["uptime", 1]}`), []string{
			`3:32: device "a": policy.allow[1] must be a command pattern on one line, such as "systemctl status *", not 1`,
		}},
		{"list that is none", one(`"policy": {"deny": "reboot"}`), []string{
			`3:20: device "a": policy.deny must be a list of command patterns: ["systemctl status *"], not "reboot"`,
		}},
		{"relative root", one(`"policy": {"read_paths": ["log", "/var/../etc"]}`), []string{
			`3:27: device "a": policy.read_paths[0] must be an absolute path without "..", such as "/var/log", not "log"`,
			`3:34: device "a": policy.read_paths[1] must be an absolute path without "..", such as "/var/log", not "/var/../etc"`,
		}},
		{"tags", one(`"tags": ["a b", "x", "x"]`), []string{
			`3:10: device "a": tags[0] must be 1 to 63 letters, digits or any of . _ : / = - that begin with a letter or a digit, not "a b"`,
			`3:22: device "a": tags has "x" twice`,
		}},
		{"too many tags", one(`"tags": [` + strings.Repeat(`"x",`, 32) + `"x"]`), []string{
			`3:9: device "a": tags has more than 32 items`,
			`3:14: device "a": tags has "x" twice`,
		}},
		{"long description", one(`"description": "` + strings.Repeat("x", 1001) + `"`), []string{
			`3:16: device "a": description is longer than 1000 characters`,
		}},
		{"home folder", one(`"certificate_file": "~/.ssh/id"`), []string{
			`3:21: device "a": certificate_file must be the path of a file (~ is not expanded), not "~/.ssh/id"`,
		}},
		{"column in characters", one(`"description": "Gerät ⚙", "port2": 1`), []string{
			`3:27: device "a": unknown field "port2"; did you mean "port"?`,
		}},

		// Rules between fields and entries.
		{"template", `[{"name": "pump-*", "mode": "tunnel", "user": "u", "host": "pump-*", "port": 22, "id_file": "k"}]`, []string{
			`1:11: device "pump-*": name ends in "*": templates for many devices are not supported yet, write one entry per device`,
			`1:60: device "pump-*": host ends in "*": templates for many devices are not supported yet, write one entry per device`,
		}},
		{"tunnel to elsewhere", `[{"name": "a", "mode": "tunnel", "user": "u", "host": "10.0.0.1", "port": 22, "id_file": "k"}]`, []string{
			`1:55: device "a": host "10.0.0.1" is not reachable through the acceptor: in tunnel mode write 127.0.0.1, or the name that the acceptor knows the device by`,
		}},
		{"host with port", `[{"name": "a", "mode": "direct", "user": "u", "host": "db:22", "port": 22, "id_file": "k"}]`, []string{
			`1:55: device "a": host "db:22" is not an IP address; if it ends in a port, write that as "port"`,
		}},
		{"mistyped address", `[{"name": "a", "mode": "direct", "user": "u", "host": "10.0.0.256", "port": 22, "id_file": "k"}]`, []string{
			`1:55: device "a": host "10.0.0.256" is neither a host name nor an IP address`,
		}},
		{"address as name", `[{"name": "10.0.0.1", "mode": "direct", "user": "u", "host": "10.0.0.1", "port": 22, "id_file": "k"}]`, []string{
			`1:11: device "10.0.0.1": a name must not be an address or localhost: that is what "host" is for`,
		}},
		{"name taken, in a broken entry too", `[` + direct("a") + ",\n" + direct("b") + ",\n" + `{"name": "A"}]`, []string{
			`3:1: device "A": missing "mode", "user", "host", "port", "id_file"`,
			`3:10: device "A": the name is already taken in line 1 (case does not matter)`,
		}},
		{"backoff", one(`"retry": {"max_backoff_ms": 100}`), []string{
			`3:10: device "a": retry.max_backoff_ms (100) is below retry.initial_backoff_ms (250)`,
		}},
		{"jump to nowhere", one(`"jump": "bastoin"},` + direct("bastion") + `, {`), []string{
			`3:9: device "a": jump: there is no entry "bastoin"; did you mean "bastion"?`,
			`3:113: entry 3: missing "name", "mode", "user", "host", "port", "id_file"`,
		}},
		{"jump to itself", one(`"jump": "a"`), []string{
			`3:9: device "a": jump names the device itself`,
		}},
		{"jump to a broken entry", one(`"jump": "b"}, {"name": "b"`), []string{
			`3:15: device "b": missing "mode", "user", "host", "port", "id_file"`,
		}},
		{"jump over a tunnel", one(`"jump": "t"},` + "\n" + `{"name": "t", "mode": "tunnel", "user": "u", "host": "::1", "port": 2, "id_file": "k", "jump": "a"`), []string{
			`3:9: device "a": jump: "t" is in tunnel mode; a jump must be a direct-mode entry`,
			`4:96: device "t": jump is for direct mode only: a tunnel already leads to the device`,
		}},
		{"circle", "[" + jump("x", "a") + ",\n" + jump("a", "b") + ",\n" + jump("b", "c") + ",\n" + jump("c", "a") + "]", []string{
			`1:96: device "x": more than 4 jumps, or a circle: x -> a -> b -> c -> a -> b`,
			`2:95: device "a": jumps in a circle: a -> b -> c -> a`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set, err := connections.Parse("dir/c.json", []byte(test.text))
			var problems connections.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, %v, want Problems", set, err)
			}
			var want []string
			for _, line := range test.want {
				want = append(want, "dir/c.json:"+line)
			}
			if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if len(problems) != len(want) {
				t.Errorf("got %d problems in %d lines", len(problems), len(want))
			}
		})
	}
}

func TestProblemSaysWhere(t *testing.T) {
	_, err := connections.Parse("c.json", []byte("\ufeff[\r\n\tnope]"))
	want := connections.Problems{{
		Path: "c.json", Line: 2, Column: 3,
		Message: "not valid JSON: invalid character 'o' in literal null (expecting 'u')",
	}}
	var got connections.Problems
	if !errors.As(err, &got) {
		t.Fatalf("got error %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func direct(name string) string {
	return `{"name": "` + name + `", "mode": "direct", "user": "u", "host": "h", "port": 22, "id_file": "k"}`
}

func jump(name, over string) string {
	return strings.TrimSuffix(direct(name), "}") + `, "jump": "` + over + `"}`
}
