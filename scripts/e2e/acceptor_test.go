package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// acceptor is a running tunnel-acceptor.
type acceptor struct {
	*process
	dir            string // its working directory
	authorizedKeys string
	runDir         string
	auditLog       string
	hostKey        key
	port           int
	listen         string // what --listen said
	extra          []string
}

// grant is a line of the acceptor's authorized_keys.
func grant(device string, k key, ports ...int) string {
	options := "restrict,port-forwarding"
	for _, port := range ports {
		options += fmt.Sprintf(`,permitlisten="%d"`, port)
	}
	return options + " " + k.public + " " + device
}

// newAcceptor prepares an acceptor without starting it.
func newAcceptor(t *testing.T, grants ...string) *acceptor {
	t.Helper()
	dir := t.TempDir()
	a := &acceptor{
		dir:            dir,
		authorizedKeys: filepath.Join(dir, "authorized_keys"),
		runDir:         filepath.Join(shortDir(t), "run"),
		auditLog:       filepath.Join(dir, "audit.jsonl"),
		hostKey:        newKey(t),
		listen:         "127.0.0.1:0",
	}
	write(t, a.authorizedKeys, lines(grants...), 0o600)
	return a
}

func startAcceptor(t *testing.T, grants ...string) *acceptor {
	t.Helper()
	a := newAcceptor(t, grants...)
	a.start(t)
	return a
}

// start starts the program and returns once it is ready.
func (a *acceptor) start(t *testing.T) {
	t.Helper()
	a.process = startCmd(t, a.command())
	a.port = portOf(t, loopbackAddress(t, a.waitReady(t)))
}

func (a *acceptor) command() *exec.Cmd {
	cmd := exec.Command(acceptorProgram(), append([]string{
		"serve",
		"--listen", a.listen,
		"--host-key", a.hostKey.path,
		"--authorized-keys", a.authorizedKeys,
		"--run-dir", a.runDir,
		"--audit-log", a.auditLog,
		"--drain-timeout", "4s", // a frontend's warm connection uses all of it
		"--log-format", "json",
	}, a.extra...)...)
	cmd.Dir = a.dir
	return cmd
}

// reload replaces the authorized keys and tells the acceptor.
func (a *acceptor) reload(t *testing.T, grants ...string) {
	t.Helper()
	write(t, a.authorizedKeys, lines(grants...), 0o600)
	a.signal(t, syscall.SIGHUP)
}

// address is the one that faces the network.
func (a *acceptor) address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(a.port))
}

// known is the line of a device's known_hosts that trusts this acceptor.
func (a *acceptor) known() string {
	return fmt.Sprintf("[127.0.0.1]:%d %s", a.port, a.hostKey.public)
}

// listed is a tunnel as `tunnel-acceptor list --json` tells it.
type listed struct {
	Device string `json:"device"`
	Port   int    `json:"port"`
	State  string `json:"state"`
}

func (a *acceptor) list(t *testing.T) []listed {
	t.Helper()
	out := output(t, acceptorProgram(), "list", "--json", "--run-dir", a.runDir)
	var list struct {
		Tunnels []listed `json:"tunnels"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("tunnel-acceptor list --json: %v\n%s", err, out)
	}
	return list.Tunnels
}

// up reports, as an error when not, whether the device's tunnel is listed as
// up. One that is granted but not connected may be listed too, as down.
func (a *acceptor) up(t *testing.T, device string, port int) error {
	t.Helper()
	list := a.list(t)
	if slices.Contains(list, listed{Device: device, Port: port, State: "up"}) {
		return nil
	}
	return fmt.Errorf("%s:%d is not up in %v", device, port, list)
}

// gone is the opposite of up.
func (a *acceptor) gone(t *testing.T, device string, port int) error {
	t.Helper()
	for _, tunnel := range a.list(t) {
		if tunnel.Device == device && tunnel.Port == port && tunnel.State != "down" {
			return fmt.Errorf("still listed: %v", tunnel)
		}
	}
	return nil
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	port, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return port
}
