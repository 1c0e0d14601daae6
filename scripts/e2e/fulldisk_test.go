package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// The disk of the audit trail is full: nothing runs, and the daemon stays. When
// there is room again, it goes on by itself, and the chain is whole.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("not root: no small disk can be mounted")
		return
	}
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	disk := shortDir(t)
	f.auditLog = filepath.Join(disk, "audit.jsonl")
	count := newCounter(t)

	// The disk is mounted for the daemon alone, so nothing is left behind.
	plain := f.command("serve")
	mounted := exec.Command("unshare", append([]string{"--mount", "sh", "-c", `mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"`, disk}, plain.Args...)...)
	mounted.Dir = plain.Dir
	daemon := startCmd(t, mounted)
	daemon.waitReady(t)
	onDisk := func(name string) string { return fmt.Sprintf("/proc/%d/root%s/%s", daemon.cmd.Process.Pid, disk, name) }
	c := f.attach(t)
	c.run(t, directDevice, count.command("before")).exited(t, 0)

	fill(t, onDisk("filler"))
	// The page that the trail ends in has room for some records more.
	full := false
	for n := range 50 {
		run := c.run(t, directDevice, count.command(fmt.Sprint("filling-", n)))
		if full = run.Error != nil; full {
			run.refused(t, "AUDIT_UNAVAILABLE")
			break
		}
	}
	if !full {
		t.Fatal("the disk never was full")
	}
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			run, err := c.try(t.Context(), directDevice, count.command(fmt.Sprint("full-", n)))
			if err != nil || run.Error == nil || run.Error.Code != "AUDIT_UNAVAILABLE" || run.Executed != "no" || run.Error.FixBy != "operator" {
				t.Errorf("on a full disk: outcome %q, executed %q, error %+v, %v", run.Outcome, run.Executed, run.Error, err)
			}
		})
	}
	wg.Wait()
	if ran := count.ran(t); strings.Contains(strings.Join(ran, " "), "full-") {
		t.Errorf("ran without a record: %v", ran)
	}
	if done := runCmd(t, f.command("healthcheck")); done.code != 0 || daemon.ended() {
		t.Errorf("the daemon does not serve any more: %s", done.stderr)
	}

	if err := os.Remove(onDisk("filler")); err != nil {
		t.Fatal(err)
	}
	c.run(t, directDevice, count.command("after")).exited(t, 0)
	if code := verifyIn(t, daemon.cmd.Process.Pid, f.auditLog); code.code != 0 {
		t.Errorf("afterwards: %s%s", code.stdout, code.stderr)
	}
	count.allRecorded(t, read(t, onDisk("audit.jsonl")))
}

// fill writes until there is no room left.
func fill(t *testing.T, path string) {
	t.Helper()
	file := create(t, path)
	defer func() { _ = file.Close() }()
	for {
		if _, err := file.Write(make([]byte, 512)); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// verifyIn verifies a trail that only the process pid sees.
func verifyIn(t *testing.T, pid int, path string) finished {
	t.Helper()
	return runProgram(t, "nsenter", "--mount", "--target", fmt.Sprint(pid), frontendProgram(), "audit", "verify", path)
}

// counter is a program on the device that notes its argument each time it runs.
type counter struct{ program, file string }

func newCounter(t *testing.T) counter {
	t.Helper()
	dir := shortDir(t)
	c := counter{program: filepath.Join(dir, "count"), file: filepath.Join(dir, "counted")}
	write(t, c.file, "", 0o666)
	write(t, c.program, fmt.Sprintf("#!/bin/sh\necho \"$1\" >>%s\n", c.file), 0o755)
	return c
}

// command is what notes one word on the device.
func (c counter) command(word string) string { return c.program + " " + word }

// ran lists the words of the commands that ran.
func (c counter) ran(t *testing.T) []string {
	t.Helper()
	return strings.Fields(read(t, c.file))
}

// allRecorded fails the test if a command ran whose start is not in the trail.
func (c counter) allRecorded(t *testing.T, trail string) {
	t.Helper()
	started := map[string]int{}
	for line := range strings.Lines(trail) {
		if strings.Contains(line, `"event":"run_started"`) {
			_, rest, _ := strings.Cut(line, c.program)
			started[strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(`' "\`, r) })[0]]++
		}
	}
	ran := c.ran(t)
	for _, word := range ran {
		if started[word]--; started[word] < 0 {
			t.Errorf("%s ran more often than its start is on record", word)
		}
	}
	if len(ran) == 0 {
		t.Error("nothing has run at all")
	}
}
