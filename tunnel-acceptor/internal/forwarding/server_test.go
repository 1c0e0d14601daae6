package forwarding

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// x/crypto never wakes who opens a channel just while the read loop ends: see
// tunnel.openChannel. The flooding clients here run into that now and then.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("golang.org/x/crypto/ssh.(*mux).openChannel"))
}

// acceptor is a server on a loopback port, with all that its tests look at.
type acceptor struct {
	t        *testing.T
	server   *Server
	registry *registry.Registry
	addr     string
	hostKey  ssh.Signer
	log      *lockedBuffer
	stop     func() // ends Serve and waits for it

	mu     sync.Mutex // guards all below
	events []Event
	onto   func(Event) error // called for each event, nil to do nothing
}

// start serves with the given authorized_keys lines. change, which may be nil,
// sees the configuration before, and the server before it serves.
func start(t *testing.T, lines string, change func(*Config, *delays)) *acceptor {
	t.Helper()
	a := &acceptor{t: t, registry: registry.New(), hostKey: newKey(t), log: &lockedBuffer{}}
	cfg := Config{
		Keys: keySet(t, lines), Registry: a.registry, HostKeys: []ssh.Signer{a.hostKey}, Version: "tunnel-acceptor", Ciphers: Ciphers,
		AliveInterval: 15 * time.Second, AliveCount: 3, LoginGrace: 20 * time.Second, MaxAuthTries: 3,
		MaxStartups: 100, MaxStartupsPerSource: 100, MaxConnections: 10000, MaxTunnels: 8, MaxStreams: 128,
		DrainTimeout: 2 * time.Second, Record: a.record,
		Log: slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	delays := defaultDelays
	if change != nil {
		change(&cfg, &delays)
	}
	server, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server.delays = delays
	a.server = server
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(a.stop)
	return a
}

func keySet(t *testing.T, lines string) *devicekey.Set {
	t.Helper()
	set, err := devicekey.Parse("authorized_keys", []byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (a *acceptor) record(e Event) error {
	a.mu.Lock()
	onto := a.onto
	a.events = append(a.events, e)
	a.mu.Unlock()
	if onto != nil {
		return onto(e)
	}
	return nil
}

func (a *acceptor) onEvent(f func(Event) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onto = f
}

// named returns the events of that name so far.
func (a *acceptor) named(name string) (events []Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Name == name {
			events = append(events, e)
		}
	}
	return events
}

// event waits for the first event of that name.
func (a *acceptor) event(name string) Event {
	a.t.Helper()
	a.waitFor("the event "+name, func() bool { return len(a.named(name)) > 0 })
	return a.named(name)[0]
}

func (a *acceptor) waitFor(what string, true func() bool) {
	a.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !true() {
		if time.Now().After(deadline) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.t.Fatalf("waited in vain for %s; the newest events: %+v", what, a.events[max(0, len(a.events)-5):])
		}
		<-time.After(2 * time.Millisecond)
	}
}

// state returns the state of a slot, 0 if it is not listed.
func (a *acceptor) state(device string, port uint16) registry.State {
	for _, t := range a.registry.List().Tunnels {
		if t.Device == device && t.Port == port {
			return t.State
		}
	}
	return 0
}

func (a *acceptor) waitUp(device string, port uint16) registry.Target {
	a.t.Helper()
	a.waitFor(fmt.Sprintf("%s:%d to be up", device, port), func() bool { return a.state(device, port) == registry.Up })
	target, err := a.registry.Find(device, port, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	return target
}

// dial opens a stream to a tunnel that is up.
func (a *acceptor) dial(device string, port uint16) registry.Stream {
	a.t.Helper()
	stream, err := a.waitUp(device, port).Open(a.t.Context())
	if err != nil {
		a.t.Fatalf("opening a stream to %s:%d: %v", device, port, err)
	}
	return stream
}

// checkEcho sends text through a tunnel whose device echoes.
func (a *acceptor) checkEcho(device string, port uint16) {
	a.t.Helper()
	stream := a.dial(device, port)
	defer stream.Close()
	checkStream(a.t, stream)
}

func checkStream(t *testing.T, stream registry.Stream) {
	t.Helper()
	const text = "are you there?"
	if _, err := io.WriteString(stream, text); err != nil {
		t.Errorf("writing to the device: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(stream, got); err != nil || string(got) != text {
		t.Errorf("the device echoed %q, %v", got, err)
	}
}

// testKey is a signer whose private half can be written to a file.
type testKey struct {
	ssh.Signer
	pem []byte
}

func newKey(t *testing.T) testKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, private)
}

func keyOf(t *testing.T, private crypto.Signer) testKey {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return testKey{signer, pem.EncodeToMemory(block)}
}

// line grants ports to a key. options come before the mandatory ones.
func line(device string, key ssh.PublicKey, options string, ports ...uint16) string {
	var b strings.Builder
	b.WriteString(options)
	b.WriteString("restrict,port-forwarding")
	for _, port := range ports {
		fmt.Fprintf(&b, `,permitlisten="%d"`, port)
	}
	return b.String() + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + device + "\n"
}

// login connects a raw client. Its keepalives are answered.
func (a *acceptor) login(keys ...ssh.Signer) (*ssh.Client, error) {
	return a.loginAs("agent", a.addr, keys...)
}

func (a *acceptor) loginAs(user, addr string, keys ...ssh.Signer) (*ssh.Client, error) {
	client, err := ssh.Dial("tcp", addr, a.clientConfig(user, keys...))
	if err == nil {
		a.t.Cleanup(func() { _ = client.Close() })
	}
	return client, err
}

func (a *acceptor) clientConfig(user string, keys ...ssh.Signer) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}, HostKeyCallback: ssh.FixedHostKey(a.hostKey.PublicKey()),
		Timeout: 15 * time.Second,
	}
}

func (a *acceptor) mustLogin(key ssh.Signer) *ssh.Client {
	a.t.Helper()
	client, err := a.login(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return client
}

// hold logs a device in that holds port and echoes what comes through it.
func (a *acceptor) hold(key ssh.Signer, port uint16) *ssh.Client {
	a.t.Helper()
	client := a.mustLogin(key)
	go echo(client.HandleChannelOpen("forwarded-tcpip"))
	if !forward(a.t, client, "localhost", uint32(port)) {
		a.t.Fatalf("the forward of %d was refused", port)
	}
	return client
}

func echo(channels <-chan ssh.NewChannel) {
	for nc := range channels {
		ch, reqs, err := nc.Accept()
		if err != nil {
			continue
		}
		go ssh.DiscardRequests(reqs)
		go func() {
			_, _ = io.Copy(ch, ch)
			_ = ch.Close()
		}()
	}
}

// forward asks for a forward and says whether it was granted.
func forward(t *testing.T, client *ssh.Client, label string, port uint32) bool {
	t.Helper()
	ok, _, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(forwardRequest{label, port}))
	if err != nil {
		t.Errorf("asking for a forward: %v", err)
	}
	return ok
}

func cancel(t *testing.T, client *ssh.Client, label string, port uint32) bool {
	t.Helper()
	ok, _, err := client.SendRequest("cancel-tcpip-forward", true, ssh.Marshal(forwardRequest{label, port}))
	if err != nil {
		t.Errorf("cancelling a forward: %v", err)
	}
	return ok
}

// waitClosed waits for the server to end a client, and returns how long it took.
func waitClosed(t *testing.T, client ssh.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = client.Wait() }()
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		t.Fatal("the connection is still open")
	}
	return time.Since(began)
}

// lockedBuffer is a bytes.Buffer for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// openSSH prepares a stock ssh that talks to a, with key as its identity. The
// caller starts it; it is ended with the test.
func (a *acceptor) openSSH(key testKey, args ...string) (*exec.Cmd, *lockedBuffer) {
	a.t.Helper()
	dir := a.t.TempDir()
	host, port, err := net.SplitHostPort(a.addr)
	if err != nil {
		a.t.Fatal(err)
	}
	known := fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(a.hostKey.PublicKey()))
	writeFile(a.t, filepath.Join(dir, "known_hosts"), []byte(known))
	identity := filepath.Join(dir, "id")
	writeFile(a.t, identity, key.pem)
	args = append([]string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", identity, "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"), "-o", "ConnectTimeout=10", "-o", "LogLevel=INFO", "-p", port,
	}, args...)
	return a.command("ssh", append(args, "agent@"+host)...)
}

func (a *acceptor) command(name string, args ...string) (*exec.Cmd, *lockedBuffer) {
	a.t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		a.t.Fatalf("%s is missing: run scripts/setup", name)
	}
	output := &lockedBuffer{}
	cmd := exec.CommandContext(a.t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = time.Second
	a.t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, output
}

func startCommand(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// echoService serves on a port of this machine and returns its address.
func echoService(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(nc, nc)
				_ = nc.Close()
			}()
		}
	}()
	return ln.Addr().String()
}
