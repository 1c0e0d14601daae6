package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// One process holds a fleet that comes back at one moment, and each of its
// tunnels can be dialled. It says what an idle one costs, which means something
// without the race detector only. GATEWAY_SOAK=1 makes it 1,000 devices, and
// waits a while for the runtime to give back what their logins took; all of it
// takes more than the two minutes between its own collections.
func TestFleet(t *testing.T) {
	devices, settle := 50, 100*time.Millisecond
	if os.Getenv("GATEWAY_SOAK") == "1" {
		devices, settle = 1000, 30*time.Second
	}
	dir := t.TempDir()
	keys := make([]ssh.Signer, devices)
	var lines bytes.Buffer
	for i := range keys {
		key, line := newDevice(t, fmt.Sprintf("edge-%d", i), 1000+i)
		keys[i] = key
		lines.Write(line)
	}
	if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tunnel-acceptor", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", "authorized_keys",
		"--max-startups", "1000", "--max-startups-per-source", "1000", "--log-level", "info")
	cmd.Dir = dir
	address := startAcceptor(t, cmd)
	pid := cmd.Process.Pid

	login(t, address, keys[0], 1000) // what every first connection costs once
	before := pss(t, pid)
	began := time.Now()
	var group sync.WaitGroup
	for i, key := range keys[1:] {
		group.Go(func() { login(t, address, key, 1001+i) })
	}
	group.Wait()
	t.Logf("%d devices came back at once in %v", devices, time.Since(began))
	peak := pss(t, pid)
	<-time.After(settle)
	after := pss(t, pid)
	t.Logf("memory per idle tunnel: %d KiB (PSS: %d KiB with one tunnel, %d after all logins, %d after %v)", (after-before)/(devices-1), before, peak, after, settle)

	began = time.Now()
	for i := range devices {
		if got := dialEcho(t, filepath.Join(dir, "run/acceptor/dial.sock"), fmt.Sprintf("127.0.0.1:%d", 1000+i)); got != "hello" {
			t.Errorf("device %d echoed %q", i, got)
		}
	}
	t.Logf("%d dials, one after the other, in %v", devices, time.Since(began))
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// SIGTERM lets streams finish; a second one does not wait for them.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, line := newDevice(t, "edge", 1000)
	if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), line, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tunnel-acceptor", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", "authorized_keys", "--drain-timeout", "1m")
	cmd.Dir = dir
	login(t, startAcceptor(t, cmd), key, 1000)
	socket := filepath.Join(dir, "run/acceptor/dial.sock")
	if got := dialEcho(t, socket, "edge:1000"); got != "hello" {
		t.Fatalf("the device echoed %q", got)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "CONNECT edge:1000 HTTP/1.1\r\nHost: edge:1000\r\n\r\nx")
	for r, got := bufio.NewReader(conn), byte(0); got != 'x'; {
		if got, err = r.ReadByte(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		t.Fatalf("the first SIGTERM ended it with a stream open: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the second SIGTERM did not end it")
	}
}

// With --loopback-ports the seed's 127.0.0.1:22222 is a real address.
func TestLoopbackPort(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	_ = free.Close()
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	key, line := newDevice(t, "edge", number)
	if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), line, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tunnel-acceptor", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", "authorized_keys", "--loopback-ports")
	cmd.Dir = dir
	login(t, startAcceptor(t, cmd), key, number)
	var conn net.Conn
	for deadline := time.Now().Add(5 * time.Second); ; <-time.After(10 * time.Millisecond) {
		if conn, err = net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("the device echoed %q, %v", got, err)
	}
}

// newDevice returns a key and the line that grants it a port.
func newDevice(t *testing.T, name string, port int) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key, fmt.Appendf(nil, "restrict,port-forwarding,permitlisten=\"%d\" %s %s\n", port, bytes.TrimSpace(ssh.MarshalAuthorizedKey(key.PublicKey())), name)
}

// startAcceptor starts it and returns its SSH address.
func startAcceptor(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	ready := regexp.MustCompile(`msg=ready listen=(\S+)`)
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if m := ready.FindStringSubmatch(lines.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return m[1]
		}
	}
	t.Fatal("the acceptor did not start")
	return ""
}

// login connects a device that holds port and echoes.
func login(t *testing.T, address string, key ssh.Signer, port int) {
	t.Helper()
	client, err := ssh.Dial("tcp", address, &ssh.ClientConfig{
		User: "agent", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 30 * time.Second,
	})
	if err != nil {
		t.Errorf("port %d: %v", port, err)
		return
	}
	t.Cleanup(func() { _ = client.Close() })
	channels := client.HandleChannelOpen("forwarded-tcpip")
	go func() {
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
	}()
	ok, _, err := client.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
		Label string
		Port  uint32
	}{"localhost", uint32(port)}))
	if !ok || err != nil {
		t.Errorf("port %d: the forward was refused: %v", port, err)
	}
}

// dialEcho sends hello through a tunnel and returns what comes back, or the
// acceptor's refusal. A device hears of its grant a moment before its tunnel is
// shown, so a tunnel that is not there is asked for again.
func dialEcho(t *testing.T, socket, authority string) string {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; <-time.After(10 * time.Millisecond) {
		got := dialOnce(t, socket, authority)
		if !strings.HasPrefix(got, "404") || time.Now().After(deadline) {
			return got
		}
	}
}

func dialOnce(t *testing.T, socket, authority string) string {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nhello", authority, authority)
	_ = conn.CloseWrite()
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		return response.Status
	}
	data, _ := io.ReadAll(r)
	return string(data)
}

// pss is a process's share of memory in KiB.
func pss(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[0] == "Pss:" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatal("no Pss in smaps_rollup")
	return 0
}
