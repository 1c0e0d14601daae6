package remote

import (
	"context"
	"strconv"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// shells are the login shells that are tested.
var shells = []struct {
	program string
	kind    Shell
	must    bool // be on every machine that tests
}{
	{"bash", Posix, true},
	{"dash", Posix, true},
	{"busybox", Posix, true},
	{"zsh", Posix, false},
	{"fish", Fish, false},
	{"tcsh", Csh, false},
}

// quoted puts a POSIX text into the shell's quoting, as the tools do.
func quoted(t *testing.T, shell Shell) func(string) string {
	t.Helper()
	return func(posix string) string {
		text, err := policy.QuoteFor(string(shell), posix)
		if err != nil {
			t.Error(err)
		}
		return text
	}
}

func TestShells(t *testing.T) {
	t.Parallel()
	if sshdtest.Plain(t) != "e2e-user" {
		t.Skip("not root: no users can be made for the shells")
	}
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, shell := range shells {
		t.Run(shell.program, func(t *testing.T) {
			t.Parallel()
			login := sshdtest.LoginWith(t, shell.program)
			if login == "" {
				if shell.must {
					t.Fatalf("%s is missing: run scripts/setup", shell.program)
				}
				return
			}
			client := s.Client(t, login)
			kind, err := ProbeShell(bounded(t), client)
			if err != nil || kind != shell.kind {
				t.Fatalf("got %q, %v, want %q", kind, err, shell.kind)
			}
			command := Command{Text: `echo out; echo err >&2; printf end; exit 3`, Posix: true, MaxOutput: 1 << 10}
			if kind != Posix {
				command.Quote = quoted(t, kind)
			}
			mustExit(t, Run(bounded(t), client, command), 3, "out\nend", "err\n")

			m := newMarked(t)
			command.Text = "sleep " + string(m) + " | sleep " + string(m) + "; echo more"
			r, left := stopped(t, client, command, m, 3, context.DeadlineExceeded)
			if r.Outcome != TimedOut || r.State != StateStopped || len(left) > 0 || r.Stdout.Total() != 0 {
				t.Errorf("got %s, %v left", say(r), left)
			}
		})
	}
}

// A device whose user may not run commands of his own has no shell we know.
func TestProbeOfNoShell(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"ForceCommand echo This account is not available."}})
	if got, err := ProbeShell(bounded(t), s.Client(t, sshdtest.Plain(t))); err != nil || got != Other {
		t.Errorf("got %q, %v", got, err)
	}
	client := s.Client(t, sshdtest.Plain(t))
	_ = client.Close()
	if got, err := ProbeShell(bounded(t), client); err == nil || got != "" {
		t.Errorf("got %q without a connection", got)
	}
}

// Dropbear is what routers and small boards have.
func TestDropbear(t *testing.T) {
	t.Parallel()
	if sshdtest.Plain(t) != "e2e-user" {
		t.Skip("not root: dropbear needs the user's own authorized_keys")
	}
	client := sshdtest.Dropbear(t, sshdtest.LoginWith(t, "dash"))
	if client == nil {
		return
	}
	mustExit(t, posix(t, client, "echo out; echo err >&2; exit 9"), 9, "out\n", "err\n")
	if kind, err := ProbeShell(bounded(t), client); err != nil || kind != Posix {
		t.Errorf("got %q, %v", kind, err)
	}
	m := newMarked(t)
	r, left := stopped(t, client, Command{Text: "sleep " + string(m) + " | sleep " + string(m), Posix: true}, m, 3, context.DeadlineExceeded)
	// Its commands have no process group of their own, so only the shell is
	// sure to end; what matters is that nothing else is claimed.
	if r.Outcome != TimedOut || r.State != StateMayBeRunning && len(left) > 0 {
		t.Errorf("got %s, %v left", say(r), left)
	}
	mustExit(t, posix(t, client, "echo "+strconv.Itoa(7)), 0, "7\n", "")
}
