package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a started program. Its output goes to files, not pipes, so that
// nothing waits for a grandchild that keeps them open. It is ended, by its own
// pid, when the test ends, and its output is shown when the test failed.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr string        // paths
	done           chan struct{} // closed when the process has ended
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	return startCmd(t, exec.Command(name, args...))
}

func startCmd(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{
		name:   filepath.Base(cmd.Path),
		cmd:    cmd,
		stdout: filepath.Join(dir, "stdout"),
		stderr: filepath.Join(dir, "stderr"),
		done:   make(chan struct{}),
	}
	stdout, stderr := create(t, p.stdout), create(t, p.stderr)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	go func() {
		_ = cmd.Wait() // the exit status is read from ProcessState
		_, _ = stdout.Close(), stderr.Close()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.end()
		if t.Failed() {
			t.Logf("%s (pid %d) %s", strings.Join(cmd.Args, " "), cmd.Process.Pid, cmd.ProcessState)
			t.Logf("its stderr:\n%s", tail(t, p.stderr))
			t.Logf("its stdout:\n%s", tail(t, p.stdout))
		}
	})
	return p
}

// end asks the process to stop, and kills it when it does not.
func (p *process) end() {
	deadline := time.After(soon)
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for !p.ended() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-again.C:
		case <-deadline:
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("sending %v to %s: %v", sig, p.name, err)
	}
}

// stop sends sig and returns the exit code. The process must end soon.
func (p *process) stop(t *testing.T, sig os.Signal) int {
	t.Helper()
	p.signal(t, sig)
	return p.wait(t, soon)
}

// wait returns the exit code, -1 for a process that a signal ended.
func (p *process) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("%s still runs after %v", p.name, within)
		return 0
	}
}

// waitFor returns once the process has written text on stderr.
func (p *process) waitFor(t *testing.T, text string) {
	t.Helper()
	eventually(t, soon, fmt.Sprintf("%s says %q", p.name, text), func() error {
		if strings.Contains(read(t, p.stderr), text) {
			return nil
		}
		if p.ended() {
			t.Fatalf("%s ended (%v) before it said %q:\n%s", p.name, p.cmd.ProcessState, text, tail(t, p.stderr))
		}
		return errors.New("not yet")
	})
}

// logLines returns what the process has logged so far as JSON lines on
// stderr. Other lines are left out.
func (p *process) logLines(t *testing.T) []map[string]any {
	t.Helper()
	var lines []map[string]any
	scanner := bufio.NewScanner(strings.NewReader(read(t, p.stderr)))
	for scanner.Scan() {
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}

// waitReady returns the attributes of the log line "ready".
func (p *process) waitReady(t *testing.T) map[string]any {
	t.Helper()
	var ready map[string]any
	eventually(t, soon, p.name+" is ready", func() error {
		if p.ended() {
			t.Fatalf("%s ended (%v) before it was ready:\n%s", p.name, p.cmd.ProcessState, tail(t, p.stderr))
		}
		for _, line := range p.logLines(t) {
			if line["msg"] == "ready" {
				ready = line
				return nil
			}
		}
		return errors.New("no log line with the message ready")
	})
	return ready
}

// loopbackAddress picks the TCP address out of a ready line.
func loopbackAddress(t *testing.T, ready map[string]any) string {
	t.Helper()
	candidates := []any{ready["listen"]}
	for _, value := range ready {
		candidates = append(candidates, value)
	}
	for _, value := range candidates {
		text, ok := value.(string)
		if !ok {
			continue
		}
		if host, port, err := net.SplitHostPort(text); err == nil && host == "127.0.0.1" && port != "0" {
			return text
		}
	}
	t.Fatalf("the ready line names no address of 127.0.0.1: %v", ready)
	return ""
}

// finished is a program that ran to its end.
type finished struct {
	code           int
	stdout, stderr string
}

// runProgram runs a program to its end, which must come soon.
func runProgram(t *testing.T, name string, args ...string) finished {
	t.Helper()
	return runCmd(t, exec.Command(name, args...))
}

func runCmd(t *testing.T, cmd *exec.Cmd) finished {
	t.Helper()
	p := startCmd(t, cmd)
	code := p.wait(t, 2*soon)
	return finished{code: code, stdout: read(t, p.stdout), stderr: read(t, p.stderr)}
}

// output runs a program that must succeed and returns its stdout.
func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// containsLog reports whether the process has said text on stderr so far.
func containsLog(t *testing.T, p *process, text string) bool {
	t.Helper()
	return strings.Contains(read(t, p.stderr), text)
}

// childrenOf lists the processes that pid has started.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	var children []int
	for field := range strings.FieldsSeq(read(t, fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
	}
	return children
}
