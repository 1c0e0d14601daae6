package remote

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// dropbear is what routers and small boards have. It gives commands no process
// group of their own. connect makes a connection to it.
func dropbear(t *testing.T, login string) (connect func(t *testing.T) *ssh.Client) {
	t.Helper()
	program := sshdtest.Tool("dropbear")
	if _, err := exec.LookPath(program); err != nil {
		t.Fatal("dropbear is missing: run scripts/setup")
	}
	dir := t.TempDir()
	hostKey, userKey := sshdtest.NewKey(t, "ed25519"), sshdtest.NewKey(t, "ed25519")
	converted := filepath.Join(dir, "host")
	sshdtest.Output(t, "dropbearconvert", "openssh", "dropbear", hostKey.Path, converted)
	sshdtest.AuthorizeIn(t, login, userKey)

	ln, err := net.Listen("tcp", "127.0.0.1:0") // which port is free
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	var log bytes.Buffer
	cmd := exec.Command(program, "-F", "-E", "-s", "-r", converted, "-P", filepath.Join(dir, "pid"), "-p", address)
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	var mu sync.Mutex // dropbear takes five connections at once that are not logged in
	return func(t *testing.T) *ssh.Client {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		var nc net.Conn
		sshdtest.Eventually(t, "dropbear listens", func() (ok bool) {
			var err error
			nc, err = net.Dial("tcp", address)
			return err == nil
		})
		return sshdtest.Client(t, nc, login, userKey, hostKey)
	}
}

// Whatever the login shell is, a command is what it would be without setsid,
// and when it is stopped, nothing of it is left.
func TestDropbear(t *testing.T) {
	t.Parallel()
	if sshdtest.Plain(t) != "e2e-user" {
		t.Skip("not root: dropbear needs the user's own authorized_keys")
	}
	deaf := stubborn(t)
	sshdtest.Output(t, "chmod", "755", filepath.Dir(filepath.Dir(deaf)), filepath.Dir(deaf))
	for _, shell := range []string{"dash", "bash"} { // busybox's as a login shell is in no /etc/shells
		login := sshdtest.LoginWith(t, shell)
		if login == "" {
			t.Fatalf("%s is missing: run scripts/setup", shell)
		}
		connect := dropbear(t, login)
		client := connect(t)
		if kind, err := ProbeShell(bounded(t), client); err != nil || kind != Posix {
			t.Fatalf("%s: got %q, %v", shell, kind, err)
		}
		if LeadsGroups(client) {
			t.Errorf("%s is taken for OpenSSH", client.ServerVersion())
		}
		setsid, err := ProbeSetsid(bounded(t), client)
		if err != nil || !setsid {
			t.Fatalf("%s: needs setsid: got %v, %v", shell, setsid, err)
		}
		t.Run(shell+"/run", func(t *testing.T) {
			t.Parallel()
			for text, want := range map[string]struct {
				code           int
				stdout, stderr string
			}{
				"echo out; echo err >&2; exit 9": {9, "out\n", "err\n"},
				`echo 'it'"'"'s' "$((1+1))"`:     {0, "it's 2\n", ""},
				"cat; exit 3":                    {3, "input", ""},
			} {
				r := Run(bounded(t), client, Command{Text: text, Posix: true, Setsid: true, Stdin: []byte("input"), MaxOutput: 1 << 10})
				mustExit(t, r, want.code, want.stdout, want.stderr)
			}
			r := Run(bounded(t), client, Command{Text: "echo out; kill -SEGV $$", Posix: true, Setsid: true, MaxOutput: 1 << 10})
			if r.Outcome != Signaled || r.Signal != "SEGV" || string(r.Stdout.Bytes()) != "out\n" {
				t.Errorf("got %s", say(r))
			}
		})
		stopsEverything(t, shell+"/", connect, deaf, true)
		// Where there is no setsid, only the shell is sure to end; what matters is
		// that nothing else is claimed.
		t.Run(shell+"/without setsid", func(t *testing.T) {
			t.Parallel()
			m := newMarked(t)
			text := fmt.Sprintf("sleep %[1]s | sleep %[1]s", m)
			r, left := stopped(t, connect(t), Command{Text: text, Posix: true}, m, 3, context.DeadlineExceeded)
			if r.Outcome != TimedOut || r.State != StateMayBeRunning && len(left) > 0 {
				t.Errorf("got %s, %v left", say(r), left)
			}
		})
		t.Run(shell+"/setsid of busybox", func(t *testing.T) {
			t.Parallel()
			mustExit(t, posix(t, connect(t), "exec busybox setsid sh -c 'kill -0 -$$ && echo leads; exit 4'"), 4, "leads\n", "")
		})
	}
}

// A device that has nothing but busybox.
func TestBusyboxDevice(t *testing.T) {
	t.Parallel()
	login := sshdtest.LoginWith(t, "busybox")
	if login == "" {
		t.Skip("not root: no users can be made")
	}
	dir := t.TempDir()
	sshdtest.Output(t, "chmod", "755", filepath.Dir(dir), dir)
	sshdtest.Output(t, "busybox", "--install", "-s", dir)
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"SetEnv PATH=" + dir + " SHLVL=5"}})
	client := s.Client(t, login)
	mustExit(t, posix(t, client, "busybox true; bash --version || perl -v"), 127, "", "sh: bash: not found\nsh: perl: not found\n")
	deaf := stubborn(t)
	sshdtest.Output(t, "chmod", "755", filepath.Dir(filepath.Dir(deaf)), filepath.Dir(deaf))
	stopsEverything(t, "", func(*testing.T) *ssh.Client { return client }, deaf, false)
}
