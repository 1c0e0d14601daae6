// Command demo shows the gateway's main job on one machine, with nothing but
// Go: a device behind NAT opens a reverse tunnel into the real acceptor, and
// an MCP client runs commands on it through the real frontend. It prints each
// step, and ends 0 if all went as told.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/crypto/ssh/knownhosts"
)

const reversePort = 22222

func main() {
	bin := flag.String("bin", "bin", "folder of tunnel-acceptor and mcp-frontend")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	err := demo(ctx, *bin, os.Stdout)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// teller numbers the steps.
type teller struct {
	w io.Writer
	n int
}

func (t *teller) step(format string, args ...any) {
	t.n++
	_, _ = fmt.Fprintf(t.w, "%d. %s\n", t.n, fmt.Sprintf(format, args...))
}

func (t *teller) detail(format string, args ...any) {
	_, _ = fmt.Fprintf(t.w, "     %s\n", fmt.Sprintf(format, args...))
}

func demo(ctx context.Context, bin string, w io.Writer) (err error) {
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gateway-demo-")
	if err != nil {
		return err
	}
	tell := &teller{w: w}
	d, err := prepare(dir, tell)
	if err != nil {
		return err
	}

	acceptor, address, err := startAcceptor(ctx, bin, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, acceptor.stop()) }()
	tell.step("tunnel-acceptor listens on %s, the only port of the gateway", address)

	acceptorKey, err := readPublicKey(filepath.Join(dir, "data/acceptor/ssh_host_ed25519_key.pub"))
	if err != nil {
		return err
	}
	tunnel, err := d.connect(ctx, address, acceptorKey, reversePort)
	if err != nil {
		return fmt.Errorf("opening the reverse tunnel: %w", err)
	}
	defer d.work.Wait()
	defer func() { _ = tunnel.Close() }()
	tell.step("the device edge-vm-2 opened a reverse tunnel, as `ssh -N -R %d:localhost:22 agent@gateway` does", reversePort)

	session, err := attach(ctx, bin, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	tell.step("an MCP client started `mcp-frontend stdio`")
	if err := work(ctx, session, tell); err != nil {
		return err
	}
	tell.step("every step is on record, chained by SHA-256:")
	tell.detail("%s", filepath.Join(dir, "data/acceptor/audit.jsonl"))
	tell.detail("%s", filepath.Join(dir, "data/audit.jsonl"))
	return nil
}

// prepare writes what an operator writes: keys, who may connect, the devices.
func prepare(dir string, tell *teller) (*device, error) {
	d := &device{}
	var err error
	if d.hostKey, err = newKey(); err != nil {
		return nil, err
	}
	if d.tunnel, err = newKey(); err != nil {
		return nil, err
	}
	login, err := writeKey(filepath.Join(dir, "data/keys/edge-vm-2.key"))
	if err != nil {
		return nil, err
	}
	d.loginKey = login
	files := map[string]string{
		"data/acceptor/authorized_keys": fmt.Sprintf("restrict,port-forwarding,permitlisten=\"%d\" %s edge-vm-2\n", reversePort, line(d.tunnel.PublicKey())),
		"data/known_hosts":              knownhosts.Line([]string{"edge-vm-2"}, d.hostKey.PublicKey()) + "\n",
		"data/connections.json": fmt.Sprintf(`[
  {"name": "edge-vm-2", "mode": "tunnel", "user": "pi", "host": "127.0.0.1", "port": %d, "id_file": "keys/edge-vm-2.key"}
]
`, reversePort),
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	tell.step("wrote authorized_keys, known_hosts and connections.json under %s", dir)
	return d, nil
}

// work is what an agent does.
func work(ctx context.Context, session *mcp.ClientSession, tell *teller) error {
	var listed struct {
		Devices []struct{ Name, State string }
	}
	if _, err := call(ctx, session, "ssh_list_devices", map[string]any{}, &listed); err != nil {
		return err
	}
	for _, d := range listed.Devices {
		tell.detail("ssh_list_devices: %s is %s", d.Name, d.State)
	}
	for _, command := range []string{"uname -a", "ls /nonexistent", "rm -rf $HOME"} {
		var ran struct {
			Outcome, Stdout, Stderr, Executed, Via string
			ExitCode                               *int `json:"exit_code"`
			Error                                  *struct{ Code, Message string }
		}
		failed, err := call(ctx, session, "ssh_run", map[string]any{"device": "edge-vm-2", "command": command}, &ran)
		if err != nil {
			return err
		}
		tell.step("ssh_run %q on edge-vm-2:", command)
		switch {
		case ran.Error != nil:
			tell.detail("%s, executed %s: %s", ran.Error.Code, ran.Executed, ran.Error.Message)
		default:
			tell.detail("%s with %d, via %s", ran.Outcome, *ran.ExitCode, ran.Via)
		}
		for _, text := range []string{ran.Stdout, ran.Stderr} {
			if text = strings.TrimSpace(text); text != "" {
				tell.detail("| %s", text)
			}
		}
		if refused := strings.Contains(command, "$"); failed != refused {
			return fmt.Errorf("%q: got an error: %v, want %v", command, failed, refused)
		}
	}
	return nil
}

// call calls a tool and decodes its structured content.
func call(ctx context.Context, session *mcp.ClientSession, tool string, args map[string]any, result any) (failed bool, err error) {
	answer, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return false, fmt.Errorf("calling %s: %w", tool, err)
	}
	data, err := json.Marshal(answer.StructuredContent)
	if err != nil {
		return false, err
	}
	return answer.IsError, json.Unmarshal(data, result)
}

func attach(ctx context.Context, bin, dir string) (*mcp.ClientSession, error) {
	frontend := exec.CommandContext(ctx, filepath.Join(bin, "mcp-frontend"), "stdio", "--acceptor-dir", filepath.Join(dir, "run"), "--log-level", "error")
	frontend.Dir, frontend.Stderr = dir, os.Stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "demo", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: frontend}, nil)
	if err != nil {
		return nil, fmt.Errorf("starting the frontend: %w", err)
	}
	return session, nil
}

// process is the running acceptor.
type process struct{ cmd *exec.Cmd }

func startAcceptor(ctx context.Context, bin, dir string) (*process, string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "tunnel-acceptor"), "serve", "--listen", "127.0.0.1:0", "--run-dir", filepath.Join(dir, "run"), "--log-format", "json")
	cmd.Dir = dir
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("starting the acceptor: %w", err)
	}
	lines := bufio.NewScanner(log)
	var said []string
	for lines.Scan() {
		var entry struct{ Msg, Listen string }
		said = append(said, lines.Text())
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Msg == "ready" {
			go func() { _, _ = io.Copy(io.Discard, log) }() // ends with the process
			return &process{cmd}, entry.Listen, nil
		}
	}
	return nil, "", fmt.Errorf("the acceptor did not start: %s: %w", strings.Join(said, "; "), cmd.Wait())
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.cmd.Wait()
}
