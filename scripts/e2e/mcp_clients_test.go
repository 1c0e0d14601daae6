package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Clients of the daemon at the same time, and what each of them does.
const (
	crowdSize    = 32
	crowdDevices = 16 // two clients each: under sshd's MaxSessions, also while commands are stopped
	crowdEchoes  = 5
)

// 32 clients of one daemon, half of each protocol generation. Each has a slow
// command that it hears progress of, one that it cancels, and some that are
// answered at once. Each gets all of its own and nothing else.
func TestManyClientsAtOnce(t *testing.T) {
	t.Parallel()
	f := newCrowd(t)
	f.serve(t)
	slow := filepath.Join(shortDir(t), "slow")
	write(t, slow, "#!/bin/sh\nfor n in 1 2 3 4 5; do echo $1 says $n; sleep 0.5; done\n", 0o755)

	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 6*soon)
	defer cancel()
	var marks [crowdSize]marked
	var errs [crowdSize]error
	var wg sync.WaitGroup
	for i := range crowdSize {
		marks[i] = newMarked(t)
		one := &crowdClient{name: fmt.Sprintf("client-%02d", i), device: crowdDevice(i % crowdDevices), slow: slow, held: "sleep " + marks[i].number}
		protocol := "2025-11-25"
		if i%2 == 1 {
			protocol = "2026-07-28"
		}
		wg.Go(func() {
			if err := one.work(ctx, f.command("attach"), protocol); err != nil {
				errs[i] = fmt.Errorf("%s (%s): %w", one.name, protocol, err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d clients took %v", crowdSize, time.Since(start))
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for _, m := range marks {
		m.gone(t)
	}

	// The trail has every run, each under the name of the client that asked for it.
	outcomes := map[string]int{}
	for _, r := range readAudit(t, f.auditLog) {
		if strings.Contains(r.Command, "client-") && !strings.Contains(r.Command, r.Client.Name) {
			t.Errorf("the trail says that %s asked for %q", r.Client.Name, r.Command)
		}
		outcomes[r.Outcome]++
	}
	if got, want := outcomes["cancelled"], crowdSize; got != want {
		t.Errorf("cancelled runs in the trail: got %d, want %d", got, want)
	}
	if got, want := outcomes["exited"], crowdSize*(1+crowdEchoes+1); got != want {
		t.Errorf("ended runs in the trail: got %d, want %d", got, want)
	}
}

// One client has 32 calls under way, none of which is answered before all of
// them run: no call waits for another.
func TestManyCallsOfOneClient(t *testing.T) {
	t.Parallel()
	f := newCrowd(t)
	f.serve(t)
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // the devices' user writes there
		t.Fatal(err)
	}
	together := filepath.Join(shortDir(t), "together")
	write(t, together, fmt.Sprintf("#!/bin/sh\n: >$1/$2\nuntil [ $(ls $1 | wc -l) = %d ]; do sleep 0.1; done\necho $2\n", crowdSize), 0o755)

	c := f.attach(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*soon)
	defer cancel()
	var errs [crowdSize]error
	var wg sync.WaitGroup
	for i := range crowdSize {
		wg.Go(func() {
			run, err := c.try(ctx, crowdDevice(i%crowdDevices), fmt.Sprint(together, " ", dir, " ", i))
			if err == nil && run.Stdout != fmt.Sprintln(i) {
				err = fmt.Errorf("call %d: got the answer %q, outcome %q, error %+v", i, run.Stdout, run.Outcome, run.Error)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
}

// newCrowd prepares a frontend with devices for the clients and calls here.
func newCrowd(t *testing.T) *frontend {
	t.Helper()
	userKey := newKey(t)
	servers := []*sshd{startSSHD(t, userKey), startSSHD(t, userKey)} // one would meet its MaxStartups
	f := newFrontend(t, "")
	for n := range crowdDevices {
		f.addDirect(t, crowdDevice(n), servers[n%len(servers)], logins[0], userKey)
	}
	return f
}

func crowdDevice(n int) string { return fmt.Sprintf("edge-%d", n+1) }

// crowdClient is one of them. The progress token of its slow command is the
// same as every other client's.
type crowdClient struct {
	name, device string
	slow         string // a program that says its argument and a number, five times
	held         string // a command that does not end

	session *mcp.ClientSession

	mu       sync.Mutex
	began    chan struct{} // closed at the first progress of the held command
	heard    map[any]int   // progress notifications, by token
	progress map[any]float64
	wrong    []error
}

func (c *crowdClient) work(ctx context.Context, server *exec.Cmd, protocol string) (err error) {
	c.began, c.heard, c.progress = make(chan struct{}), map[any]int{}, map[any]float64{}
	sdk := mcp.NewClient(&mcp.Implementation{Name: c.name, Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { c.hear(r.Params) },
	})
	transport := &mcp.CommandTransport{Command: server, TerminateDuration: soon}
	c.session, err = sdk.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: protocol})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.session.Close()) }()

	var wg sync.WaitGroup
	var slowErr, heldErr error
	wg.Go(func() { slowErr = c.runSlow(ctx) })
	wg.Go(func() { heldErr = c.runHeld(ctx) })
	echoErr := c.runEchoes(ctx)
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(append(c.wrong, slowErr, heldErr, echoErr)...)
}

func (c *crowdClient) runSlow(ctx context.Context) error {
	run, err := c.call(ctx, "slow", c.slow+" "+c.name)
	if err != nil {
		return err
	}
	var want strings.Builder
	for n := range 5 {
		fmt.Fprintf(&want, "%s says %d\n", c.name, n+1)
	}
	if run.Stdout != want.String() {
		return fmt.Errorf("the slow command: stdout %q", run.Stdout)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard["slow"] == 0 {
		return errors.New("no progress of the slow command")
	}
	return nil
}

// runHeld cancels the held command once it is known to run. Nothing is heard
// of it any more.
func (c *crowdClient) runHeld(ctx context.Context) error {
	cancellable, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := c.call(cancellable, "held-"+c.name, "echo "+c.name+" waits; "+c.held)
		answered <- err
	}()
	select {
	case <-c.began:
	case err := <-answered:
		return fmt.Errorf("the held command was answered: %w", err)
	case <-ctx.Done():
		return errors.New("no progress of the held command")
	}
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the cancelled call returned %w", err)
	}
	if err := c.echo(ctx, "after the cancellation"); err != nil {
		return err
	}
	before := c.heardOf("held-" + c.name)
	select {
	case <-time.After(1200 * time.Millisecond): // longer than from one progress to the next
	case <-ctx.Done():
	}
	if after := c.heardOf("held-" + c.name); after != before {
		return fmt.Errorf("heard %d times more of the cancelled call", after-before)
	}
	return nil
}

func (c *crowdClient) runEchoes(ctx context.Context) error {
	for n := range crowdEchoes {
		if err := c.echo(ctx, fmt.Sprint("number ", n)); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowdClient) echo(ctx context.Context, what string) error {
	said := c.name + " " + what
	run, err := c.call(ctx, "echo-"+c.name, "echo "+said)
	if err == nil && run.Stdout != said+"\n" {
		err = fmt.Errorf("%s: got the answer %q", said, run.Stdout)
	}
	return err
}

// call runs a command that must end by itself with 0.
func (c *crowdClient) call(ctx context.Context, token, command string) (run runResult, err error) {
	params := toolCall("ssh_run", args{"device": c.device, "command": command})
	params.SetProgressToken(token)
	result, err := c.session.CallTool(ctx, params)
	if err != nil {
		return run, err
	}
	content, err := json.Marshal(result.StructuredContent)
	if err != nil {
		return run, err
	}
	if err := json.Unmarshal(content, &run); err != nil {
		return run, err
	}
	if result.IsError || run.Outcome != "exited" || run.Device != c.device {
		return run, fmt.Errorf("%s on %s: %s", command, c.device, content)
	}
	return run, nil
}

// hear checks that a notification is of this client's own calls.
func (c *crowdClient) hear(p *mcp.ProgressNotificationParams) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := "held-" + c.name
	switch token := p.ProgressToken; {
	case token != "slow" && token != held && token != "echo-"+c.name:
		c.wrong = append(c.wrong, fmt.Errorf("heard of the token %v", token))
	case !strings.HasPrefix(p.Message, c.name+" "):
		c.wrong = append(c.wrong, fmt.Errorf("heard %q of the token %v", p.Message, token))
	case token != "echo-"+c.name && p.Progress <= c.progress[token]:
		c.wrong = append(c.wrong, fmt.Errorf("the token %v went from %v to %v", token, c.progress[token], p.Progress))
	default:
		if token == held && c.heard[held] == 0 {
			close(c.began)
		}
		c.heard[token]++
		c.progress[token] = p.Progress
	}
}

func (c *crowdClient) heardOf(token string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard[token]
}
