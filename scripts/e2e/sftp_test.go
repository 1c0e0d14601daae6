package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fileResult is what the SFTP tools answer, together.
type fileResult struct {
	Content    string `json:"content"`
	Encoding   string `json:"encoding"`
	NextOffset int64  `json:"next_offset"`
	EOF        bool   `json:"eof"`
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"`
	Bytes      int64  `json:"bytes"`
	Entries    []struct {
		Name string `json:"name"`
		Type string `json:"type"`
		Size int64  `json:"size"`
	} `json:"entries"`
	NextCursor string     `json:"next_cursor"`
	Error      *toolError `json:"error"`
}

// file calls an SFTP tool for the device. more adds to the arguments.
func (c *client) file(t *testing.T, tool, device, path string, more ...args) fileResult {
	t.Helper()
	all := args{"device": device, "path": path}
	if tool == "sftp_upload" || tool == "sftp_download" {
		all = args{"device": device, "remote_path": path}
	}
	for _, m := range more {
		maps.Copy(all, m)
	}
	result := c.callTool(t, tool, all)
	r := decode[fileResult](t, result)
	if result.IsError != (r.Error != nil) {
		t.Errorf("%s: isError %v with %+v", tool, result.IsError, r.Error)
	}
	return r
}

// code is the error's; "" for none.
func (r fileResult) code() string {
	if r.Error == nil {
		return ""
	}
	return r.Error.Code
}

// ownedDir is a directory on the device that the login may write.
func ownedDir(t *testing.T, as login) string {
	t.Helper()
	dir := shortDir(t)
	output(t, "chown", string(as), dir)
	return dir
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// What an agent does with files, on every kind of login: it looks, reads,
// changes a file only if it is the one that it read, and copies files to and
// fro. All is in the audit trail.
func TestSFTP(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	for _, as := range logins {
		f.addDirect(t, "by-"+string(as), server, as, userKey)
	}
	c := f.stdio(t)
	for _, as := range logins {
		device, dir := "by-"+string(as), ownedDir(t, as)
		path := filepath.Join(dir, "app.conf")
		if r := c.file(t, "sftp_write", device, path, args{"content": "port = 1\n", "mode": "0640", "create_only": true}); r.code() != "" || r.Bytes != 9 {
			t.Fatalf("as %s: %+v", as, r.Error)
		}
		if r := c.file(t, "sftp_write", device, path, args{"content": "x", "create_only": true}); r.code() != "ALREADY_EXISTS" {
			t.Errorf("got %q", r.code())
		}
		before := c.file(t, "sftp_read", device, path)
		if before.Content != "port = 1\n" || before.SHA256 != sumOf(t, path) || before.Size != 9 || !before.EOF || before.Encoding != "utf-8" {
			t.Errorf("got %+v", before)
		}
		if r := c.file(t, "sftp_write", device, path, args{"content": "port = 2\n", "expected_sha256": before.SHA256}); r.code() != "" || r.SHA256 != sumOf(t, path) {
			t.Errorf("got %+v, %+v", r, r.Error)
		}
		if r := c.file(t, "sftp_write", device, path, args{"content": "port = 3\n", "expected_sha256": before.SHA256}); r.code() != "PRECONDITION_FAILED" {
			t.Errorf("got %q", r.code())
		}
		if read(t, path) != "port = 2\n" || perm(t, path) != 0o640 {
			t.Errorf("got %q, %o", read(t, path), perm(t, path))
		}
		down := c.file(t, "sftp_download", device, path, args{"local_path": device + "/app.conf"})
		local := filepath.Join(f.dir, "transfers", device, "app.conf")
		if down.code() != "" || down.SHA256 != sumOf(t, local) || read(t, local) != "port = 2\n" {
			t.Errorf("got %+v, %+v", down, down.Error)
		}
		if r := c.file(t, "sftp_upload", device, path+".2", args{"local_path": device + "/app.conf"}); r.code() != "" || read(t, path+".2") != "port = 2\n" {
			t.Errorf("got %+v", r.Error)
		}
		for _, escape := range []string{"../audit.jsonl", "/etc/hostname", "a/../../keys/" + device + ".key"} {
			if r := c.file(t, "sftp_upload", device, path+".3", args{"local_path": escape}); r.code() != "PATH_DENIED" {
				t.Errorf("%s: got %q", escape, r.code())
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
	}
	if mode := perm(t, filepath.Join(f.dir, "transfers")); mode != 0o700 {
		t.Errorf("the transfer directory has mode %o", mode)
	}
	for _, word := range []string{"transfer_started", "transfer_finished", "sftp_write", "app.conf", "local_path"} {
		if !strings.Contains(read(t, f.auditLog), word) {
			t.Errorf("the audit trail lacks %s", word)
		}
	}
	if done := runProgram(t, frontendProgram(), "audit", "verify", f.auditLog); done.code != 0 || strings.Contains(done.stdout, "no end") {
		t.Errorf("audit verify: %+v", done)
	}
}

// 10,000 files are listed page by page, each once and in order.
func TestSFTPManyFiles(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)
	dir := shortDir(t)
	const count = 10_000
	for i := range count {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%05d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for more := (args{}); ; {
		page := c.file(t, "sftp_list", directDevice, dir, args{"limit": 1000}, more)
		if page.Error != nil {
			t.Fatalf("%+v", page.Error)
		}
		for _, e := range page.Entries {
			names = append(names, e.Name)
		}
		if more["cursor"] = page.NextCursor; page.NextCursor == "" {
			break
		}
	}
	if len(names) != count || !slices.IsSorted(names) || len(slices.Compact(names)) != count {
		t.Errorf("got %d names", len(names))
	}
}

// The README's policy for files does what it says, links or not.
func TestReadmePaths(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	text := jsonBlock(t, "paths")
	// The roots are put where a test may write.
	dir := shortDir(t)
	for _, root := range []string{"var/log", "etc/myapp", "elsewhere"} {
		mkdir(t, dir, root)
	}
	output(t, "chown", "-R", string(logins[0]), dir)
	for _, root := range []string{"/var/log", "/etc/myapp", "/etc"} {
		text = strings.ReplaceAll(text, strconv.Quote(root), strconv.Quote(dir+root))
	}
	var e entry
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatal(err)
	}
	e["user"], e["host"], e["port"] = string(logins[0]), "127.0.0.1", server.port
	f.add(t, e, userKey, server.knownAs(directDevice))
	write(t, dir+"/var/log/syslog", "a line\n", 0o644)
	write(t, dir+"/elsewhere/secret", "secret\n", 0o644)
	if err := errors.Join(os.Symlink(dir+"/elsewhere", dir+"/etc/myapp/out"), os.Symlink(dir+"/elsewhere/secret", dir+"/var/log/link")); err != nil {
		t.Fatal(err)
	}
	c := f.stdio(t)
	for _, test := range []struct{ tool, path, code string }{
		{"sftp_read", "/var/log/syslog", ""},
		{"sftp_read", "/var/log/link", "PATH_DENIED"},
		{"sftp_read", "/elsewhere/secret", "PATH_DENIED"},
		{"sftp_list", "/var/log/../../elsewhere", "PATH_DENIED"},
		{"sftp_list", "/etc/myapp", ""},
		{"sftp_write", "/etc/myapp/conf", ""},
		{"sftp_write", "/etc/other", "PATH_DENIED"},
		{"sftp_write", "/etc/myapp/out/secret", "PATH_DENIED"},
		{"sftp_write", "/etc/myapp/.ssh/authorized_keys", "PATH_DENIED"},
		{"sftp_write", "/etc/myapp/.bashrc", "PATH_DENIED"},
	} {
		more := args{}
		if test.tool == "sftp_write" {
			more["content"] = "x"
		}
		r := c.file(t, test.tool, directDevice, dir+test.path, more)
		if r.code() != test.code || test.code == "PATH_DENIED" && r.Error.FixBy != "operator" {
			t.Errorf("%s %s: got %+v, want %q", test.tool, test.path, r.Error, test.code)
		}
	}
	if read(t, dir+"/elsewhere/secret") != "secret\n" {
		t.Error("a link led out of the roots")
	}
}

// A large upload is cut, called again, and goes on; then the file comes back.
// The daemon's memory stays within 64 MiB beyond what it has when idle.
func TestSFTPLargeTransfer(t *testing.T) {
	size := int64(96 << 20)
	if os.Getenv("GATEWAY_SOAK") != "" {
		size = 1 << 30
	}
	userKey := newKey(t)
	server := startSSHD(t, userKey)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, server, logins[0], userKey)
	daemon := f.serve(t)
	c := f.attach(t)
	c.mustWork(t, directDevice)
	idle := peakKiB(t, daemon.cmd.Process.Pid)

	dir := ownedDir(t, logins[0])
	path := filepath.Join(dir, "image")
	write(t, path, "the old image\n", 0o644)
	local := filepath.Join(f.dir, "transfers", "image")
	generate(t, local, size)

	cut := make(chan error, 1)
	go func() { cut <- cutWhenHalf(dir, size, server.cmd.Process.Pid) }()
	first := c.file(t, "sftp_upload", directDevice, path, args{"local_path": "image", "overwrite": true})
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	if first.code() != "CONNECTION_LOST" || !strings.Contains(first.Error.Hint, "bytes are kept") || read(t, path) != "the old image\n" {
		t.Fatalf("after the cut: %+v", first.Error)
	}
	began := time.Now()
	second := c.file(t, "sftp_upload", directDevice, path, args{"local_path": "image", "overwrite": true})
	if second.code() != "" || second.Bytes != size || second.SHA256 != sumOf(t, local) || second.SHA256 != sumOf(t, path) {
		t.Fatalf("got %+v, %+v", second, second.Error)
	}
	t.Logf("%d MiB: %v for the rest", size>>20, time.Since(began).Round(time.Millisecond))
	back := c.file(t, "sftp_download", directDevice, path, args{"local_path": "back"})
	if back.code() != "" || back.SHA256 != second.SHA256 || sumOf(t, filepath.Join(f.dir, "transfers", "back")) != back.SHA256 {
		t.Fatalf("got %+v, %+v", back, back.Error)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	peak := peakKiB(t, daemon.cmd.Process.Pid)
	t.Logf("the daemon's peak: %d KiB before, %d KiB after", idle, peak)
	if raceBuild := strings.Contains(binDir, "race"); peak-idle > 64<<10 && !raceBuild {
		t.Errorf("the daemon's peak has grown by %d KiB", peak-idle)
	}
}

// cutWhenHalf kills what serves the connections once the part on the device
// has half of the file.
func cutWhenHalf(dir string, size int64, sshd int) error {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		parts, err := filepath.Glob(filepath.Join(dir, ".*.part"))
		if err != nil || len(parts) == 0 {
			continue
		}
		if info, err := os.Stat(parts[0]); err != nil || info.Size() < size/2 {
			continue
		}
		for _, pid := range descendants(sshd) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		return nil
	}
	return errors.New("the part never had half of the file")
}

// descendants are the processes below pid: sshd serves a connection with two.
func descendants(pid int) []int {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // it may have ended
	var all []int
	for field := range strings.FieldsSeq(string(children)) {
		if child, err := strconv.Atoi(field); err == nil {
			all = append(append(all, child), descendants(child)...)
		}
	}
	return all
}

// peakKiB is the most memory that a process has had.
func peakKiB(t *testing.T, pid int) int {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			return int(number(t, fields[1]))
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// generate makes a file that no part of is like another.
func generate(t *testing.T, path string, size int64) {
	t.Helper()
	f := create(t, path)
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
