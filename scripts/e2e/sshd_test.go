package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync"
	"testing"
)

// login is a user of this machine as whom a device can be entered.
type login string

// logins are the users to test with, unprivileged first. As root these are
// e2e-user and root: sshd treats the two differently when a command is to be
// stopped. Anybody else can only log in as himself. TestMain sets it.
var logins []login

func prepareLogins() ([]login, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	if me.Uid != "0" {
		fmt.Fprintf(os.Stderr, "e2e: not root, so every device login is %s and what only a root login shows is not tested\n", me.Username)
		return []login{login(me.Username)}, nil
	}
	const name = "e2e-user"
	var unknown user.UnknownUserError
	if _, err := user.Lookup(name); errors.As(err, &unknown) {
		// The password * matches nothing, but unlike ! it does not lock the account.
		if out, err := exec.Command("useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", name).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("adding the user %s: %w: %s", name, err, bytes.TrimSpace(out))
		}
	} else if err != nil {
		return nil, err
	}
	return []login{name, "root"}, nil
}

// sshd is a real OpenSSH server: the SSH side of a device.
type sshd struct {
	*process
	port    int
	hostKey key
	extra   []string // lines of sshd_config, before all others: the first one counts
}

// startSSHD starts a server that lets the key in as any of logins. extra are
// lines of sshd_config, which count before its own.
func startSSHD(t *testing.T, authorized key, extra ...string) *sshd {
	t.Helper()
	s := &sshd{hostKey: newKey(t), port: freePort(t), extra: extra}
	s.run(t, authorized)
	return s
}

// run starts the server, also once more after it has ended.
func (s *sshd) run(t *testing.T, authorized key) {
	t.Helper()
	// sshd reads the file as the user who logs in, so it lies where he can read.
	keys := filepath.Join(shortDir(t), "authorized_keys")
	write(t, keys, lines(authorized.public), 0o644)
	config := filepath.Join(t.TempDir(), "sshd_config")
	write(t, config, lines(append(append([]string(nil), s.extra...),
		fmt.Sprintf("ListenAddress 127.0.0.1:%d", s.port),
		"HostKey "+s.hostKey.path,
		"AuthorizedKeysFile "+keys,
		"StrictModes no",
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"PermitUserRC no",
		"PidFile none",
		"PrintLastLog no",
		"UseDNS no",
		"MaxSessions 10",
		"Subsystem sftp internal-sftp",
		"LogLevel VERBOSE",
		// Keeps Debian's bash from reading .bashrc for every command of root.
		"SetEnv SHLVL=5",
		penaltiesOff(),
	)...), 0o644)
	program, err := exec.LookPath("sshd") // sshd insists on an absolute path
	if err != nil {
		t.Fatalf("%v; run scripts/setup", err)
	}
	s.process = start(t, program, "-D", "-e", "-f", config)
	s.waitFor(t, fmt.Sprintf("Server listening on 127.0.0.1 port %d.", s.port))
}

// penaltiesOff is a line of configuration that OpenSSH 9.8 and newer need,
// which would lock out 127.0.0.1 after a few tests of a wrong key, and that
// older ones refuse to start with.
var penaltiesOff = sync.OnceValue(func() string {
	const line = "PerSourcePenalties no"
	out, err := exec.Command("sshd", "-G", "-f", os.DevNull, "-o", line).CombinedOutput()
	if err != nil || !bytes.Contains(bytes.ToLower(out), []byte("persourcepenalties no")) {
		return "# no PerSourcePenalties in this version"
	}
	return line
})

// address is the host and port that a direct device has.
func (s *sshd) address() string {
	return fmt.Sprintf("127.0.0.1:%d", s.port)
}

// knownAs is the line of known_hosts that trusts this server's host key under
// a name or an address.
func (s *sshd) knownAs(pattern string) string {
	return pattern + " " + s.hostKey.public
}

// knownAtAddress is that line under the server's own address.
func (s *sshd) knownAtAddress() string {
	return s.knownAs(fmt.Sprintf("[127.0.0.1]:%d", s.port))
}
