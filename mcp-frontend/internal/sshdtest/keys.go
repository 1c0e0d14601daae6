package sshdtest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key is a key pair in files of ssh-keygen's.
type Key struct {
	Path   string // of the private key; .pub is beside it
	Public string // KIND BASE64, without a comment
	Signer ssh.Signer
}

// NewKey makes a key of a kind that ssh-keygen -t knows.
func NewKey(tb testing.TB, kind string) Key {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "key")
	args := []string{"-q", "-t", kind, "-N", "", "-C", "", "-f", path}
	if kind == "rsa" {
		args = append(args, "-b", "2048")
	}
	Output(tb, "ssh-keygen", args...)
	signer, err := ssh.ParsePrivateKey([]byte(Read(tb, path)))
	if err != nil {
		tb.Fatal(err)
	}
	return Key{Path: path, Public: strings.TrimSpace(Read(tb, path+".pub")), Signer: signer}
}

// Sign makes a certificate for key's public key and returns its path. The
// arguments are ssh-keygen's, such as -h and -n PRINCIPAL.
func (k Key) Sign(tb testing.TB, key Key, args ...string) string {
	tb.Helper()
	Output(tb, "ssh-keygen", append([]string{"-q", "-s", k.Path, "-I", tb.Name()}, append(args, key.Path+".pub")...)...)
	return key.Path + "-cert.pub"
}

// Client returns an SSH client over nc. It ends with the test.
func Client(tb testing.TB, nc net.Conn, user string, userKey, hostKey Key) *ssh.Client {
	tb.Helper()
	conn, chans, reqs, err := ssh.NewClientConn(nc, "device", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(userKey.Signer)},
		HostKeyCallback:   ssh.FixedHostKey(hostKey.Signer.PublicKey()),
		HostKeyAlgorithms: []string{hostKey.Signer.PublicKey().Type()},
	})
	if err != nil {
		tb.Fatal(err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	tb.Cleanup(func() {
		_ = client.Close()
		_ = client.Wait()
	})
	return client
}

// Tool finds a program, also where a user's PATH may not lead.
func Tool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return path
		}
	}
	return filepath.Join("/usr/sbin", name)
}

// Output runs a program that must succeed.
func Output(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, Tool(name), args...).CombinedOutput() //nolint:gosec // the tests name the program
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Read returns a file's text.
func Read(tb testing.TB, path string) string {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// Write writes a file with exactly that mode.
func Write(tb testing.TB, path, text string, mode os.FileMode) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		tb.Fatal(err)
	}
}

// Address is host:port.
func Address(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// Eventually waits until met, ten seconds at most: a machine may be busy.
func Eventually(tb testing.TB, what string, met func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !met(); <-tick.C {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 10 s: %s", what)
		}
	}
}
