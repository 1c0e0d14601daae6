package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The connection to the device breaks, anywhere: after every so many bytes of a
// whole conversation (key exchange, login, the probe of the shell, the channel,
// the exec request, its answer, output, exit status), in either direction, by a
// reset, by an orderly end, and by a line that falls silent. Each time a
// counter file on the device tells how often the command has run:
//
//   - never twice, whatever was retried;
//   - not at all, if the result says executed "no";
//   - once, if it says that the command exited, and then its output is whole,
//     or the result says that it is not.
//
// A command whose connection breaks in the very moment in which the device
// takes it is "yes" or "maybe" and may not have begun: its shell dies of the
// connection. The next call finds a device that works.
//
// The cuts lie a fixed distance apart, from a random first one, so that many
// runs of this test together cut everywhere.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	s := newCutting(t)
	up, down, talk := s.measure(t)
	t.Logf("a conversation has %d bytes to the device and %d from it, and %d with some output", up, down, talk)
	distance := map[cutKind]int64{cutReset: 97, cutEnd: 211, cutDark: 307}
	if os.Getenv("GATEWAY_SOAK") != "" {
		distance = map[cutKind]int64{cutReset: 11, cutEnd: 23, cutDark: 53}
	}
	for kind, step := range distance {
		for at := rand.Int64N(step); at < up; at += step {
			s.add(t, cut{kind: kind, after: at}, 0)
		}
		for at := rand.Int64N(step); at < down; at += step {
			s.add(t, cut{kind: kind, fromDevice: true, after: at}, 0)
		}
		for at := down + rand.Int64N(talk/8); at < talk; at += talk / 8 {
			s.add(t, cut{kind: kind, fromDevice: true, after: at}, cutOutput)
		}
	}
	// Around the exec request, which is short, the cuts are close.
	for at := up * 2 / 3; at < up; at += 13 {
		s.add(t, cut{kind: cutReset, after: at}, 0)
	}
	seen := s.run(t)
	t.Logf("%d cuts: %v", len(s.cases), seen)
	for _, want := range []string{
		"exited yes", "not_connected no", "connection_lost no", "connection_lost maybe", "connection_lost yes",
	} {
		if seen[want] == 0 {
			t.Errorf("no cut led to %q", want)
		}
	}
}

// The keepalive that a device has by default finds a silent line within 45 s,
// before the command's own time limit would end the wait.
func TestSilentLineIsFound(t *testing.T) {
	t.Parallel()
	if os.Getenv("GATEWAY_SOAK") == "" {
		t.Skip("takes 45 s: set GATEWAY_SOAK=1, or run make soak")
	}
	s := newCutting(t)
	s.add(t, cut{kind: cutDark, fromDevice: true, after: 100_000}, cutOutput)
	delete(s.frontend.entries[0], "keepalive_s")
	if seen := s.run(t); seen["connection_lost yes"] != 1 {
		t.Errorf("got %v", seen)
	}
	t.Logf("it was found after %v", s.cases[0].took)
}

// cutOutput is what the command prints where it is to be cut in its output.
const cutOutput = 300_000

// cutting is a frontend with a device for each cut, all of them one sshd.
type cutting struct {
	frontend *frontend
	server   *sshd
	userKey  key
	program  string // counts how often it ran
	counts   string // the directory of its files
	cases    []*cutCase
}

type cutCase struct {
	cut    cut
	device string
	proxy  *cutProxy
	output int
	run    runResult
	took   time.Duration
	err    error
}

func newCutting(t *testing.T) *cutting {
	t.Helper()
	userKey := newKey(t)
	s := &cutting{
		userKey: userKey, frontend: newFrontend(t, ""), counts: shortDir(t),
		server: startSSHD(t, userKey, "MaxStartups 1000"),
	}
	if err := os.Chmod(s.counts, 0o777); err != nil { // the device's user counts there
		t.Fatal(err)
	}
	s.program = filepath.Join(shortDir(t), "count")
	write(t, s.program, "#!/bin/sh\necho ran >>$1\necho begun\nhead -c $2 /dev/zero\necho done\n", 0o755)
	return s
}

// add adds a device whose first connection is cut.
func (s *cutting) add(t *testing.T, c cut, output int) {
	t.Helper()
	s.enter(t, &cutCase{cut: c, output: output, proxy: startCutProxy(t, s.server.address(), &c)})
}

func (s *cutting) enter(t *testing.T, c *cutCase) {
	t.Helper()
	c.device = fmt.Sprintf("cut-%d", len(s.cases))
	s.cases = append(s.cases, c)
	idFile := filepath.Join(s.frontend.dir, "keys", "cut.key")
	write(t, idFile, read(t, s.userKey.path), 0o600)
	s.frontend.entries = append(s.frontend.entries, entry{
		"name": c.device, "mode": "direct", "user": string(logins[0]), "host": "127.0.0.1", "port": c.proxy.port,
		"id_file": idFile, "keepalive_s": 1, "connect_timeout_s": 8,
	})
	s.frontend.known = append(s.frontend.known, s.server.knownAs(fmt.Sprintf("[127.0.0.1]:%d", c.proxy.port)))
}

func (s *cutting) countFile(c *cutCase) string { return filepath.Join(s.counts, c.device) }

func (s *cutting) command(c *cutCase) string {
	return fmt.Sprint(s.program, " ", s.countFile(c), " ", c.output)
}

// measure returns how many bytes pass in a conversation that nothing cuts, to
// the device and from it, and from it with cutOutput.
func (s *cutting) measure(t *testing.T) (up, down, talk int64) {
	t.Helper()
	plain := &cutCase{proxy: startCutProxy(t, s.server.address(), nil)}
	talking := &cutCase{proxy: startCutProxy(t, s.server.address(), nil), output: cutOutput}
	s.enter(t, plain)
	s.enter(t, talking)
	s.frontend.write(t)
	c := s.frontend.stdio(t)
	for _, one := range s.cases {
		c.run(t, one.device, s.command(one)).exited(t, 0)
	}
	up, down, talk = plain.proxy.up.Load(), plain.proxy.down.Load(), talking.proxy.down.Load()
	plain.proxy.close()
	talking.proxy.close()
	_ = c.Close()
	s.cases, s.frontend.entries, s.frontend.known = nil, nil, nil
	for _, name := range []string{"cut-0", "cut-1"} {
		if err := os.Remove(filepath.Join(s.counts, name)); err != nil {
			t.Fatal(err)
		}
	}
	return up, down, talk
}

// run makes all calls, checks what they say against the counters, and returns
// how often each outcome was seen.
func (s *cutting) run(t *testing.T) map[string]int {
	t.Helper()
	s.frontend.write(t)
	c := s.frontend.stdio(t)
	free := make(chan struct{}, 12)
	var wg sync.WaitGroup
	for _, one := range s.cases {
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			one.call(t.Context(), c, s.command(one))
		})
	}
	wg.Wait()
	s.quiet(t, c)
	seen := map[string]int{}
	for _, one := range s.cases {
		how := one.run.Outcome + " " + one.run.Executed
		if one.run.Outcome == "connection_lost" && one.run.RemoteState == "exited" {
			how += ", output cut short"
		}
		seen[how]++
		if err := one.judge(len(strings.Fields(s.counted(t, one)))); err != nil {
			t.Errorf("%s %+v: outcome %q, executed %q, remote_state %q, took %v, error %+v: %v", one.device, one.cut,
				one.run.Outcome, one.run.Executed, one.run.RemoteState, one.took, one.run.Error, err)
		}
	}
	return seen
}

// call makes the call whose connection is cut, and then one that must work:
// at once, or once the device is no longer left alone.
func (one *cutCase) call(ctx context.Context, c *client, command string) {
	began := time.Now()
	one.run, one.err = c.try(ctx, one.device, command)
	one.took = time.Since(began)
	if one.err != nil {
		return
	}
	for range 5 {
		next, err := c.try(ctx, one.device, "true")
		if err != nil {
			one.err = fmt.Errorf("the next call: %w", err)
			return
		}
		if next.Outcome == "exited" {
			return
		}
		one.err = fmt.Errorf("the next call: outcome %q, error %+v", next.Outcome, next.Error)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
		one.err = nil
	}
	one.err = errors.New("five further calls failed")
}

// quiet ends everything that may still count.
func (s *cutting) quiet(t *testing.T, c *client) {
	t.Helper()
	_ = c.Close()
	for _, one := range s.cases {
		one.proxy.close()
	}
	eventually(t, 3*soon, "the device's sessions end", func() error {
		if left := childrenOf(t, s.server.cmd.Process.Pid); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	eventually(t, 3*soon, "the commands end", func() error {
		if left := (marked{number: s.program}).pids(t); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}

func (s *cutting) counted(t *testing.T, one *cutCase) string {
	t.Helper()
	content, err := os.ReadFile(s.countFile(one))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(content)
}

// judge says what is wrong with a result, given how often the command ran.
func (one *cutCase) judge(times int) error {
	run := one.run
	lost := run.Outcome == "connection_lost" && run.isError && run.Error != nil && run.Error.Code == "CONNECTION_LOST"
	switch {
	case one.err != nil:
		return one.err
	case times > 1:
		return fmt.Errorf("the command ran %d times", times)
	case one.took > 47*time.Second: // 45 s of silence, and connecting before that
		return errors.New("the loss was found too late")
	case run.Outcome == "exited":
		if run.Executed != "yes" || run.RemoteState != "exited" || times != 1 || run.StdoutBytes != int64(len("begun\ndone\n")+one.output) {
			return fmt.Errorf("%d runs, %d bytes of output", times, run.StdoutBytes)
		}
	case run.Executed == "no":
		if times != 0 || run.Error == nil || !run.isError || run.RemoteState != "unknown" || run.StdoutBytes != 0 {
			return fmt.Errorf("%d runs of what is said not to have run", times)
		}
		if !lost && run.Outcome != "not_connected" {
			return errors.New("the outcome does not fit")
		}
	case lost && run.RemoteState == "exited": // only the last output is missing
		if times != 1 || run.ExitCode == nil || *run.ExitCode != 0 || run.Executed != "yes" || *run.Error.Retriable {
			return fmt.Errorf("%d runs, exit code %v", times, show(run.ExitCode))
		}
	case !lost || run.RemoteState != "may_be_running" || run.Error.Retriable == nil || *run.Error.Retriable:
		return errors.New("a command that may have run is to be looked for, not retried")
	case run.Executed == "maybe" && run.StdoutBytes == 0:
	case run.Executed == "yes":
	default:
		return fmt.Errorf("executed %q with %d bytes of output", run.Executed, run.StdoutBytes)
	}
	return nil
}
