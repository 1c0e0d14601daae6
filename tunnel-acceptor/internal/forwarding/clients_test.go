package forwarding

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Dropbear, on routers and small boards, opens a tunnel.
func TestDropbear(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "openssh"), key.pem)
	convert, output := a.command("dropbearconvert", "openssh", "dropbear", filepath.Join(dir, "openssh"), filepath.Join(dir, "dropbear"))
	if code := exitCode(t, convert); code != 0 {
		t.Fatalf("dropbearconvert: %s", output)
	}
	host, port, _ := net.SplitHostPort(a.addr)
	cmd, _ := a.command("dbclient", "-y", "-y", "-N", "-T", "-i", filepath.Join(dir, "dropbear"), "-p", port,
		"-R", "22222:"+echoService(t), "agent@"+host)
	cmd.Env = []string{"HOME=" + dir}
	startCommand(t, cmd)
	a.checkEcho("edge", 22222)
	if got := a.registry.List().Tunnels[0].ClientVersion; !strings.Contains(got, "dropbear") {
		t.Errorf("the client is %q", got)
	}
}

// PuTTY's plink, on Windows machines, opens a tunnel.
func TestPlink(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), nil)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "openssh"), key.pem)
	convert, output := a.command("puttygen", filepath.Join(dir, "openssh"), "-O", "private", "-o", filepath.Join(dir, "key.ppk"))
	if code := exitCode(t, convert); code != 0 {
		t.Fatalf("puttygen: %s", output)
	}
	host, port, _ := net.SplitHostPort(a.addr)
	cmd, output := a.command("plink", "-batch", "-N", "-T", "-i", filepath.Join(dir, "key.ppk"), "-P", port,
		"-hostkey", ssh.FingerprintSHA256(a.hostKey.PublicKey()), "-R", "22222:"+echoService(t), "agent@"+host)
	cmd.Env = []string{"HOME=" + dir}
	startCommand(t, cmd)
	a.waitFor("plink", func() bool { return a.state("edge", 22222) != 0 || cmd.ProcessState != nil })
	a.checkEcho("edge", 22222)
	_ = output
}

// ssh-audit finds nothing worse than a warning.
func TestSSHAudit(t *testing.T) {
	t.Parallel()
	a := start(t, "", nil)
	host, port, _ := net.SplitHostPort(a.addr)
	cmd, output := a.command("ssh-audit", "--no-colors", "-p", port, host)
	_ = exitCode(t, cmd)
	if !strings.Contains(output.String(), "mlkem768x25519-sha256") {
		t.Fatalf("it saw no key exchange:\n%s", output)
	}
	for _, finding := range regexp.MustCompile(`(?m)^.*\[fail\].*$`).FindAllString(output.String(), -1) {
		t.Errorf("ssh-audit: %s", finding)
	}
	t.Log(output)
}
