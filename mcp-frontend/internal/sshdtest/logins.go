package sshdtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Logins are users to log in as, unprivileged first: as root these are
// e2e-user and root, whom sshd treats differently when a command is to be
// stopped. Anybody else can only log in as himself.
func Logins(tb testing.TB) []string {
	tb.Helper()
	me, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	if me.Uid != "0" {
		tb.Logf("not root: every login is %s, and what only a root login shows is not tested", me.Username)
		return []string{me.Username}
	}
	return []string{addUser(tb, "e2e-user", "/bin/sh"), "root"}
}

// Plain is a login that has no privileges.
func Plain(tb testing.TB) string {
	tb.Helper()
	return Logins(tb)[0]
}

// LoginWith returns a user whose login shell is program, "" with a line in the
// test's log if the machine lacks the program or the right to make users.
func LoginWith(tb testing.TB, shell string) string {
	tb.Helper()
	path, err := exec.LookPath(shell)
	switch {
	case err != nil:
		tb.Logf("%s is not installed here: not tested", shell)
		return ""
	case os.Getuid() != 0:
		tb.Logf("not root: %s is not tested", shell)
		return ""
	}
	name := "e2e-" + shell
	if shell == "busybox" { // its shell goes by the name that it is called by
		path = filepath.Join("/home", name, "sh")
		defer func() {
			if _, err := os.Lstat(path); err != nil {
				if err := os.Symlink(Tool("busybox"), path); err != nil && !errors.Is(err, os.ErrExist) {
					tb.Fatal(err)
				}
			}
		}()
	}
	return addUser(tb, name, path)
}

// addUser makes the user if he is not there. The password * matches nothing,
// and unlike ! does not lock the account.
func addUser(tb testing.TB, name, shell string) string {
	tb.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "e2e-useradd.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // packages are tested at the same time
		tb.Fatal(err)
	}
	if _, err := user.Lookup(name); err == nil {
		return name
	}
	ctx := context.WithoutCancel(tb.Context())
	out, err := exec.CommandContext(ctx, Tool("useradd"), "--create-home", "--shell", shell, "--password", "*", name).CombinedOutput() //nolint:gosec // the name is ours
	if err != nil {
		tb.Fatalf("adding the user %s: %v\n%s", name, err, out)
	}
	return name
}

// AuthorizeIn lets key in as the user, by the file in his home directory that
// a server without an AuthorizedKeysFile reads.
func AuthorizeIn(tb testing.TB, login string, key Key) {
	tb.Helper()
	u, err := user.Lookup(login)
	if err != nil {
		tb.Fatal(err)
	}
	dir := filepath.Join(u.HomeDir, ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "authorized_keys")
	line := key.Public + "\n"
	// Other tests let their keys in meanwhile, also in other processes.
	rewrite(tb, path, func(lines string) string { return lines + line })
	tb.Cleanup(func() { rewrite(tb, path, func(lines string) string { return strings.ReplaceAll(lines, line, "") }) })
	Output(tb, "chown", "-R", login+":", dir)
}

// rewrite changes a file that other processes change in the same way.
func rewrite(tb testing.TB, path string, change func(lines string) string) {
	tb.Helper()
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		tb.Fatal(err)
	}
	lines, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	Write(tb, path, change(string(lines)), 0o600)
}
