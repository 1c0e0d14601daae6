package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tunnel-acceptor": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "one-line": oneLine, "until": until, "get": get, "listens": listens,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// exits CODE PROGRAM ARG… runs a program that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// one-line TEXT… checks that the program before said one line on stderr beside
// its log, that it names the program and has each text in it, and that there
// is no other output.
func oneLine(ts *testscript.TestScript, _ bool, args []string) {
	var said []string
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		if !strings.HasPrefix(line, "time=") {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "tunnel-acceptor: ") {
		ts.Fatalf("want one clear line, got %q", said)
	}
	for _, text := range args {
		if !strings.Contains(said[0], text) {
			ts.Fatalf("want %q in %q", text, said[0])
		}
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("stdout: %q", out)
	}
}

// until PROGRAM ARG… runs a program until it succeeds, or with ! until it
// fails.
func until(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(10 * time.Second); (ts.Exec(args[0], args[1:]...) == nil) == neg; {
		if time.Now().After(deadline) {
			ts.Fatalf("waited in vain")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// get SOCKET PATH STATUS asks over a unix socket and prints the answer.
func get(ts *testscript.TestScript, _ bool, args []string) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", ts.MkAbs(args[0]))
		},
	}}
	response, err := client.Get("http://acceptor" + args[1])
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	if strconv.Itoa(response.StatusCode) != args[2] {
		ts.Fatalf("%s, want %s: %s", response.Status, args[2], body)
	}
	ts.Check(os.WriteFile(ts.MkAbs("answer"), body, 0o600))
}

// listens VARIABLE [unix:PATH] holds an address until the script ends and sets
// the variable to it.
func listens(ts *testscript.TestScript, _ bool, args []string) {
	network, address := "tcp", "127.0.0.1:0"
	if len(args) > 1 {
		network, address = "unix", ts.MkAbs(args[1])
	}
	ln, err := net.Listen(network, address)
	ts.Check(err)
	ts.Setenv(args[0], ln.Addr().String())
	ts.Defer(func() { _ = ln.Close() })
}
