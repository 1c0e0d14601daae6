package e2e

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// maxGrowth is what the frontend may need beyond its idle size, whatever its
// devices print.
const maxGrowth = 64 << 20

// The frontend's memory does not follow what devices print: one stream of 100
// MB, bytes that are no text, a byte a second, and 32 long outputs at once, by
// several clients. GATEWAY_SOAK=1 makes the slow one a minute, and the many 100
// MB each.
func TestMemoryOfOutput(t *testing.T) {
	t.Parallel()
	each, seconds := 10_000_000, 5
	if os.Getenv("GATEWAY_SOAK") != "" {
		each, seconds = 100_000_000, 60
	}
	const clients, perClient, devices = 4, 8, 4
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	for n := range devices {
		f.addDirect(t, crowdDevice(n), server, logins[0], userKey)
	}
	daemon := f.serve(t)
	var attached []*client
	for n := range clients {
		c := f.attach(t)
		c.mustWork(t, crowdDevice(n%devices))
		attached = append(attached, c)
	}
	drip := filepath.Join(shortDir(t), "drip")
	write(t, drip, "#!/bin/sh\nn=0\nwhile [ $n -lt $1 ]; do printf .; n=$((n+1)); sleep 1; done\n", 0o755)

	m := watchMemory(t, daemon)
	run := func(c *client, device, command string, want int) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		got, err := c.try(ctx, device, command, args{"timeout_s": 240})
		if err != nil || got.Outcome != "exited" || got.StdoutBytes != int64(want) {
			t.Errorf("%s: outcome %q, %d bytes, error %+v, %v", command, got.Outcome, got.StdoutBytes, got.Error, err)
		}
	}
	run(attached[0], crowdDevice(0), "head -c 100000000 /dev/zero", 100_000_000)
	m.check(t, "100 MB")
	run(attached[0], crowdDevice(0), "head -c 30000000 /dev/urandom", 30_000_000)
	m.check(t, "invalid UTF-8")
	var wg sync.WaitGroup
	for _, c := range attached {
		wg.Go(func() { run(c, crowdDevice(0), fmt.Sprint(drip, " ", seconds), seconds) })
	}
	wg.Wait()
	m.check(t, "a byte a second")
	for n, c := range attached {
		for i := range perClient {
			wg.Go(func() { run(c, crowdDevice((n+i)%devices), fmt.Sprint("head -c ", each, " /dev/urandom"), each) })
		}
	}
	wg.Wait()
	m.check(t, fmt.Sprint(clients*perClient, " times ", each, " bytes at once"))
}

// memory watches how large a process has ever been.
type memory struct {
	pid   int
	idle  int64 // bytes
	raced bool  // the race detector needs many times as much
}

// watchMemory takes the process as it is now for idle.
func watchMemory(t *testing.T, p *process) *memory {
	t.Helper()
	m := &memory{pid: p.cmd.Process.Pid}
	m.idle = m.read(t, "VmRSS")
	// From now on VmHWM counts anew (proc(5), clear_refs).
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(frontendProgram())
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range info.Settings {
		m.raced = m.raced || setting.Key == "-race" && setting.Value == "true"
	}
	return m
}

// check fails the test if the process has grown by more than it may.
func (m *memory) check(t *testing.T, after string) {
	t.Helper()
	grown := m.read(t, "VmHWM") - m.idle
	t.Logf("after %s: %d KiB beyond the idle %d KiB", after, grown>>10, m.idle>>10)
	if grown > maxGrowth && !m.raced {
		t.Errorf("after %s the frontend has grown by %d KiB, more than %d", after, grown>>10, maxGrowth>>10)
	}
}

func (m *memory) read(t *testing.T, field string) int64 {
	t.Helper()
	status := read(t, fmt.Sprintf("/proc/%d/status", m.pid))
	found := regexp.MustCompile(`(?m)^` + field + `:\s+(\d+) kB$`).FindStringSubmatch(status)
	if found == nil {
		t.Fatalf("no %s in %s", field, status)
	}
	kib, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
