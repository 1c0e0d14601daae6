package remote

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
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

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// posix runs text as the tools do for a POSIX login shell.
func posix(t *testing.T, client *ssh.Client, text string) Result {
	t.Helper()
	return Run(bounded(t), client, Command{Text: text, Posix: true, MaxOutput: 16 << 10})
}

// mustExit is a result's exit code and output.
func mustExit(t *testing.T, r Result, code int, stdout, stderr string) {
	t.Helper()
	if r.Outcome != Exited || r.Executed != Yes || r.State != StateExited || r.Err != nil {
		t.Fatalf("got %s", say(r))
	}
	if *r.ExitCode != code || string(r.Stdout.Bytes()) != stdout || string(r.Stderr.Bytes()) != stderr {
		t.Errorf("got %s; want %d, %q, %q", say(r), code, stdout, stderr)
	}
}

func say(r Result) string {
	code := "none"
	if r.ExitCode != nil {
		code = strconv.Itoa(*r.ExitCode)
	}
	return fmt.Sprintf("%s, executed %s, state %s, code %s, signal %q, stdout %.300q, stderr %.300q, refused %v, error %v",
		r.Outcome, r.Executed, r.State, code, r.Signal, r.Stdout.Bytes(), r.Stderr.Bytes(), r.Refused, r.Err)
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

// through is a client of s whose bytes pass a proxy.
func through(t *testing.T, s *sshdtest.Server, see sshdtest.See) (*ssh.Client, *sshdtest.Proxy) {
	t.Helper()
	p := sshdtest.NewProxy(t, sshdtest.Address(s.Host, s.Port), see)
	nc, err := net.Dial("tcp", sshdtest.Address(p.Host, p.Port))
	if err != nil {
		t.Fatal(err)
	}
	return s.ClientOver(t, nc, sshdtest.Plain(t)), p
}
