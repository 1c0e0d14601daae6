package sshdtest

import (
	"bytes"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Dropbear returns a client of the server that routers and small boards have,
// and who is logged in; nil, with a line in the test's log, where the machine
// lacks it or the right to make its user. It ends with the test.
func Dropbear(tb testing.TB) (client *ssh.Client, login string) {
	tb.Helper()
	program := Tool("dropbear")
	if _, err := exec.LookPath(program); err != nil {
		tb.Log("dropbear is not installed here (dropbear-bin): not tested")
		return nil, ""
	}
	if Plain(tb) != "e2e-user" {
		tb.Log("not root: dropbear needs the user's own authorized_keys, and is not tested")
		return nil, ""
	}
	dir := tb.TempDir()
	hostKey, userKey := NewKey(tb, "ed25519"), NewKey(tb, "ed25519")
	converted := filepath.Join(dir, "host")
	Output(tb, "dropbearconvert", "openssh", "dropbear", hostKey.Path, converted)
	login = LoginWith(tb, "dash")
	AuthorizeIn(tb, login, userKey)

	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // which port is free
	if err != nil {
		tb.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	var log bytes.Buffer
	cmd := exec.Command(program, "-F", "-E", "-s", "-r", converted, "-P", filepath.Join(dir, "pid"), "-p", address) //nolint:gosec,noctx // ended below
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Log(log.String())
		}
	})
	var nc net.Conn
	Eventually(tb, "dropbear listens", func() bool {
		nc, err = net.Dial("tcp", address) //nolint:noctx // the loopback address
		return err == nil
	})
	return Client(tb, nc, login, userKey, hostKey), login
}
