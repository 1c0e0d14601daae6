package e2e

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptCommands are what the scripts under testdata have beside testscript's own.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"exits":           exits,
	"says":            says,
	"one-clear-line":  oneClearLine,
	"no-stack-trace":  noStackTraceInScript,
	"nothing-behind":  nothingBehind,
	"quietly-refused": quietlyRefused,
}

// exits CODE PROGRAM ARG… runs a program that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// says PATTERN checks what the program before said, on either stream.
func says(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: says pattern")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	if said := ts.ReadFile("stdout") + ts.ReadFile("stderr"); !pattern.MatchString(said) {
		ts.Fatalf("no match of %s in what it said: %s", pattern, said)
	}
}

// one-clear-line TEXT… checks that the program before said one line on stderr
// beside what it logs as information or warning, that the line has each text,
// and that it said nothing on stdout.
func oneClearLine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: one-clear-line text...")
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout is not empty: %q", out)
	}
	var said []string
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		line = strings.TrimSpace(line)
		logged := strings.Contains(line, "level=INFO") || strings.Contains(line, "level=WARN") ||
			strings.Contains(line, `"level":"INFO"`) || strings.Contains(line, `"level":"WARN"`)
		if line != "" && !logged {
			said = append(said, line)
		}
	}
	if len(said) != 1 {
		ts.Fatalf("want one line, got %d: %q", len(said), said)
	}
	for _, text := range args {
		if !strings.Contains(said[0], text) {
			ts.Fatalf("the line does not have %q: %s", text, said[0])
		}
	}
	noStackTraceInScript(ts, false, nil)
}

// no-stack-trace checks what the program before said.
func noStackTraceInScript(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("unsupported: ! no-stack-trace")
	}
	said := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	for _, words := range []string{"goroutine ", "panic:", ".go:"} {
		if strings.Contains(said, words) {
			ts.Fatalf("%q in its output", words)
		}
	}
}

// nothing-behind ADDRESS [TARGET] connects to a port that an ssh client listens
// on (as SOCKS5 proxy for TARGET when given) and checks that the connection is
// closed without a byte from behind it.
func nothingBehind(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: nothing-behind address [target]")
	}
	conn := dialWhenListening(ts, args[0])
	defer func() { _ = conn.Close() }()
	ts.Check(conn.SetDeadline(time.Now().Add(soon)))
	if len(args) == 2 {
		askSOCKS5(ts, conn, args[1])
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		ts.Fatalf("reading: %v", err)
	}
	if strings.Contains(string(answer), "SSH-") {
		ts.Fatalf("the connection leads somewhere: %q", answer)
	}
}

func dialWhenListening(ts *testscript.TestScript, address string) net.Conn {
	deadline := time.Now().Add(soon)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nothing listens on %s: %v", address, err)
		}
		<-tick.C
	}
}

// askSOCKS5 asks a proxy for a connection. ssh says yes before it has asked the gateway.
func askSOCKS5(ts *testscript.TestScript, conn net.Conn, target string) {
	host, service, err := net.SplitHostPort(target)
	ts.Check(err)
	port, err := strconv.Atoi(service)
	ts.Check(err)
	_, err = conn.Write([]byte{5, 1, 0}) // version 5, one method: no authentication
	ts.Check(err)
	_, err = io.ReadFull(conn, make([]byte, 2))
	ts.Check(err)
	request := append([]byte{5, 1, 0, 1}, net.ParseIP(host).To4()...) // connect to an IPv4 address
	_, err = conn.Write(append(request, byte(port>>8), byte(port)))
	ts.Check(err)
}

// quietly-refused checks that the ssh client before said nothing but the
// gateway's refusal: words that a person would look up, in OpenSSH's own form.
func quietlyRefused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: quietly-refused")
	}
	const refusal = "channel 0: open failed: administratively prohibited: this gateway accepts reverse forwards only (ssh -N -R)"
	said := ts.ReadFile("stderr")
	for line := range strings.Lines(said) {
		if strings.TrimSpace(line) == refusal {
			return
		}
	}
	ts.Fatalf("want the line %q in:\n%s", refusal, said)
}

// withPrograms puts the programs under test first on a script's PATH.
func withPrograms(env *testscript.Env) {
	env.Setenv("PATH", binDir+string(filepath.ListSeparator)+env.Getenv("PATH"))
}
