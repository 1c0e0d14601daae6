package sshdtest

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Dropbear returns a client of a dropbear, which is what routers and small
// boards have, logged in as login. It ends with the test. nil, with a line in
// the test's log, where dropbear is not installed.
func Dropbear(tb testing.TB, login string) *ssh.Client {
	tb.Helper()
	program := Tool("dropbear")
	if _, err := exec.LookPath(program); err != nil {
		tb.Log("dropbear is not installed here (dropbear-bin): not tested")
		return nil
	}
	dir := tb.TempDir()
	hostKey, userKey := NewKey(tb, "ed25519"), NewKey(tb, "ed25519")
	converted := filepath.Join(dir, "host")
	Output(tb, "dropbearconvert", "openssh", "dropbear", hostKey.Path, converted)
	AuthorizeIn(tb, login, userKey)

	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0") // which port is free
	if err != nil {
		tb.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	log := new(buffer)
	ctx := context.WithoutCancel(tb.Context())
	cmd := exec.CommandContext(ctx, program, "-F", "-E", "-s", "-r", converted, "-P", filepath.Join(dir, "pid"), "-p", address) //nolint:gosec // all of it is ours
	cmd.Stderr = log
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Log(log)
		}
	})
	var nc net.Conn
	Eventually(tb, "dropbear listens", func() bool {
		nc, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err == nil
	})
	return Client(tb, nc, login, userKey, hostKey)
}
