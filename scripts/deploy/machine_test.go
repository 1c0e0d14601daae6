package deploy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is this one once more, with a systemd of its own and nothing else
// running. All that happens in it is gone when the test ends.
type machine struct{ pid string }

func boot(t *testing.T) *machine {
	t.Helper()
	asRoot(t, "true")
	compose, err := filepath.Abs(filepath.Join("..", "..", "compose"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/boot.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Removed by root, before t.TempDir is.
	cleanUp := asRoot(t, "rm", "-rf", filepath.Join(dir, "upper"), filepath.Join(dir, "root"), filepath.Join(dir, "log"))
	t.Cleanup(func() { _ = exec.Command(cleanUp.Args[0], cleanUp.Args[1:]...).Run() })
	start := asRoot(t, "sh", script, dir, compose, binDir)
	// Ended through its input alone: what it started, only it can end.
	cmd := exec.Command(start.Args[0], start.Args[1:]...)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("ending the machine: %v", err)
		}
	})
	pid, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal("no systemd boots here; its own words are above")
	}
	m := &machine{strings.TrimSpace(pid)}
	eventually(t, func() string {
		said, err := m.try(t, "systemctl is-system-running")
		if err != nil {
			return "systemd is not running: " + said
		}
		return ""
	})
	if said, err := m.try(t, "echo 1 >/proc/sys/fs/protected_symlinks"); err == nil || !strings.Contains(said, "Read-only") {
		t.Fatalf("the machine could change this one's kernel: %v %s", err, said)
	}
	return m
}

// command runs a shell script in the machine, as its root.
func (m *machine) command(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	return asRoot(t, "nsenter", "--target="+m.pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"env", "-i", "--chdir=/", "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-ec", script)
}

func (m *machine) try(t *testing.T, script string) (string, error) {
	t.Helper()
	out, err := m.command(t, script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *machine) must(t *testing.T, script string) string {
	t.Helper()
	out, err := m.try(t, script)
	if err != nil {
		journal, _ := m.try(t, "journalctl --no-pager -n 30 -u tunnel-acceptor -u mcp-frontend")
		t.Fatalf("%s: %v\n%s\n%s", script, err, out, journal)
	}
	return out
}

// file writes a file in the machine.
func (m *machine) file(t *testing.T, path, text string) {
	t.Helper()
	cmd := m.command(t, "cat >"+path)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("writing %s: %v\n%s", path, err, out)
	}
}

// as runs a program as a user with its groups, as `sudo -u` does.
func as(user, command string) string {
	return fmt.Sprintf("setpriv --reuid=%[1]s --regid=%[1]s --init-groups --no-new-privs --inh-caps=-all %[2]s", user, command)
}

// callTool attaches an MCP client, calls one tool and returns its result.
func (m *machine) callTool(t *testing.T, name string, arguments map[string]any) string {
	t.Helper()
	cmd := m.command(t, as("mcp-frontend", "mcp-frontend attach --mcp-socket /run/mcp-frontend/mcp.sock"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	call, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": map[string]any{"name": name, "arguments": arguments}})
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(stdout)
	send := func(line string) {
		if _, err := io.WriteString(stdin, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	send(`{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "deploy-test", "version": "1"}}}`)
	for answers.Scan() {
		var answer struct {
			ID     int
			Result struct{ StructuredContent json.RawMessage }
		}
		if err := json.Unmarshal(answers.Bytes(), &answer); err != nil {
			t.Fatalf("%v: %s", err, answers.Text())
		}
		switch answer.ID {
		case 1:
			send(`{"jsonrpc": "2.0", "method": "notifications/initialized"}`)
			send(string(call))
		case 2:
			return string(answer.Result.StructuredContent)
		}
	}
	t.Fatalf("no answer to %s: %v", call, answers.Err())
	return ""
}

// installCommands is the first block of commands in the systemd README.
func installCommands(t *testing.T) string {
	t.Helper()
	var block strings.Builder
	for line := range strings.Lines(read(t, "compose", "systemd", "README.md")) {
		command, indented := strings.CutPrefix(line, "    ")
		if !indented {
			if block.Len() > 0 {
				break
			}
			continue
		}
		block.WriteString(command)
	}
	if !strings.Contains(block.String(), "systemctl enable --now tunnel-acceptor mcp-frontend") {
		t.Fatalf("compose/systemd/README.md has other commands first:\n%s", block.String())
	}
	return block.String()
}

// key makes a key pair and returns the path of the private key and the public
// line.
func key(t *testing.T) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return path, strings.TrimSpace(string(line))
}
