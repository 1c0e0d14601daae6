package remote

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

func TestRun(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, login := range sshdtest.Logins(t) {
		client := s.Client(t, login)
		for name, c := range map[string]struct {
			text, stdin    string
			code           int
			stdout, stderr string
		}{
			"nothing":              {text: "true"},
			"exit code":            {text: "exit 42", code: 42},
			"not found":            {text: "no-such-program 2>/dev/null", code: 127},
			"both streams":         {text: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
			"no newline at an end": {text: "printf out; printf err >&2", stdout: "out", stderr: "err"},
			"binary":               {text: `printf '\000\377\r\n\001'`, stdout: "\x00\xff\r\n\x01"},
			"stdin":                {text: "cat; echo $?", stdin: "a\nb\x00", stdout: "a\nb\x000\n"},
			"no stdin":             {text: "wc -c | tr -d ' '", stdout: "0\n"},
			"stdin nobody reads":   {text: "echo out", stdin: strings.Repeat("x", 1<<20), stdout: "out\n"},
			"the shell's own pid":  {text: "echo $$ | grep -c '^[0-9]*$'", stdout: "1\n"},
			"closed stdout":        {text: "exec >&-; exit 3", code: 3},
			"many lines":           {text: "seq 3", stdout: "1\n2\n3\n"},
		} {
			t.Run(login+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := Run(bounded(t), client, Command{Text: c.text, Posix: true, Stdin: []byte(c.stdin), MaxOutput: 16 << 10})
				mustExit(t, r, c.code, c.stdout, c.stderr)
			})
		}
	}
}

func TestExitSignal(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	client := s.Client(t, sshdtest.Plain(t))
	for _, signal := range []string{"TERM", "KILL", "SEGV"} {
		r := posix(t, client, "echo out; kill -"+signal+" $$")
		if r.Outcome != Signaled || r.Signal != signal || r.ExitCode != nil || r.State != StateExited || string(r.Stdout.Bytes()) != "out\n" {
			t.Errorf("%s: got %s", signal, say(r))
		}
	}
}

// What start-up files print comes before the marker, and stays.
func TestNoisyStartUp(t *testing.T) {
	t.Parallel()
	for name, noise := range map[string]string{
		"lines": "welcome\\nto the machine\\n", "an open line": "welcome: ", "a lot": strings.Repeat("noise\\n", 2000),
	} {
		s := sshdtest.Start(t, sshdtest.Config{Lines: []string{`ForceCommand printf '` + noise + `'; eval "$SSH_ORIGINAL_COMMAND"`}})
		r := Run(bounded(t), s.Client(t, sshdtest.Plain(t)), Command{Text: "echo out; exit 3", Posix: true, MaxOutput: 64 << 10})
		t.Log(name)
		mustExit(t, r, 3, strings.ReplaceAll(noise, `\n`, "\n")+"out\n", "")
	}
}

// Output is kept within its bound, and counted and hashed whole.
func TestMuchOutput(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	const size = 10 << 20
	r := Run(bounded(t), s.Client(t, sshdtest.Plain(t)), Command{Text: "head -c 10485760 /dev/zero; head -c 10485760 /dev/zero >&2", Posix: true, MaxOutput: 16 << 10})
	for name, c := range map[string]*Capture{"stdout": r.Stdout, "stderr": r.Stderr} {
		kept := bytes.Count(c.Bytes(), []byte{0})
		if c.Total() != size || kept != 16<<10 || cap(c.head)+cap(c.tail) > 64<<10 ||
			c.SHA256() != "e5b844cc57f57094ea4585e235f36c78c1cd222262bb89d53c94dcb4d6b3e55d" {
			t.Errorf("%s: %d bytes in all, %d kept, in %d bytes of memory", name, c.Total(), kept, cap(c.head)+cap(c.tail))
		}
	}
}

// A process that is left behind with the pipes does not hold the run up, and
// what was written before is all there.
func TestBackgroundHoldsThePipe(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	m := newMarked(t)
	began := time.Now()
	r := posix(t, s.Client(t, sshdtest.Plain(t)), "seq 1000 | tail -1; sleep "+string(m)+" & exit 5")
	mustExit(t, r, 5, "1000\n", "")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if len(m.pids(t)) == 0 {
		t.Error("the process that was left behind is gone")
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	ctx, cancel := context.WithCancel(bounded(t))
	lines := make(chan string, 10)
	r := Run(ctx, s.Client(t, sshdtest.Plain(t)), Command{
		Text: "echo first; sleep 30", Posix: true, MaxOutput: 100,
		Progress: func(line string) { lines <- line; cancel() },
	})
	if got := <-lines; got != "first" || r.Outcome != Cancelled {
		t.Errorf("got %q, %s", got, say(r))
	}
}

// A device that takes no more channels has run nothing.
func TestChannelRefused(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"MaxSessions 0"}})
	r := posix(t, s.Client(t, sshdtest.Plain(t)), "true")
	if r.Outcome != NotConnected || r.Executed != No || !r.Refused || r.Err == nil {
		t.Errorf("got %s", say(r))
	}
}

// Where the connection ends decides what is known of the command.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for name, c := range map[string]struct {
		text     string
		toServer func(nth int64) (goOn bool) // pieces since the login
		toClient func(sent, bytes int64) (goOn bool)
		executed Executed
		some     bool // stdout has something
	}{
		"before the channel":  {text: "true", toServer: func(nth int64) bool { return nth < 1 }, executed: No},
		"at the exec request": {text: "true", toServer: func(nth int64) bool { return nth < 2 }, executed: Maybe},
		"before its answer":   {text: "true", toClient: func(sent, _ int64) bool { return sent < 2 }, executed: Maybe},
		"in its output":       {text: "yes", toClient: func(_, bytes int64) bool { return bytes < 100<<10 }, executed: Yes, some: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var armed atomic.Bool
			var sent, received atomic.Int64
			client, _ := through(t, s, sshdtest.See{
				ToServer: func([]byte) bool {
					return !armed.Load() || c.toServer == nil && sent.Add(1) > 0 || c.toServer != nil && c.toServer(sent.Add(1))
				},
				ToClient: func(piece []byte) bool {
					return !armed.Load() || c.toClient == nil || c.toClient(sent.Load(), received.Add(int64(len(piece))))
				},
			})
			settle(t, client)
			armed.Store(true)
			r := posix(t, client, c.text)
			state := StateMayBeRunning
			if c.executed == No {
				state = StateUnknown
			}
			if r.Outcome != ConnectionLost || r.Executed != c.executed || r.State != state || r.Err == nil || r.Refused {
				t.Errorf("got %s; want executed %s", say(r), c.executed)
			}
			if got := r.Stdout.Total() > 0; got != c.some {
				t.Errorf("stdout has %d bytes", r.Stdout.Total())
			}
		})
	}
	t.Run("before its exit status", func(t *testing.T) {
		t.Parallel()
		client, proxy := through(t, s, sshdtest.See{})
		m := newMarked(t)
		var once sync.Once
		r := Run(bounded(t), client, Command{Text: "echo out; sleep " + string(m), Posix: true, MaxOutput: 100, Progress: func(string) { once.Do(proxy.Cut) }})
		if r.Outcome != ConnectionLost || r.Executed != Yes || r.State != StateMayBeRunning || string(r.Stdout.Bytes()) != "out\n" {
			t.Errorf("got %s", say(r))
		}
	})
}

// settle waits until what the server says by itself after a login has come.
func settle(t *testing.T, client *ssh.Client) {
	t.Helper()
	if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Fatal(err)
	}
}
