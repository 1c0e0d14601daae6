package sshdtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Small is a dropbear, the SSH server of routers and small boards. It lets
// one login in.
type Small struct {
	Host    string
	Port    uint16
	Login   string
	UserKey Key
	HostKey Key
}

// StartSmall starts a dropbear; nil, with a line in the test's log, if the
// machine has none or the right to make users is missing.
func StartSmall(tb testing.TB) *Small {
	tb.Helper()
	program := Tool("dropbear")
	if _, err := exec.LookPath(program); err != nil {
		tb.Log("dropbear is not installed here (dropbear-bin): not tested")
		return nil
	}
	s := &Small{Host: "127.0.0.1", Login: LoginWith(tb, "dash"), UserKey: NewKey(tb, "ed25519"), HostKey: NewKey(tb, "ed25519")}
	if s.Login == "" {
		return nil
	}
	dir := tb.TempDir()
	converted := filepath.Join(dir, "host")
	Output(tb, "dropbearconvert", "openssh", "dropbear", s.HostKey.Path, converted)
	AuthorizeIn(tb, s.Login, s.UserKey)
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0") // which port is free
	if err != nil {
		tb.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr) //nolint:errcheck,forcetypeassert // of a TCP listener
	s.Port = uint16(addr.Port)
	_ = ln.Close()
	var log bytes.Buffer
	cmd := exec.Command(program, "-F", "-E", "-s", "-r", converted, "-P", filepath.Join(dir, "pid"), "-p", addr.String()) //nolint:gosec,noctx // ended below
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("dropbear:\n%s", &log)
		}
	})
	Eventually(tb, "dropbear listens", func() bool {
		nc, err := new(net.Dialer).DialContext(tb.Context(), "tcp", addr.String())
		if err == nil {
			_ = nc.Close()
		}
		return err == nil
	})
	return s
}

// Applets is a folder in which only these programs are, as busybox has them;
// all that it has if none is named. "" if the machine has no busybox.
func Applets(tb testing.TB, names ...string) string {
	tb.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		tb.Log("busybox is not installed here: not tested")
		return ""
	}
	if len(names) == 0 {
		names = strings.Fields(Output(tb, busybox, "--list"))
	}
	dir := filepath.Join(tb.TempDir(), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // others log in and run them
		tb.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755); err != nil { //nolint:gosec // see above
		tb.Fatal(err)
	}
	for _, name := range names {
		if err := os.Symlink(busybox, filepath.Join(dir, name)); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}
