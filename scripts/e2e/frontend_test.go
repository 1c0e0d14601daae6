package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// frontend is what an operator prepares for mcp-frontend: a directory with
// connections.json, known_hosts and the keys to the devices.
type frontend struct {
	dir         string
	connections string
	knownHosts  string
	auditLog    string
	acceptorDir string // "" for none
	mcpSocket   string
	entries     []entry
	known       []string
}

// entry is one of connections.json.
type entry map[string]any

func newFrontend(t *testing.T, acceptorDir string) *frontend {
	t.Helper()
	dir := t.TempDir()
	mkdir(t, dir, "keys")
	f := &frontend{
		dir:         dir,
		connections: filepath.Join(dir, "connections.json"),
		knownHosts:  filepath.Join(dir, "known_hosts"),
		auditLog:    filepath.Join(dir, "audit.jsonl"),
		acceptorDir: acceptorDir,
		mcpSocket:   filepath.Join(shortDir(t), "mcp.sock"),
	}
	f.write(t)
	return f
}

// add adds a device. k is the gateway's key to it; trust are lines of known_hosts.
func (f *frontend) add(t *testing.T, e entry, k key, trust ...string) {
	t.Helper()
	name, ok := e["name"].(string)
	if !ok {
		t.Fatalf("a device without a name: %v", e)
	}
	idFile := filepath.Join("keys", name+".key")
	write(t, filepath.Join(f.dir, idFile), read(t, k.path), 0o600)
	e["id_file"] = idFile // relative to connections.json
	f.entries = append(f.entries, e)
	f.known = append(f.known, trust...)
	f.write(t)
}

// addDirect adds a device that the gateway reaches by its address.
func (f *frontend) addDirect(t *testing.T, name string, s *sshd, as login, k key) {
	t.Helper()
	f.add(t, directEntry(name, s, as), k, s.knownAtAddress())
}

// addTunnel adds a device that the gateway reaches through its reverse tunnel.
func (f *frontend) addTunnel(t *testing.T, name string, port int, s *sshd, as login, k key) {
	t.Helper()
	f.add(t, tunnelEntry(name, port, as), k, s.knownAs(name))
}

func directEntry(name string, s *sshd, as login) entry {
	return entry{"name": name, "mode": "direct", "user": string(as), "host": "127.0.0.1", "port": s.port}
}

func tunnelEntry(name string, port int, as login) entry {
	return entry{"name": name, "mode": "tunnel", "user": string(as), "host": "127.0.0.1", "port": port}
}

// write writes connections.json and known_hosts as they are now to be.
func (f *frontend) write(t *testing.T) {
	t.Helper()
	entries := f.entries
	if entries == nil {
		entries = []entry{}
	}
	content, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.connections, string(content)+"\n", 0o600)
	write(t, f.knownHosts, lines(f.known...), 0o600)
}

// idFile is the path of a device's private key.
func (f *frontend) idFile(device string) string {
	return filepath.Join(f.dir, "keys", device+".key")
}

// command is mcp-frontend as an operator of this directory runs it.
func (f *frontend) command(name string, args ...string) *exec.Cmd {
	flags := map[string][]string{
		"stdio":       append(f.shared(), f.serving()...),
		"serve":       append(append(f.shared(), f.serving()...), "--mcp-socket", f.mcpSocket, "--operator-socket", f.operatorSocket()),
		"check":       {"--connections", f.connections, "--known-hosts", f.knownHosts},
		"trust":       f.shared(),
		"attach":      {"--mcp-socket", f.mcpSocket},
		"approvals":   {"--operator-socket", f.operatorSocket()},
		"approve":     {"--operator-socket", f.operatorSocket()},
		"deny":        {"--operator-socket", f.operatorSocket()},
		"healthcheck": {"--mcp-socket", f.mcpSocket},
	}
	cmd := exec.Command(frontendProgram(), append(append([]string{name}, flags[name]...), args...)...)
	cmd.Dir = filepath.Dir(f.mcpSocket) // short enough for the sockets that lie under it by default
	return cmd
}

func (f *frontend) operatorSocket() string {
	return filepath.Join(filepath.Dir(f.mcpSocket), "operator.sock")
}

func (f *frontend) shared() []string {
	return []string{"--connections", f.connections, "--known-hosts", f.knownHosts, "--acceptor-dir", f.acceptorDir}
}

func (f *frontend) serving() []string {
	return []string{
		"--audit-log", f.auditLog,
		"--transfer-dir", filepath.Join(f.dir, "transfers"),
		"--state-dir", filepath.Join(f.dir, "state"),
		"--keys-dir", filepath.Join(f.dir, "keys"),
		"--log-format", "json",
	}
}

// stdio starts the whole server for one client.
func (f *frontend) stdio(t *testing.T) *client {
	t.Helper()
	return connect(t, f.command("stdio"), newestProtocol)
}

// serve starts the daemon.
func (f *frontend) serve(t *testing.T, more ...string) *process {
	t.Helper()
	daemon := startCmd(t, f.command("serve", more...))
	daemon.waitReady(t)
	return daemon
}

// attach is one more client of the daemon.
func (f *frontend) attach(t *testing.T) *client {
	t.Helper()
	return connect(t, f.command("attach"), newestProtocol)
}
