// Package sshdtest is the device of the tests: Debian's own OpenSSH server, one
// `sshd -i` for each connection that a listener of the test's own accepts. So
// no port is guessed, and each connection is counted and can be cut.
package sshdtest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config is how a server differs from one that has an ed25519 host key and
// lets UserKey in as anybody.
type Config struct {
	HostKeys   []Key    // one is made if there are none
	Authorized []string // lines of authorized_keys beside UserKey's
	Lines      []string // of sshd_config, before all others: the first one counts
}

// Server is a running server. It ends with the test.
type Server struct {
	Host     string
	Port     uint16
	HostKeys []Key
	UserKey  Key

	config     string
	authorized string // path of the file of user keys
	log        *buffer

	mu       sync.Mutex // guards all below
	accepted int
	children map[*exec.Cmd]bool
}

// Start starts a server on a port of the loopback address.
func Start(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	if len(cfg.HostKeys) == 0 {
		cfg.HostKeys = []Key{NewKey(tb, "ed25519")}
	}
	s := &Server{HostKeys: cfg.HostKeys, UserKey: NewKey(tb, "ed25519"), log: new(buffer), children: make(map[*exec.Cmd]bool)}
	s.writeConfig(tb, cfg)
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr) //nolint:errcheck,forcetypeassert // of a TCP listener
	s.Host, s.Port = "127.0.0.1", uint16(addr.Port)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		s.Cut()
		serving.Wait()
		if tb.Failed() {
			tb.Logf("sshd on port %d:\n%s", s.Port, s.log)
		}
	})
	return s
}

func (s *Server) writeConfig(tb testing.TB, cfg Config) {
	tb.Helper()
	dir := tb.TempDir()
	// sshd reads authorized_keys as the user who logs in.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // see above
		tb.Fatal(err)
	}
	authorized := filepath.Join(dir, "authorized_keys")
	Write(tb, authorized, strings.Join(append(cfg.Authorized, s.UserKey.Public), "\n")+"\n", 0o644)
	s.authorized = authorized
	lines := append([]string(nil), cfg.Lines...)
	for _, key := range cfg.HostKeys {
		lines = append(lines, "HostKey "+key.Path)
	}
	lines = append(lines,
		"AuthorizedKeysFile "+authorized,
		"StrictModes no",
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"PermitUserRC no",
		"PrintLastLog no",
		"UseDNS no",
		"LogLevel VERBOSE",
		"SetEnv SHLVL=5", // keeps Debian's bash from reading .bashrc for each command of root
	)
	s.config = filepath.Join(dir, "sshd_config")
	Write(tb, s.config, strings.Join(lines, "\n")+"\n", 0o644)
}

// serve gives one connection to an sshd of its own.
func (s *Server) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	file, err := conn.(*net.TCPConn).File() //nolint:errcheck,forcetypeassert // of a TCP listener
	if err != nil {
		return
	}
	cmd := exec.CommandContext(context.Background(), Tool("sshd"), "-i", "-e", "-f", s.config) //nolint:gosec // the file is ours
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // sshd serves a login in a process of its own
	cmd.WaitDelay = time.Second
	s.mu.Lock()
	err = cmd.Start()
	if err == nil {
		s.accepted++
		s.children[cmd] = true
	}
	s.mu.Unlock()
	_ = file.Close()
	if err != nil {
		return
	}
	_ = conn.Close() // now it is the child's alone
	_ = cmd.Wait()
	s.mu.Lock()
	delete(s.children, cmd)
	s.mu.Unlock()
}

// Authorize lets one more key in.
func (s *Server) Authorize(tb testing.TB, key Key) {
	tb.Helper()
	Write(tb, s.authorized, Read(tb, s.authorized)+key.Public+"\n", 0o644)
}

// Accepted is how many connections there have been.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Cut kills the processes of all connections.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.children {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
}

// Log is what the server has logged.
func (s *Server) Log() string { return s.log.String() }

// Known is a line of known_hosts for the first host key.
func (s *Server) Known(pattern string) string { return pattern + " " + s.HostKeys[0].Public }

// Client returns a plain SSH client, logged in as user. It ends with the test.
func (s *Server) Client(tb testing.TB, user string) *ssh.Client {
	tb.Helper()
	nc, err := new(net.Dialer).DialContext(tb.Context(), "tcp", Address(s.Host, s.Port))
	if err != nil {
		tb.Fatal(err)
	}
	return s.ClientOver(tb, nc, user)
}

// ClientOver is Client over a connection that the test has made.
func (s *Server) ClientOver(tb testing.TB, nc net.Conn, user string) *ssh.Client {
	tb.Helper()
	return Client(tb, nc, user, s.UserKey, s.HostKeys[0])
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
