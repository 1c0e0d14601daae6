package e2e

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/google/go-cmp/cmp"
)

func TestDirectRun(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	for _, as := range logins {
		f.addDirect(t, "by-"+string(as), server, as, userKey)
	}
	f.addDirect(t, directDevice, server, logins[0], userKey)
	c := f.stdio(t)

	t.Run("uname", func(t *testing.T) {
		run := c.run(t, directDevice, "uname -a")
		run.exited(t, 0)
		if want := string(output(t, "uname", "-a")); run.Stdout != want {
			t.Errorf("stdout: got %q, want this machine's own %q", run.Stdout, want)
		}
		if run.Device != directDevice || run.Via != "direct" || run.Connect != "new" {
			t.Errorf("device, via, connect: got %q, %q, %q, want %s, direct, new", run.Device, run.Via, run.Connect, directDevice)
		}
		if again := c.run(t, directDevice, "uname -a"); again.Connect != "reused" || again.RunID == run.RunID {
			t.Errorf("second run: connect %q, run_id %q after %q; want reused and another id", again.Connect, again.RunID, run.RunID)
		}
	})

	t.Run("every field", func(t *testing.T) {
		result := c.callTool(t, "ssh_run", args{"device": directDevice, "command": "true"})
		fields, ok := result.StructuredContent.(map[string]any)
		if !ok {
			t.Fatalf("structuredContent is a %T", result.StructuredContent)
		}
		for name := range strings.FieldsSeq(`run_id device via outcome exit_code signal executed remote_state stdout stderr
			stdout_bytes stderr_bytes encoding truncated output_id duration_ms connect policy audit_seq`) {
			if _, present := fields[name]; !present {
				t.Errorf("the result has no field %s", name)
			}
		}
		run := decodeRun(t, result)
		if run.RunID == "" || run.AuditSeq == 0 || run.Policy.Decision != "allow" || run.DurationMS < 0 {
			t.Errorf("run_id %q, audit_seq %d, policy %+v, duration_ms %v", run.RunID, run.AuditSeq, run.Policy, run.DurationMS)
		}
	})

	// What the device answers to a plain SSH client is what a run must return.
	for _, as := range logins {
		session := dialPlain(t, server, as, userKey)
		for name, command := range map[string]string{
			"exit 7":           "exit 7",
			"false":            "false",
			"not found":        "no-such-program-here",
			"both streams":     "ls /etc/hostname /nonexistent",
			"pipeline":         "seq 1 50 | grep 7 | sort -r",
			"and or":           "true && echo yes || echo no",
			"semicolon":        "echo one; echo two",
			"streams in one":   "ls /nonexistent 2>&1",
			"quotes":           `echo 'single  $HOME' "double  quote's" back\ slash`,
			"not ascii":        "echo 'grüße ✓ 漢字 🙂'",
			"empty lines":      `printf '\n\n\n'`,
			"no last newline":  "printf end",
			"no output":        "true",
			"ended by KILL":    "timeout --signal=KILL 0.05 sleep 10",
			"ended by TERM":    "timeout --preserve-status 0.05 sleep 10",
			"status of 255":    "exit 255",
			"home":             "pwd",
			"glob":             "ls -d /et[c]",
			"tilde":            "ls -d ~",
			"stderr only":      "ls /nonexistent",
			"control bytes":    `printf '\001\033[31m\r\n'`,
			"looks like a log": `printf '{"msg":"ready"}\n'`,
		} {
			t.Run(string(as)+"/"+name, func(t *testing.T) {
				want := session.run(t, command)
				run := c.run(t, "by-"+string(as), command)
				if run.isError || run.Error != nil || run.Executed != "yes" {
					t.Fatalf("isError %v, executed %q, error %+v; want a normal result", run.isError, run.Executed, run.Error)
				}
				if diff := cmp.Diff(want, answerOf(t, run)); diff != "" {
					t.Errorf("%s (-plain SSH +ssh_run):\n%s", command, diff)
				}
			})
		}
	}
}

func TestDirectRunStdin(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)

	for name, stdin := range map[string]string{
		"a line":    "hello\n",
		"not ascii": "grüße ✓\n",
		"large":     strings.Repeat("0123456789abcde\n", 4096), // 64 KiB
	} {
		t.Run(name, func(t *testing.T) {
			run := c.run(t, directDevice, "cat", args{"stdin": stdin, "max_output_bytes": 1 << 20})
			run.exited(t, 0)
			if run.Stdout != stdin {
				t.Errorf("got back %d bytes, sent %d; begins %.40q", len(run.Stdout), len(stdin), run.Stdout)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		// Without stdin a command that reads it sees its end at once.
		c.run(t, directDevice, "cat", args{"timeout_s": 10}).exited(t, 0)
	})
	t.Run("not read", func(t *testing.T) {
		c.run(t, directDevice, "true", args{"stdin": strings.Repeat("x", 1<<20)}).exited(t, 0)
	})
}

func TestRunInDirectory(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)

	run := c.run(t, directDevice, "pwd", args{"cwd": "/usr/share"})
	run.exited(t, 0)
	if run.Stdout != "/usr/share\n" {
		t.Errorf("stdout: got %q", run.Stdout)
	}
	c.run(t, directDevice, "pwd", args{"cwd": "usr/share"}).refused(t, "INVALID_ARGUMENT")
	c.mustWork(t, directDevice)
}

// Sixteen runs at once share one connection, whose sshd takes ten sessions.
func TestRunsAtOnce(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)

	const runs = 16
	var results [runs]runResult
	var errs [runs]error
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() { results[i], errs[i] = c.try(t.Context(), directDevice, "sleep 0.2") })
	}
	wg.Wait()
	dialled := 0
	for i, run := range results {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		run.exited(t, 0)
		if run.Connect == "new" {
			dialled++
		}
	}
	if dialled != 1 {
		t.Errorf("%d runs say that they made the connection, want 1", dialled)
	}
}

// answer is what a device makes of a command.
type answer struct {
	Stdout, Stderr string
	ExitCode       int // -1 when a signal ended the command
	Signal         string
}

func answerOf(t *testing.T, run runResult) answer {
	t.Helper()
	a := answer{Stdout: string(run.bytes(t, run.Stdout)), Stderr: string(run.bytes(t, run.Stderr)), ExitCode: -1}
	switch run.Outcome {
	case "exited":
		if run.ExitCode == nil {
			t.Fatal("outcome exited without an exit_code")
		}
		a.ExitCode = *run.ExitCode
	case "signaled":
		if run.Signal == nil || *run.Signal == "" {
			t.Fatal("outcome signaled without a signal")
		}
		a.Signal = strings.TrimPrefix(*run.Signal, "SIG")
	default:
		t.Fatalf("outcome: got %q, want exited or signaled", run.Outcome)
	}
	return a
}

// plainClient is a bare SSH client, to compare with.
type plainClient struct{ *ssh.Client }

func dialPlain(t *testing.T, server *sshd, as login, k key) plainClient {
	t.Helper()
	c, err := ssh.Dial("tcp", server.address(), &ssh.ClientConfig{
		User:            string(as),
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(k.signer)},
		HostKeyCallback: ssh.FixedHostKey(server.hostKey.signer.PublicKey()),
		Timeout:         soon,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return plainClient{c}
}

func (c plainClient) run(t *testing.T, command string) answer {
	t.Helper()
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	var stdout, stderr strings.Builder
	session.Stdout, session.Stderr = &stdout, &stderr
	var a answer
	if err := session.Run(command); err != nil {
		var exit *ssh.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%s: %v", command, err)
		}
		a.ExitCode, a.Signal = exit.ExitStatus(), exit.Signal()
		if a.Signal != "" {
			a.ExitCode = -1
		}
	}
	a.Stdout, a.Stderr = stdout.String(), stderr.String()
	return a
}
