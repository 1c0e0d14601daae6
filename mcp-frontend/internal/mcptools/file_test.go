package mcptools

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// file is what the SFTP tools answer, together.
type file struct {
	Content, Encoding, SHA256 string
	Offset, Size, Bytes       int64
	NextOffset                int64 `json:"next_offset"`
	EOF                       bool
	Entries                   []fileEntry
	NextCursor                string `json:"next_cursor"`
}

// onFile calls an SFTP tool.
func (g *gateway) onFile(t *testing.T, tool string, a args) (file, *toolError) {
	t.Helper()
	c := g.call(t, tool, a)
	var f file
	if err := json.Unmarshal(c.StructuredContent, &f); err != nil {
		t.Fatal(err)
	}
	return f, c.run.Error
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// onDevice is a directory that every login may write.
func onDevice(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sftp") //nolint:usetesting // the login must be able to get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func sftpd(t *testing.T) *sshdtest.Server {
	t.Helper()
	return sshdtest.Start(t, sshdtest.Config{Lines: []string{"Subsystem sftp internal-sftp"}})
}

// A file makes its way to the device and back, and each step is on record
// with its path and hash, before and after.
func TestFiles(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	dir := onDevice(t)
	text := "größe\n"
	sum := sumOf(text)
	at := func(name string) args { return args{"device": "edge", "path": filepath.Join(dir, name)} }
	with := func(a, more args) args {
		maps.Copy(a, more)
		return a
	}
	write(t, g, with(at("a"), args{"content": text, "mode": "0640"}), sum)
	f, e := g.onFile(t, "sftp_read", at("a"))
	if e != nil || f.Content != text || f.Encoding != "utf-8" || f.SHA256 != sum || f.Size != int64(len(text)) || !f.EOF || f.NextOffset != f.Size {
		t.Errorf("got %+v, %+v", f, e)
	}
	// Part of a rune is not returned: the next page has it whole.
	if f, e = g.onFile(t, "sftp_read", with(at("a"), args{"max_bytes": 3})); e != nil || f.Content != "gr" || f.NextOffset != 2 || f.EOF || f.SHA256 != sum {
		t.Errorf("got %+v, %+v", f, e)
	}
	if f, e = g.onFile(t, "sftp_read", with(at("a"), args{"offset": -2, "encoding": "base64"})); e != nil || f.Content != base64.StdEncoding.EncodeToString([]byte("e\n")) || f.Encoding != "base64" {
		t.Errorf("got %+v, %+v", f, e)
	}
	write(t, g, with(at("a"), args{"content": "AP8=", "encoding": "base64", "expected_sha256": strings.ToUpper(sum)}), sumOf("\x00\xff"))
	if f, e = g.onFile(t, "sftp_read", at("a")); e != nil || f.Content != "AP8=" || f.Encoding != "base64" {
		t.Errorf("got %+v, %+v", f, e)
	}
	if err := os.Symlink("a", filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	f, e = g.onFile(t, "sftp_list", with(at(""), args{"limit": 1}))
	if e != nil || len(f.Entries) != 1 || f.NextCursor == "" || f.Entries[0].Name != "a" || f.Entries[0].Type != "file" || f.Entries[0].Mode != "0640" || f.Entries[0].Size != 2 {
		t.Errorf("got %+v, %+v", f, e)
	}
	f, e = g.onFile(t, "sftp_list", with(at(""), args{"cursor": f.NextCursor}))
	if e != nil || len(f.Entries) != 1 || f.NextCursor != "" || f.Entries[0].Name != "b" || f.Entries[0].LinkTarget != "a" {
		t.Errorf("got %+v, %+v", f, e)
	}
	g.trail.events()

	content := strings.Repeat("0123456789", 30_000)
	sshdtest.Write(t, filepath.Join(g.transfers, "in"), content, 0o600)
	for tool, a := range map[string]args{
		"sftp_upload":   {"device": "edge", "remote_path": dir + "/big", "local_path": "in"},
		"sftp_download": {"device": "edge", "remote_path": dir + "/big", "local_path": "out/side"},
	} {
		if tool == "sftp_download" {
			sshdtest.Write(t, dir+"/big", content, 0o644)
		}
		f, e = g.onFile(t, tool, a)
		if e != nil || f.Bytes != int64(len(content)) || f.SHA256 != sumOf(content) {
			t.Errorf("%s: got %+v, %+v", tool, f, e)
		}
		if err := os.RemoveAll(dir + "/big"); err != nil {
			t.Fatal(err)
		}
		events, records := g.trail.events()
		if !slices.Equal(events, []string{"transfer_started", "transfer_finished"}) {
			t.Fatalf("%s: recorded %v", tool, events)
		}
		want := audit.Record{
			Event: "transfer_finished", Session: "s1", Client: records[1].Client, Device: "edge", RunID: records[0].RunID, Tool: tool,
			Path: dir + "/big", LocalPath: fmt.Sprint(a["local_path"]), Decision: "allow", Rule: "no policy",
			Outcome: "completed", Bytes: int64(len(content)), SHA256: sumOf(content), DurationMS: records[1].DurationMS,
		}
		if diff := cmp.Diff(want, records[1]); diff != "" || want.RunID == "" {
			t.Errorf("%s: recorded (-want +got):\n%s", tool, diff)
		}
	}
	if sshdtest.Read(t, filepath.Join(g.transfers, "out/side")) != content {
		t.Error("another file was fetched")
	}
}

func write(t *testing.T, g *gateway, a args, sum string) {
	t.Helper()
	g.trail.events()
	f, e := g.onFile(t, "sftp_write", a)
	if e != nil || f.SHA256 != sum || f.Bytes == 0 {
		t.Fatalf("got %+v, %+v", f, e)
	}
	// What is to be written is on record before it is.
	if events, records := g.trail.events(); !slices.Equal(events, []string{"transfer_started", "transfer_finished"}) || records[0].SHA256 != sum || records[0].Bytes != f.Bytes {
		t.Errorf("recorded %v, %+v", events, records)
	}
}

// Every way to fail has its code, and says who can mend it.
func TestFileErrors(t *testing.T) {
	t.Parallel()
	s, bare := sftpd(t), sshdtest.Start(t, sshdtest.Config{})
	full := sshdtest.Start(t, sshdtest.Config{Lines: []string{"MaxSessions 0"}})
	broken := sshdtest.Start(t, sshdtest.Config{Lines: []string{"Subsystem sftp /nonexistent/sftp-server"}})
	noisy := sshdtest.Start(t, sshdtest.Config{Lines: []string{"Subsystem sftp /bin/echo Welcome to this device. It has a lot to say, and none of it is SFTP."}})
	dir := onDevice(t)
	sshdtest.Write(t, dir+"/file", "content", 0o644)
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	sshdtest.Write(t, dir+"/mine", "", 0o600) // nobody else's, if the tests run as root
	roots := args{"policy": args{"read_paths": []string{dir}, "write_paths": []string{dir + "/sub"}, "max_output_bytes": 100}}
	g := newGateway(t, s.Known("edge,roots,restricted")+"\n"+bare.Known("bare")+"\n"+full.Known("full")+"\n"+broken.Known("broken")+"\n"+noisy.Known("noisy")+"\n",
		entryOf(t, "edge", s, nil), entryOf(t, "roots", s, roots), entryOf(t, "bare", bare, nil), entryOf(t, "full", full, nil),
		entryOf(t, "broken", broken, nil), entryOf(t, "noisy", noisy, nil),
		entryOf(t, "restricted", s, args{"policy": args{"allow": []string{"ls *"}}}),
		entryOf(t, "unknown", s, nil))
	sshdtest.Write(t, filepath.Join(g.transfers, "local"), "content", 0o600)
	home := "/root"
	if login := sshdtest.Plain(t); login != "root" {
		home = "/home/" + login
	}
	for _, c := range []struct {
		tool  string
		args  args
		code  string
		fixBy string
		event string
	}{
		{"sftp_read", args{"device": "edg", "path": "/x"}, "DEVICE_NOT_FOUND", byModel, "transfer_failed"},
		{"sftp_read", args{"device": "unknown", "path": "/x"}, "HOST_KEY_UNKNOWN", byOperator, "transfer_failed"},
		{"sftp_read", args{"device": "edge", "path": "x"}, "INVALID_ARGUMENT", byModel, "transfer_denied"},
		{"sftp_read", args{"device": "edge", "path": dir}, "INVALID_ARGUMENT", byModel, "transfer_failed"},
		{"sftp_read", args{"device": "edge", "path": dir + "/nothing"}, "NOT_FOUND", byModel, "transfer_failed"},
		{"sftp_read", args{"device": "roots", "path": "/etc/passwd"}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_read", args{"device": "roots", "path": dir + "/file", "max_bytes": 101}, "LIMIT_EXCEEDED", byModel, "transfer_denied"},
		{"sftp_read", args{"device": "restricted", "path": dir + "/file"}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_list", args{"device": "roots", "path": dir + "/.."}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_list", args{"device": "edge", "path": dir, "cursor": "!"}, "INVALID_ARGUMENT", byModel, "transfer_denied"},
		{"sftp_list", args{"device": "bare", "path": dir}, "SFTP_UNAVAILABLE", byOperator, "transfer_failed"},
		{"sftp_list", args{"device": "broken", "path": dir}, "SFTP_UNAVAILABLE", byOperator, "transfer_failed"},
		{"sftp_list", args{"device": "noisy", "path": dir}, "SFTP_UNAVAILABLE", byOperator, "transfer_failed"},
		{"sftp_list", args{"device": "full", "path": dir}, "CHANNEL_REFUSED", byOperator, "transfer_failed"},
		{"sftp_write", args{"device": "roots", "path": dir + "/file", "content": "x"}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_write", args{"device": "edge", "path": home + "/.ssh/authorized_keys", "content": "x"}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_write", args{"device": "edge", "path": home + "/.profile", "content": "x"}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_write", args{"device": "edge", "path": dir + "/file", "content": "x", "create_only": true}, "ALREADY_EXISTS", byModel, "transfer_failed"},
		{"sftp_write", args{"device": "edge", "path": dir + "/file", "content": "x", "expected_sha256": sumOf("other")}, "PRECONDITION_FAILED", byModel, "transfer_finished"},
		{"sftp_write", args{"device": "edge", "path": dir + "/no/file", "content": "x"}, "NOT_FOUND", byModel, "transfer_failed"},
		{"sftp_write", args{"device": "edge", "path": dir + "/file", "content": "x", "encoding": "base64"}, "INVALID_ARGUMENT", byModel, "transfer_denied"},
		{"sftp_write", args{"device": "edge", "path": dir + "/file", "content": "x", "mode": "4755"}, "INVALID_ARGUMENT", byModel, "transfer_denied"},
		{"sftp_upload", args{"device": "edge", "remote_path": dir + "/new", "local_path": "../x"}, "PATH_DENIED", byModel, "transfer_denied"},
		{"sftp_upload", args{"device": "edge", "remote_path": dir + "/new", "local_path": "nothing"}, "NOT_FOUND", byOperator, "transfer_failed"},
		{"sftp_upload", args{"device": "edge", "remote_path": dir + "/file", "local_path": "local"}, "ALREADY_EXISTS", byModel, "transfer_failed"},
		{"sftp_upload", args{"device": "roots", "remote_path": dir + "/new", "local_path": "local"}, "PATH_DENIED", byOperator, "transfer_denied"},
		{"sftp_download", args{"device": "edge", "remote_path": dir + "/file", "local_path": "local"}, "ALREADY_EXISTS", byModel, "transfer_failed"},
		{"sftp_download", args{"device": "edge", "remote_path": dir + "/nothing", "local_path": "x"}, "NOT_FOUND", byModel, "transfer_failed"},
		{"sftp_download", args{"device": "roots", "remote_path": "/etc/passwd", "local_path": "x"}, "PATH_DENIED", byOperator, "transfer_denied"},
	} {
		_, e := g.onFile(t, c.tool, c.args)
		events, records := g.trail.events()
		if e == nil || e.Code != c.code || e.FixBy != c.fixBy || len(events) == 0 || events[len(events)-1] != c.event {
			t.Errorf("%s %v: got %+v, recorded %v; want %s, %s, %s", c.tool, c.args, e, events, c.code, c.fixBy, c.event)
			continue
		}
		if last := records[len(records)-1]; last.Tool != c.tool || last.Path == "" || last.Reason == "" {
			t.Errorf("%s %v: recorded %+v", c.tool, c.args, last)
		}
	}
	if got := sshdtest.Read(t, dir+"/file"); got != "content" {
		t.Errorf("the file has become %q", got)
	}
}

// What cannot be recorded is not done.
func TestFilesWithoutAudit(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	g := newGateway(t, s.Known("edge")+"\n", entryOf(t, "edge", s, nil))
	dir := onDevice(t)
	sshdtest.Write(t, dir+"/file", "old", 0o666)
	sshdtest.Write(t, filepath.Join(g.transfers, "local"), "content", 0o600)
	g.trail.fails = func(audit.Record) bool { return true }
	for tool, a := range map[string]args{
		"sftp_list":     {"device": "edge", "path": dir},
		"sftp_read":     {"device": "edge", "path": dir + "/file"},
		"sftp_write":    {"device": "edge", "path": dir + "/file", "content": "new"},
		"sftp_upload":   {"device": "edge", "remote_path": dir + "/file", "local_path": "local", "overwrite": true},
		"sftp_download": {"device": "edge", "remote_path": dir + "/file", "local_path": "x"},
	} {
		if _, e := g.onFile(t, tool, a); e == nil || e.Code != "AUDIT_UNAVAILABLE" {
			t.Errorf("%s: got %+v", tool, e)
		}
	}
	g.trail.fails = nil
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || sshdtest.Read(t, dir+"/file") != "old" {
		t.Errorf("got %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(g.transfers, "x")); err == nil {
		t.Error("a file was fetched")
	}
}
