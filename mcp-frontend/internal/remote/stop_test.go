package remote

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// stubborn is a program that ignores TERM, and so do its children.
func stubborn(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stubborn")
	sshdtest.Write(t, path, "#!/bin/sh\ntrap '' TERM\nsleep $1\nsleep $1\n", 0o755)
	return path
}

// stopped runs a command, ends its context with cause once so many of its
// processes run, and returns what Run says and what is left at that moment.
func stopped(t *testing.T, client *ssh.Client, c Command, m marked, processes int, cause error) (Result, []int) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(bounded(t))
	defer cancel(nil)
	c.MaxOutput = 1 << 10
	answer := make(chan Result)
	go func() { answer <- Run(ctx, client, c) }()
	m.running(t, processes)
	("^sleep " + m).running(t, 1) // not only its shell, so what comes before has been said
	cancel(cause)
	r := <-answer
	return r, m.pids(t)
}

// Nothing is left of a command that was stopped, and what is said of it is
// what was seen.
func TestStop(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	deaf := stubborn(t)
	if sshdtest.Logins(t)[0] != "root" {
		sshdtest.Output(t, "chmod", "755", filepath.Dir(filepath.Dir(deaf)))
	}
	for _, login := range sshdtest.Logins(t) {
		stopsEverything(t, login+"/", func(t *testing.T) *ssh.Client { t.Helper(); return s.Client(t, login) }, deaf, false)
	}
}

// stopsEverything stops commands of several kinds, each in a parallel test.
func stopsEverything(t *testing.T, prefix string, connect func(*testing.T) *ssh.Client, deaf string, setsid bool) {
	t.Helper()
	for name, c := range map[string]struct {
		text      string
		processes int
		cause     error
	}{
		"sleep":         {"echo begun; sleep %[1]s", 1, context.Canceled},
		"last command":  {"echo begun && exec sleep %[1]s", 1, context.Canceled},
		"pipeline":      {"echo begun; sleep %[1]s | cat | sleep %[1]s", 3, context.DeadlineExceeded},
		"ignoring TERM": {"echo begun; " + deaf + " %[1]s", 2, context.DeadlineExceeded},
		"forking":       {"echo begun; (sleep %[1]s & sleep %[1]s &) ; sleep %[1]s", 3, context.DeadlineExceeded},
		"shell is gone": {"echo begun; (sleep %[1]s &) ; exec sleep %[1]s", 1, context.Canceled},
	} {
		t.Run(prefix+name, func(t *testing.T) {
			t.Parallel()
			m := newMarked(t)
			command := Command{Text: fmt.Sprintf(c.text, m), Posix: true, Setsid: setsid}
			client := connect(t)
			r, left := stopped(t, client, command, m, c.processes, c.cause)
			if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil && setsid && r.State == StateMayBeRunning {
				return // dropbear 2022.83 sometimes ends a connection by a failed assertion of its own, and we say what we know
			}
			want := Cancelled
			if errors.Is(c.cause, context.DeadlineExceeded) {
				want = TimedOut
			}
			if r.Outcome != want || r.Executed != Yes || r.State != StateStopped || string(r.Stdout.Bytes()) != "begun\n" {
				t.Errorf("got %s", say(r))
			}
			if len(left) > 0 {
				t.Errorf("%v are left", left)
			}
		})
	}
}

// Where the pid of the shell is not known, the signal is all there is: nobody
// has seen whether everything ended.
func TestStopWithoutGroup(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, login := range sshdtest.Logins(t) {
		t.Run(login, func(t *testing.T) {
			t.Parallel()
			m := newMarked(t)
			r, left := stopped(t, s.Client(t, login), Command{Text: "sleep " + string(m)}, m, 1, context.Canceled)
			if r.State != StateMayBeRunning || r.Outcome != Cancelled {
				t.Errorf("got %s with %v left", say(r), left)
			}
			if login != "root" && len(left) > 0 {
				t.Errorf("%v are left, although sshd passes the signal on", left)
			}
		})
	}
}

// Of a command whose connection has gone nothing can be seen any more, and so
// no end is claimed.
func TestStopAfterConnectionLost(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	client, proxy := through(t, s, sshdtest.See{})
	m := newMarked(t)
	ctx, cancel := context.WithCancel(bounded(t))
	answer := make(chan Result)
	go func() { answer <- Run(ctx, client, Command{Text: "sleep " + string(m), Posix: true, MaxOutput: 10}) }()
	m.running(t, 1)
	proxy.Cut()
	cancel()
	r := <-answer
	if r.State == StateStopped || r.State == StateExited || r.Executed != Yes {
		t.Errorf("got %s", say(r))
	}
}

// Without a channel nothing was sent, so nothing has run.
func TestStopBeforeChannel(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	client, proxy := through(t, s, sshdtest.See{})
	proxy.Swallow(true)
	ctx, cancel := context.WithCancel(bounded(t))
	answer := make(chan Result)
	go func() { answer <- Run(ctx, client, Command{Text: "true", Posix: true, MaxOutput: 10}) }()
	cancel()
	if r := <-answer; r.Outcome != Cancelled || r.Executed != No {
		t.Errorf("got %s", say(r))
	}
}
