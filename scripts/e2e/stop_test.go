package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A command that is to be stopped carries a number that no other process has,
// so that what is left of it can be found: the shell and its children too.
type marked struct{ number string }

func newMarked(t *testing.T) marked {
	t.Helper()
	m := marked{number: fmt.Sprint(1_000_000_000 + rand.IntN(1_000_000_000))}
	t.Cleanup(func() {
		for _, pid := range m.pids(t) { // the test's own processes, by their own ids
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return m
}

// pids are the processes whose arguments have the number.
func (m marked) pids(t *testing.T) []int {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", m.number).Output()
	var none *exec.ExitError
	if err != nil && (!errors.As(err, &none) || none.ExitCode() != 1) {
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

func (m marked) running(t *testing.T) {
	t.Helper()
	eventually(t, soon, "the command runs", func() error {
		if len(m.pids(t)) > 0 {
			return nil
		}
		return errors.New("no such process")
	})
}

func (m marked) gone(t *testing.T) {
	t.Helper()
	eventually(t, soon, "the command is gone", func() error {
		if pids := m.pids(t); len(pids) > 0 {
			return fmt.Errorf("left on the device: %v", pids)
		}
		return nil
	})
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	for _, as := range logins {
		f.addDirect(t, "by-"+string(as), server, as, userKey)
	}
	c := f.stdio(t)
	// The policy reads commands, so a program that ignores TERM is a file.
	stubborn := filepath.Join(shortDir(t), "stubborn")
	write(t, stubborn, "#!/bin/sh\ntrap '' TERM\nsleep $1\n", 0o755)

	for name, format := range map[string]string{
		"plain":         "echo begun; sleep %s",
		"ignoring TERM": "echo begun; " + stubborn + " %s",
		"in a pipeline": "echo begun; sleep %s | cat",
	} {
		for _, as := range logins {
			t.Run(name+" by "+string(as), func(t *testing.T) {
				t.Parallel()
				m := newMarked(t)
				run := c.run(t, "by-"+string(as), fmt.Sprintf(format, m.number), args{"timeout_s": 1})
				left := m.pids(t) // at the moment of the answer
				if !run.isError || run.Error == nil || run.Error.Code != "TIMEOUT" || run.Outcome != "timed_out" || run.Executed != "yes" {
					t.Fatalf("isError %v, error %+v, outcome %q, executed %q", run.isError, run.Error, run.Outcome, run.Executed)
				}
				if run.Error.Hint == "" {
					t.Error("the error has no hint")
				}
				if run.Stdout != "begun\n" {
					t.Errorf("stdout so far: got %q", run.Stdout)
				}
				if run.DurationMS < 900 || run.DurationMS > 15000 {
					t.Errorf("duration_ms: got %v for a timeout of 1 s", run.DurationMS)
				}
				switch run.RemoteState {
				case "stopped", "exited":
					if len(left) > 0 {
						t.Errorf("remote_state %q, but %v are left", run.RemoteState, left)
					}
				case "may_be_running", "unknown":
					if as != "root" {
						t.Errorf("remote_state %q: sshd passes the signal on for this login", run.RemoteState)
					}
				default:
					t.Errorf("remote_state: got %q", run.RemoteState)
				}
				c.mustWork(t, "by-"+string(as))
			})
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, server, logins[0], userKey)
	c := f.stdio(t)

	m := newMarked(t)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := c.CallTool(ctx, toolCall("ssh_run", args{"device": directDevice, "command": "sleep " + m.number}))
		answered <- err
	}()
	m.running(t)
	cancel() // the SDK sends notifications/cancelled
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled call returned %v", err)
	}
	m.gone(t)
	c.mustWork(t, directDevice)
}

// A client that goes away takes its commands with it, and the server ends.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, server, logins[0], userKey)
	m := newMarked(t)

	// By hand: the SDK's Close waits for the answers of its calls.
	frontend := f.command("stdio")
	stdin, err := frontend.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	frontend.Stdout, frontend.Stderr = &stdout, &stderr
	if err := frontend.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = frontend.Process.Kill() }) // it may have ended
	_, err = fmt.Fprintf(stdin, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":"sleep %s"}}}`+"\n", directDevice, m.number)
	if err != nil {
		t.Fatal(err)
	}
	m.running(t)
	start := time.Now()
	_ = stdin.Close()
	if err := frontend.Wait(); err != nil {
		t.Errorf("after its stdin ended the server ended with %v:\n%s", err, &stderr)
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("the server ended %v after its stdin, want the grace of 2 s and a little", took)
	}
	m.gone(t)
}

// As many commands as a connection may carry are stopped together, for a root
// login, whose sshd ignores signal requests: each needs a further channel to be
// stopped, and sshd's MaxSessions leaves room for few.
func TestManyStopAtOnce(t *testing.T) {
	t.Parallel()
	as := logins[len(logins)-1]
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), as, userKey)
	c := f.stdio(t)
	const runs = 8
	var wg sync.WaitGroup
	marks := make([]marked, runs)
	for i := range marks {
		marks[i] = newMarked(t)
	}
	results := make([]runResult, runs)
	errs := make([]error, runs)
	for i, m := range marks {
		wg.Go(func() {
			results[i], errs[i] = c.try(t.Context(), directDevice, "sleep "+m.number, args{"timeout_s": 2})
		})
	}
	wg.Wait()
	for i, m := range marks {
		if errs[i] != nil || results[i].Outcome != "timed_out" || results[i].RemoteState != "stopped" {
			t.Errorf("run %d by %s: outcome %q, remote_state %q, error %v", i, as, results[i].Outcome, results[i].RemoteState, errs[i])
		}
		if pids := m.pids(t); len(pids) > 0 {
			t.Errorf("run %d by %s left %v", i, as, pids)
		}
	}
}
