package mcptools

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

func (g *gateway) info(t *testing.T, a args) infoResult {
	t.Helper()
	var r infoResult
	if err := json.Unmarshal(g.call(t, "ssh_device_info", a).StructuredContent, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// isThisMachine checks the facts that a test can know for itself.
func (res infoResult) isThisMachine(t *testing.T, login string) {
	t.Helper()
	if res.Error != nil {
		t.Fatalf("got %+v", res.Error)
	}
	tell := func(args ...string) string { return strings.TrimSpace(sshdtest.Output(t, args[0], args[1:]...)) }
	uid, err := strconv.ParseInt(tell("id", "-u", login), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case res.OS != tell("uname", "-s"), res.Kernel != tell("uname", "-r"), res.Arch != tell("uname", "-m"), res.Hostname != tell("uname", "-n"),
		res.User == nil || res.User.Name != login || res.User.UID != uid,
		runtime.GOOS == "linux" && res.Init != tell("cat", "/proc/1/comm"),
		res.Disk == nil || res.Disk.TotalBytes < res.Disk.AvailableBytes || res.Disk.TotalBytes < 1<<20,
		res.Memory == nil || res.Memory.AvailableBytes == nil || res.Memory.TotalBytes < *res.Memory.AvailableBytes,
		res.UptimeS == nil || *res.UptimeS <= 0, res.OSRelease == "", res.ProbedAt == nil:
		t.Errorf("got %+v", res)
	}
}

// Every login that runs POSIX text tells what it is, in one command.
func TestDeviceInfo(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, login := range sshdtest.Logins(t) {
		g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, args{"user": login, "policy": args{"allow": []string{"uptime"}}}))
		r := g.info(t, args{"device": "edge"})
		r.isThisMachine(t, login)
		if r.Connect != "new" || r.Cached || r.State != "up" || r.LoginShell != "posix" || r.Mode != "direct" ||
			r.HostKey == nil || r.HostKey.Fingerprint != ssh.FingerprintSHA256(s.HostKeys[0].Signer.PublicKey()) || r.HostKey.Type != "ssh-ed25519" ||
			!strings.Contains(strings.Join(r.Policy, " "), "uptime") {
			t.Errorf("got %+v", r)
		}
		events, records := g.trail.events()
		if !slices.Equal(events, []string{"tool_called", "shell_probed", "probe_started", "probe_finished"}) ||
			records[2].Command != factsProbe || records[3].Outcome != "exited" || *records[3].ExitCode != 0 || records[3].SHA256 == "" {
			t.Errorf("recorded %v", events)
		}

		again := g.info(t, args{"device": "edge"})
		if !again.Cached || !again.ProbedAt.Equal(*r.ProbedAt) || again.Connect != "" || again.Kernel != r.Kernel || *again.HostKey != *r.HostKey || s.Accepted() == 0 {
			t.Errorf("the second answer: %+v", again)
		}
		if events, _ := g.trail.events(); !slices.Equal(events, []string{"tool_called"}) {
			t.Errorf("the cached answer asked the device: %v", events)
		}
		fresh := g.info(t, args{"device": "edge", "refresh": true})
		if fresh.Cached || fresh.Connect != "reused" || fresh.ProbedAt.Before(*r.ProbedAt) {
			t.Errorf("refresh: %+v", fresh)
		}
		if events, _ := g.trail.events(); !slices.Equal(events, []string{"tool_called", "probe_started", "probe_finished"}) {
			t.Errorf("refresh recorded %v", events)
		}
	}
}

// The probe is read alike by the shells that people and small devices have.
func TestDeviceInfoShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "dash", "busybox", "zsh", "fish", "tcsh"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			login := sshdtest.LoginWith(t, shell)
			if login == "" {
				return
			}
			s := sshdtest.Start(t, sshdtest.Config{})
			g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, args{"user": login}))
			g.info(t, args{"device": "edge"}).isThisMachine(t, login)
		})
	}
}

// A device that has nothing but busybox tells as much as any other; one that
// lacks programs leaves out what they would have told.
func TestDeviceInfoBusybox(t *testing.T) {
	t.Parallel()
	login, all := sshdtest.LoginWith(t, "busybox"), sshdtest.Applets(t)
	if login == "" || all == "" {
		return
	}
	whole := sshdtest.Start(t, sshdtest.Config{Lines: []string{"SetEnv PATH=" + all + " SHLVL=5"}})
	g := newGateway(t, whole.Known("edge")+"\n", entryOf(t, "edge", whole, args{"user": login}))
	which := g.call(t, "ssh_run", args{"device": "edge", "command": "which uname df id"}).run
	if strings.Count(which.Stdout, all) != 3 {
		t.Fatalf("the device has other programs than busybox's: %q", which.Stdout)
	}
	g.info(t, args{"device": "edge"}).isThisMachine(t, login)
}

// A device in a root of its own, with few programs and no /proc, as a system
// that is no Linux looks to the probe; sysctl answers as FreeBSD's.
func TestDeviceInfoElsewhere(t *testing.T) {
	t.Parallel()
	login, busybox := sshdtest.LoginWith(t, "dash"), sshdtest.Tool("busybox")
	if login == "" {
		return
	}
	if out, err := exec.Command("ldd", busybox).CombinedOutput(); err == nil {
		t.Skipf("busybox is not static here, and cannot run alone: %s", out)
	}
	root, err := os.MkdirTemp("/opt", "e2e-root-") //nolint:usetesting // sshd wants every folder above to be root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	dash := sshdtest.Tool("dash")
	needed := append(regexp.MustCompile(`/\S+`).FindAllString(sshdtest.Output(t, "ldd", dash), -1), dash)
	for _, file := range needed {
		sshdtest.Output(t, "mkdir", "-p", filepath.Join(root, filepath.Dir(file)))
		sshdtest.Output(t, "cp", "-L", file, filepath.Join(root, file))
	}
	sshdtest.Output(t, "mkdir", "-p", filepath.Join(root, "home", login), filepath.Join(root, "bin"), filepath.Join(root, "sbin"))
	sshdtest.Output(t, "chmod", "-R", "a+rX", root)
	sshdtest.Output(t, "cp", busybox, filepath.Join(root, "bin", "busybox"))
	for _, program := range []string{"sh", "uname", "date"} {
		sshdtest.Output(t, "ln", "-sf", "/bin/busybox", filepath.Join(root, "bin", program))
	}
	sshdtest.Write(t, filepath.Join(root, "sbin", "sysctl"), `#!/bin/sh
case $2 in
hw.physmem) echo 8589934592 ;;
kern.boottime) echo '{ sec = 1700000000, usec = 5 } Tue Nov 14 22:13:20 2023' ;;
*) echo "sysctl: unknown oid '$2'" >&2; exit 1 ;;
esac
`, 0o755)
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"ChrootDirectory " + root}})
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, args{"user": login}))
	r := g.info(t, args{"device": "edge"})
	if r.Error != nil || r.OS == "" || r.Memory == nil || r.Memory.TotalBytes != 8<<30 || r.Memory.AvailableBytes != nil ||
		r.UptimeS == nil || *r.UptimeS < 90_000_000 || r.Disk != nil || r.User != nil || r.Init != "" || r.OSRelease != "" {
		t.Errorf("got %+v, error %+v, uptime %v", r, r.Error, r.UptimeS)
	}
}

func TestDeviceInfoDropbear(t *testing.T) {
	t.Parallel()
	s := sshdtest.StartSmall(t)
	if s == nil {
		return
	}
	g := newGateway(t, "edge "+s.HostKey.Public+"\n",
		args{"name": "edge", "mode": "direct", "user": s.Login, "host": s.Host, "port": s.Port, "id_file": s.UserKey.Path})
	g.info(t, args{"device": "edge"}).isThisMachine(t, s.Login)
	d := g.diagnosed(t, "edge")
	if d.FirstFailure != "" && d.FirstFailure != "sftp" { // it runs sftp-server, where that is installed
		t.Errorf("got %+v", d)
	}
}

// What a device is asked for and does not tell is an error beside what is known
// without it.
func TestDeviceInfoErrors(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	closed := sshdtest.Start(t, sshdtest.Config{Lines: []string{"ForceCommand echo This account is not available."}})
	g := newGateway(t, s.Known("edge,windows,off")+"\n"+closed.Known("closed,declared")+"\n",
		entryOf(t, "edge", s, nil),
		entryOf(t, "windows", s, args{"login_shell": "powershell"}),
		entryOf(t, "off", s, args{"port": 1, "retry": args{"max_attempts": 1}}),
		entryOf(t, "stranger", s, nil),
		entryOf(t, "closed", closed, nil),
		entryOf(t, "declared", closed, args{"login_shell": "posix"}),
	)
	for device, code := range map[string]string{
		"nobody": "DEVICE_NOT_FOUND", "windows": "UNSUPPORTED_SHELL", "off": "DIAL_FAILED", "stranger": "HOST_KEY_UNKNOWN",
		"closed": "UNSUPPORTED_SHELL", "declared": "UNSUPPORTED_SHELL",
	} {
		r := g.info(t, args{"device": device})
		if r.Error == nil || r.Error.Code != code || r.ProbedAt != nil || r.OS != "" {
			t.Errorf("%s: got %+v, want %s", device, r.Error, code)
		}
		if device != "nobody" && (len(r.Policy) == 0 || r.State == "" || r.Device != device) {
			t.Errorf("%s: got %+v", device, r)
		}
		if code == "UNSUPPORTED_SHELL" && (r.HostKey == nil || r.State != "up" || r.LoginShell == "") {
			t.Errorf("%s: got %+v", device, r)
		}
	}
	if r := g.info(t, args{"device": "off"}); r.State != "backing_off" || r.RetryAfterS == 0 || r.Failures != 1 || r.LastError == "" {
		t.Errorf("got %+v", r)
	}

	g.trail.fails = func(r audit.Record) bool { return r.Event == "probe_started" }
	if r := g.info(t, args{"device": "edge"}); r.Error == nil || r.Error.Code != "AUDIT_UNAVAILABLE" || r.OS != "" {
		t.Errorf("without an audit trail: %+v", r)
	}
	g.trail.fails = nil
	g.info(t, args{"device": "edge"}).isThisMachine(t, sshdtest.Plain(t))
}
