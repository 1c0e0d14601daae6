package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Calls come to a device in an order, and that is the order in which they run,
// whoever asks: a client with few calls waits for those that were there before,
// and for none that came after. sshd allows 10 sessions on a connection, and
// never is asked for more.
func TestCallsAreServedInTheirOrder(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey, "LogLevel DEBUG1") // which tells of refused sessions
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, server, logins[0], userKey)
	f.serve(t)
	dir := shortDir(t)
	gate := filepath.Join(dir, "gate")
	program := filepath.Join(dir, "pass")
	write(t, program, fmt.Sprintf("#!/bin/sh\nuntil [ -e %s ]; do sleep 0.1; done\n", gate), 0o755)
	command := func(name string) string { return program + " " + name }

	// Eight runs hold all channels of the device, and 192 calls come meanwhile.
	// A connection carries 64 calls at once, so the greedy client has three.
	const held, before, few, after = 8, 100, 10, 82
	greedy := []*rawClient{dialRaw(t, f), dialRaw(t, f), dialRaw(t, f)}
	modest := dialRaw(t, f)
	sent := 0
	ask := func(kind string, count int, clients ...*rawClient) {
		for range count {
			clients[sent%len(clients)].run(t, directDevice, command(fmt.Sprint(kind, "-", sent)))
			sent++
			for _, c := range clients {
				c.settle(t) // what was sent has been taken
			}
		}
	}
	ask("held", held, greedy...)
	eventually(t, soon, "the device is busy", func() error {
		if got := len(startedOf(t, f, program)); got != held {
			return fmt.Errorf("%d runs have started", got)
		}
		return nil
	})
	ask("before", before, greedy...)
	ask("few", few, modest)
	ask("after", after, greedy...)
	write(t, gate, "", 0o644)
	for _, c := range append(greedy, modest) {
		c.finish(t)
	}

	started := startedOf(t, f, program)
	if len(started) != sent {
		t.Fatalf("%d runs of %d have started", len(started), sent)
	}
	// Those who hold a channel at the same time may overtake each other.
	const slack = held + 1
	for place, name := range started {
		_, number, _ := strings.Cut(name, "-")
		nth, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		if nth > place+slack || nth < place-slack {
			t.Errorf("the call %s, which came as number %d, ran as number %d", name, nth, place)
		}
	}
	mostSessions(t, server, 10)
}

// startedOf lists the arguments of the program's runs, in the order in which
// they were recorded as started.
func startedOf(t *testing.T, f *frontend, program string) []string {
	t.Helper()
	var started []string
	for _, r := range readAudit(t, f.auditLog) {
		if _, name, found := strings.Cut(r.Command, program); found && r.Event == "run_started" {
			started = append(started, strings.Trim(name, "' "))
		}
	}
	return started
}

// mostSessions fails the test if sshd has refused a session, or has had more
// at once on one connection.
func mostSessions(t *testing.T, server *sshd, most int) {
	t.Helper()
	log := read(t, server.stderr)
	if !strings.Contains(log, "debug1:") {
		t.Fatal("sshd does not tell of its sessions")
	}
	for _, words := range []string{"no more sessions", "session open failed"} {
		if n := strings.Count(log, words); n > 0 {
			t.Errorf("sshd says %d times: %s", n, words)
		}
	}
	highest := -1
	for line := range strings.Lines(log) {
		if _, id, found := strings.Cut(strings.TrimSpace(line), " session_new: session "); found {
			if n, err := strconv.Atoi(id); err == nil {
				highest = max(highest, n)
			}
		}
	}
	if highest < 0 || highest >= most {
		t.Errorf("the highest session was number %d, want one below %d", highest, most)
	}
	t.Logf("the highest session of a connection was number %d", highest)
}

// 200 calls come at once, all for one device, or for 50: all of them run, none
// is refused, and the devices' limits hold.
func TestManyRunsAtOnce(t *testing.T) {
	t.Parallel()
	for _, devices := range []int{1, 50} {
		t.Run(fmt.Sprint(devices, " devices"), func(t *testing.T) {
			t.Parallel()
			userKey := newKey(t)
			server := startSSHD(t, userKey, "LogLevel DEBUG1", "MaxStartups 200")
			f := newFrontend(t, "")
			for n := range devices {
				f.addDirect(t, crowdDevice(n), server, logins[0], userKey)
			}
			f.serve(t)
			const clients, calls = 5, 40
			count := newCounter(t)
			began := time.Now()
			var wg sync.WaitGroup
			for n := range clients {
				c := f.attach(t)
				for i := range calls {
					wg.Go(func() {
						name := fmt.Sprint(n, "-", i)
						run, err := c.try(t.Context(), crowdDevice((n*calls+i)%devices), count.command(name))
						if err != nil || run.isError || run.Outcome != "exited" || *run.ExitCode != 0 {
							t.Errorf("%s: outcome %q, error %+v, %v", name, run.Outcome, run.Error, err)
						}
					})
				}
			}
			wg.Wait()
			t.Logf("%d runs took %v", clients*calls, time.Since(began))
			if ran := count.ran(t); len(ran) != clients*calls {
				t.Errorf("%d commands ran, want %d", len(ran), clients*calls)
			}
			mostSessions(t, server, 10)
		})
	}
}

// rawClient speaks MCP by hand, so that it is known what was sent before what.
type rawClient struct {
	in      io.WriteCloser
	mu      sync.Mutex // guards all below
	asked   int
	calls   map[int]bool // ids of runs that are not answered yet
	awaited map[int]chan struct{}
	wrong   []error
	ended   chan struct{}
}

func dialRaw(t *testing.T, f *frontend) *rawClient {
	t.Helper()
	attach := f.command("attach")
	in, err := attach.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := attach.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := attach.Start(); err != nil {
		t.Fatal(err)
	}
	c := &rawClient{in: in, calls: map[int]bool{}, awaited: map[int]chan struct{}{}, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			c.answered(line)
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		<-c.ended
		_ = attach.Wait()
	})
	c.await(t, "tools/list") // the first request waits until the conversation is on record
	return c
}

func (c *rawClient) answered(line []byte) {
	var answer struct {
		ID     int
		Error  json.RawMessage
		Result struct{ IsError bool }
	}
	err := json.Unmarshal(line, &answer)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || answer.Error != nil || answer.Result.IsError {
		c.wrong = append(c.wrong, fmt.Errorf("answered with %.500s (%v)", line, err)) //nolint:errorlint // it may be nil
	}
	delete(c.calls, answer.ID)
	if awaited := c.awaited[answer.ID]; awaited != nil {
		close(awaited)
	}
}

// run asks for a command and does not wait.
func (c *rawClient) run(t *testing.T, device, command string) {
	t.Helper()
	c.mu.Lock()
	c.asked++
	id := c.asked
	c.calls[id] = true
	c.mu.Unlock()
	c.say(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":%q}}}`, id, device, command))
}

// settle returns once the server has taken what was sent: a ping is answered
// before the next line is read.
func (c *rawClient) settle(t *testing.T) {
	t.Helper()
	c.await(t, "ping")
}

// await makes a request and waits for its answer.
func (c *rawClient) await(t *testing.T, method string) {
	t.Helper()
	answered := make(chan struct{})
	c.mu.Lock()
	c.asked++
	id := c.asked
	c.awaited[id] = answered
	c.mu.Unlock()
	c.say(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q}`, id, method))
	select {
	case <-answered:
	case <-c.ended:
		t.Fatal("the server ended the conversation")
	case <-time.After(3 * soon):
		t.Fatalf("%s is not answered", method)
	}
}

func (c *rawClient) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

// finish waits for all answers, which must be good.
func (c *rawClient) finish(t *testing.T) {
	t.Helper()
	eventually(t, 6*soon, "all calls are answered", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.calls) > 0 {
			return fmt.Errorf("%d are not", len(c.calls))
		}
		return nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.wrong...); err != nil {
		t.Error(err)
	}
}
