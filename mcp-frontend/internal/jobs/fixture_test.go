package jobs

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// The tests wait for processes far more than they compute.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "8")
	}
	os.Exit(m.Run())
}

// posix puts a script to a POSIX login shell, as the tools do.
func posix(text string) string {
	return "exec /bin/sh -c '" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func channel(client *ssh.Client) Channel {
	return Channel{Client: client, Quote: posix, Done: func() {}}
}

// started is a job on a device that runs text.
func started(t *testing.T, client *ssh.Client, text string) Job {
	t.Helper()
	j := prepared(text, time.Minute)
	if err := Start(t.Context(), channel(client), j, ReadByLogin, nil); err != nil {
		t.Fatal(err)
	}
	removeAfter(t, client, j)
	return j
}

func prepared(text string, maxRuntime time.Duration) Job {
	j := New("edge")
	now := time.Now()
	j.Text, j.MaxRuntime, j.State, j.StartedAt = text, maxRuntime, Running, &now
	return j
}

// removeAfter ends the job and its directory with the test.
func removeAfter(t *testing.T, client *ssh.Client, j Job) {
	t.Helper()
	t.Cleanup(func() {
		_, _ = Ask(context.Background(), channel(client), j, "KILL", [2]int64{}, 0) // its device may have gone
		sshdtest.Eventually(t, "the job is forgotten", func() bool {
			l, err := Ask(context.Background(), channel(client), j, "look", [2]int64{}, 0)
			if err == nil && l.State != "running" {
				_, err = Ask(context.Background(), channel(client), j, "forget", [2]int64{}, 0)
			}
			return err != nil || l.State != "running"
		})
	})
}

// ask is Ask for a device that must answer.
func ask(t *testing.T, client *ssh.Client, j Job, verb string) Look {
	t.Helper()
	l, err := Ask(t.Context(), channel(client), j, verb, [2]int64{}, 16<<10)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ended waits until the device says that the job is in another state than
// running.
func ended(t *testing.T, client *ssh.Client, j Job) Look {
	t.Helper()
	var l Look
	sshdtest.Eventually(t, "the job ends", func() bool {
		l = ask(t, client, j, "look")
		return l.State != "running"
	})
	return l
}

// place is the job's directory, for a login that has a home directory.
func place(t *testing.T, login string, j Job) string {
	t.Helper()
	u, err := user.Lookup(login)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(u.HomeDir, ".cache", "mcp-ssh-gateway", j.Place)
}

// marked is a number that no other process has among its arguments, so that
// what is left of a command can be found.
type marked string

func newMarked(t *testing.T) marked {
	t.Helper()
	m := marked(strconv.Itoa(1_000_000_000 + rand.IntN(1_000_000_000)))
	t.Cleanup(func() {
		for _, pid := range m.pids(t) { // of this test alone
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return m
}

func (m marked) pids(t *testing.T) []int {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", string(m)).Output()
	if none, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || none.ExitCode() != 1) {
		t.Fatalf("pgrep: %v", err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(out)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// running waits until at least so many processes carry the number.
func (m marked) running(t *testing.T, count int) {
	t.Helper()
	sshdtest.Eventually(t, "the command runs", func() bool { return len(m.pids(t)) >= count })
}

// busyboxOnly is a PATH on which nothing but these applets of busybox is.
func busyboxOnly(t *testing.T, without ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "applets") //nolint:usetesting // the login must be able to read it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{
		"cat", "date", "dd", "df", "find", "head", "kill", "ls", "mkdir", "mkfifo", "mv", "ps", "rm", "seq", "setsid", "sh", "sha256sum", "sleep", "tail", "tr", "wc",
	} {
		if strings.Contains(" "+strings.Join(without, " ")+" ", " "+applet+" ") {
			continue
		}
		if err := os.Symlink(sshdtest.Tool("busybox"), filepath.Join(dir, applet)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
