package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func verify(t *testing.T, args ...string) finished {
	t.Helper()
	return runCmd(t, exec.Command(frontendProgram(), append([]string{"audit", "verify"}, args...)...))
}

// Both trails are whole after a session, are joined by the tunnel, and show
// what was done to them since.
func TestAuditVerify(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	c := g.frontend.stdio(t)
	c.mustWork(t, tunnelDevice)
	c.mustWork(t, directDevice)

	whole := verify(t, g.frontend.auditLog, g.acceptor.auditLog)
	if whole.code != 0 || strings.Count(whole.stdout, "the chain is whole") != 2 || strings.Contains(whole.stdout, "does not have") {
		t.Fatalf("exit code %d:\n%s%s", whole.code, whole.stdout, whole.stderr)
	}
	_, head, _ := strings.Cut(strings.SplitN(whole.stdout, "\n", 2)[0], ", head ")

	good := read(t, g.frontend.auditLog)
	cut := good[:strings.LastIndex(strings.TrimSuffix(good, "\n"), "\n")+1]
	flipped := []byte(good)
	flipped[len(good)/2] ^= 1
	middle := bytes.Count(flipped[:len(good)/2], []byte("\n")) + 1
	for name, tt := range map[string]struct {
		content string
		args    []string
		want    string
	}{
		"flipped byte":        {string(flipped), nil, fmt.Sprintf("%s:%d:", g.frontend.auditLog, middle)},
		"cut at a line's end": {cut, []string{"--head", head}, head},
	} {
		if err := os.WriteFile(g.frontend.auditLog, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := verify(t, append(tt.args, g.frontend.auditLog)...)
		if got.code != 1 || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%s: exit code %d, stderr %q, want 1 and %q", name, got.code, got.stderr, tt.want)
		}
	}
}

// Whenever the frontend dies, its trail is whole but for a torn tail, and every
// command that reached the device has its record.
func TestAuditSurvivesSIGKILL(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	count := newCounter(t)
	const rounds = 12
	for round := range rounds {
		killWhileRunning(t, f, count, fmt.Sprint("round-", round))
		if got := verify(t, f.auditLog); got.code != 0 {
			t.Fatalf("after SIGKILL: exit code %d: %s%s", got.code, got.stdout, got.stderr)
		}
	}
	eventually(t, soon, "what still ran ends", func() error {
		if left := (marked{number: count.program}).pids(t); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	count.allRecorded(t, read(t, f.auditLog))
	t.Logf("%d commands ran in %d rounds", len(count.ran(t)), rounds)
}

// killWhileRunning kills a frontend at a random point in a flood of calls, at
// the latest a third of a second after the first that ran.
func killWhileRunning(t *testing.T, f *frontend, count counter, name string) {
	t.Helper()
	server := f.command("stdio")
	stdin, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := 1; ; id++ {
			call := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":%q}}}`,
				id, directDevice, count.command(fmt.Sprint(name, "-", id)))
			if _, err := fmt.Fprintln(stdin, call); err != nil {
				return
			}
		}
	}()
	before := len(count.ran(t))
	eventually(t, soon, "a command runs", func() error {
		if len(count.ran(t)) > before {
			return nil
		}
		return errors.New("not yet")
	})
	timer := time.NewTimer(rand.N(333 * time.Millisecond))
	<-timer.C
	if err := server.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait() // it was killed
	<-done
}
