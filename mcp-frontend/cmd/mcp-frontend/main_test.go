package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mcp-frontend": main})
}

// The scripts have a device: a real sshd at $HOST:$PORT, whose host key is
// $HOST_KEY ($FINGERPRINT) and which lets $USER_KEY in as $LOGIN.
func TestScripts(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOST", s.Host)
			env.Setenv("PORT", strconv.Itoa(int(s.Port)))
			env.Setenv("LOGIN", sshdtest.Plain(t))
			env.Setenv("HOST_KEY", s.HostKeys[0].Public)
			env.Setenv("FINGERPRINT", ssh.FingerprintSHA256(s.HostKeys[0].Signer.PublicKey()))
			env.Setenv("USER_KEY", s.UserKey.Path)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "expand": expand},
	})
}

// exits CODE PROGRAM ARG… runs a program that must end with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	got := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// expand FILE… puts the environment's values into files.
func expand(ts *testscript.TestScript, _ bool, files []string) {
	for _, name := range files {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}
