package e2e

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Nothing that is secret is ever written: no private key, no passphrase, no
// stdin of a command. Not in a log at its most talkative, not in a trail, not
// under the state directory, not in an answer to a client or on a terminal.
// The scenario takes the ways on which others have leaked: errors about keys
// that cannot be used, refused and failed calls with stdin, the keys commands.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	g := &gateway{userKey: newKey(t), deviceKey: newKey(t)}
	g.direct, g.behind = startSSHD(t, g.userKey), startSSHD(t, g.userKey)
	g.acceptor = newAcceptor(t, g.grant())
	g.acceptor.extra = []string{"--log-level", "debug"}
	g.acceptor.start(t)
	g.frontend = newFrontend(t, g.acceptor.runDir)
	f := g.frontend
	f.addDirect(t, directDevice, g.direct, logins[0], g.userKey)
	f.addTunnel(t, tunnelDevice, tunnelPort, g.behind, logins[0], g.userKey)
	s := &secrets{}
	s.addKey(t, g.userKey.path)
	s.addKey(t, g.deviceKey.path)
	s.addKey(t, g.direct.hostKey.path)
	s.brokenKeys(t, f, g.direct)

	daemon := startCmd(t, f.command("serve", "--log-level", "debug"))
	daemon.waitReady(t)
	s.addKey(t, filepath.Join(f.dir, "keys", "gateway.key"))
	g.openTunnel(t)
	c := f.attach(t)
	eventually(t, soon, "the tunnel device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	said := s.talk(t, c, f)
	said += s.commands(t, f)
	_ = c.Close()
	said += read(t, daemon.stderr) + read(t, daemon.stdout) + read(t, g.acceptor.stderr) + read(t, g.acceptor.stdout)
	for _, trail := range []string{f.auditLog, g.acceptor.auditLog} {
		said += read(t, trail)
	}
	said += everything(t, filepath.Join(f.dir, "state"))

	for _, proof := range []string{"wc -c", "passphrase", "KEY_UNUSABLE", "run_started", "DEBUG"} {
		if !strings.Contains(said, proof) {
			t.Errorf("%q is nowhere, so this test does not see what it must", proof)
		}
	}
	for what, words := range s.words {
		if at := strings.Index(said, words); at >= 0 {
			t.Errorf("%s is written: ...%q...", what, said[max(0, at-200):min(len(said), at+len(words)+50)])
		}
	}
	if len(s.words) < 20 {
		t.Errorf("only %d secrets were looked for", len(s.words))
	}
}

const (
	passphrase  = "CANARY-PASSPHRASE-4711"
	stdinCanary = "CANARY-STDIN-0815"
	fileCanary  = "CANARY-IN-A-KEY-FILE-1234"
)

// secrets are the words that must not be written, by what they are.
type secrets struct{ words map[string]string }

func (s *secrets) add(what, words string) {
	if s.words == nil {
		s.words = map[string]string{}
	}
	s.words[what] = words
	s.words[what+" in base64"] = strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(words)), "=")
	s.words[what+" in hex"] = hex.EncodeToString([]byte(words))
}

// addKey adds the lines of a private key file that have private parts, and the
// key's seed.
func (s *secrets) addKey(t *testing.T, path string) {
	t.Helper()
	content := read(t, path)
	body := strings.Split(strings.TrimSpace(content), "\n")
	for i, line := range body[3 : len(body)-1] { // the header and two lines of what is public come first
		s.add(fmt.Sprintf("%s, line %d,", path, i+4), line)
	}
	raw, err := ssh.ParseRawPrivateKey([]byte(content))
	if err != nil {
		return // it has a passphrase
	}
	if private, ok := raw.(*ed25519.PrivateKey); ok {
		s.add(path+", its seed,", string(private.Seed()))
	} else {
		t.Errorf("%s is a %T", path, raw)
	}
}

// brokenKeys adds devices whose keys cannot be used, each in its own way.
func (s *secrets) brokenKeys(t *testing.T, f *frontend, device *sshd) {
	t.Helper()
	encrypted := newKey(t)
	f.addDirect(t, "encrypted", device, logins[0], encrypted)
	output(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-f", f.idFile("encrypted"))
	s.add("the passphrase", passphrase)
	s.addKey(t, f.idFile("encrypted"))

	wrong := newKey(t)
	f.addDirect(t, "wrong", device, logins[0], wrong)
	s.addKey(t, wrong.path)

	open := newKey(t)
	f.addDirect(t, "open", device, logins[0], open)
	s.addKey(t, open.path)
	if err := os.Chmod(f.idFile("open"), 0o644); err != nil {
		t.Fatal(err)
	}

	f.addDirect(t, "garbled", device, logins[0], open)
	write(t, f.idFile("garbled"), fileCanary+"\n", 0o600)
	s.add("a garbled key file", fileCanary)
	cut := newKey(t)
	f.addDirect(t, "cut", device, logins[0], cut)
	content := read(t, cut.path)
	write(t, f.idFile("cut"), content[:len(content)-60], 0o600)
	s.addKey(t, cut.path)
	s.add("stdin", stdinCanary)
}

// talk makes calls of all kinds and returns what was answered.
func (s *secrets) talk(t *testing.T, c *client, f *frontend) string {
	t.Helper()
	var said strings.Builder
	call := func(tool string, arguments args) {
		t.Helper()
		answer, err := json.Marshal(c.callTool(t, tool, arguments))
		if err != nil {
			t.Fatal(err)
		}
		said.Write(answer)
	}
	for _, e := range f.entries {
		call("ssh_run", args{"device": e["name"], "command": "wc -c", "stdin": stdinCanary})
	}
	for _, more := range []args{
		{"command": "rm $(cat)"},
		{"command": "wc -c", "dry_run": true},
		{"command": "wc -c", "cwd": "/nonexistent"},
		{"command": "sleep 1000", "timeout_s": 1},
		{"command": "wc -c", "timeout_s": "soon"},
		{"command": "cat >/dev/null; exit 3"},
		{"command": ""},
		{"device": "nowhere", "command": "wc -c"},
	} {
		arguments := args{"device": directDevice, "stdin": stdinCanary}
		maps.Copy(arguments, more)
		call("ssh_run", arguments)
	}
	call("ssh_run_readonly", args{"device": directDevice, "command": "wc -c", "stdin": stdinCanary}) // which it does not take
	call("ssh_run", args{"device": directDevice, "command": "seq 100000", "stdin": stdinCanary})     // long enough for the state directory
	call("ssh_list_devices", args{})
	return said.String()
}

// commands runs what an operator types and returns what it printed.
func (s *secrets) commands(t *testing.T, f *frontend) string {
	t.Helper()
	var said strings.Builder
	typed := func(stdin string, command *exec.Cmd) {
		t.Helper()
		command.Stdin = strings.NewReader(stdin)
		done := runCmd(t, command)
		said.WriteString(done.stdout + done.stderr)
	}
	keys := func(stdin string, words ...string) {
		t.Helper()
		typed(stdin, exec.Command(frontendProgram(), append(append([]string{"keys"}, words...), "--keys-dir", filepath.Join(f.dir, "keys"))...))
	}
	good := newKey(t)
	s.addKey(t, good.path)
	keys("", "generate", "fresh")
	s.addKey(t, filepath.Join(f.dir, "keys", "fresh.key"))
	keys(read(t, good.path), "import", "good")
	keys(read(t, good.path), "import", "good") // again
	keys(read(t, f.idFile("encrypted")), "import", "locked")
	keys(fileCanary, "import", "garbage")
	keys("", "list")
	for _, name := range []string{"good", "encrypted", "garbled", "cut", "gateway"} {
		keys("", "public", name)
	}
	typed("", f.command("check"))
	typed("", f.command("check", "--json"))
	for _, device := range []string{directDevice, "encrypted"} {
		typed("", f.command("trust", device))
	}
	typed("", exec.Command(frontendProgram(), "status", "--mcp-socket", f.mcpSocket, "--json"))
	typed("", exec.Command(frontendProgram(), "audit", "tail", "--json", "--last", "1000", f.auditLog))
	return said.String()
}

// everything is the text of all files under a directory.
func everything(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			all.WriteString(path + "\n" + read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
