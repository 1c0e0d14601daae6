package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// A link leads nowhere that is not allowed, and a path is judged before
// anything is opened.
func TestRoots(t *testing.T) {
	t.Parallel()
	login := sshdtest.Plain(t)
	client := sftpd(t).Client(t, login)
	dir, outside := directory(t, login), directory(t, login)
	put(t, login, outside+"/secret", "secret", 0o600)
	put(t, login, dir+"/file", "mine", 0o600)
	for name, to := range map[string]string{"out": outside, "file-out": outside + "/secret", "dangling": outside + "/new", "in": dir + "/file", "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	allowed := below(dir, "")
	for path, kind := range map[string]Kind{
		dir + "/out/secret": Denied, dir + "/file-out": Denied, dir + "/../" + filepath.Base(outside) + "/secret": Denied,
		outside + "/secret": Denied, outside + "/nothing": Denied, dir + "/out/nothing": Denied, dir + "/nothing": NotFound, dir + "/loop": NotFound,
	} {
		allowed.Path = path
		allowed.Permit = func(resolved string) error {
			t.Errorf("%s: asked for %s", path, resolved)
			return nil
		}
		_, err := read(t, client, allowed, 0, 10)
		mustFail(t, err, kind)
		_, err = list(t, client, allowed, "", 10)
		mustFail(t, err, kind)
	}
	for _, path := range []string{dir + "/out/new", dir + "/dangling", dir + "/file-out", outside + "/new", dir + "/../new"} {
		allowed.Path = path
		_, err := write(t, client, allowed, Write{Content: []byte("x")})
		mustFail(t, err, Denied)
	}
	allowed.Path, allowed.Permit = dir+"/in", nil
	if part, err := read(t, client, allowed, 0, 10); err != nil || string(part.Content) != "mine" {
		t.Errorf("got %+v, %v", part, err)
	}
	allowed.Permit = func(string) error { return errors.New("no record") }
	_, err := write(t, client, allowed, Write{Content: []byte("x")})
	mustFail(t, err, NotPermitted)
	if got := names(t, outside); len(got) != 1 || sshdtest.Read(t, outside+"/secret") != "secret" || sshdtest.Read(t, dir+"/file") != "mine" {
		t.Errorf("written: %v", got)
	}
	_, err = read(t, client, anything("relative"), 0, 10)
	mustFail(t, err, Invalid)
}

// A device without an SFTP server says so, one with dropbear works.
func TestServers(t *testing.T) {
	t.Parallel()
	login := sshdtest.Plain(t)
	for name, lines := range map[string][]string{
		"none":   nil,
		"broken": {"Subsystem sftp /nonexistent/sftp-server"},
		"chatty": {"Subsystem sftp /bin/echo This device greets everybody at length, also those who speak SFTP."},
	} {
		client := sshdtest.Start(t, sshdtest.Config{Lines: lines}).Client(t, login)
		closed := make(chan struct{})
		_, err := Open(t.Context(), client, func() { close(closed) })
		mustFail(t, err, Unavailable)
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the channel was not given back", name)
		}
	}
	if sshdtest.Plain(t) != "e2e-user" {
		return // dropbear takes a user's own authorized_keys only, and we may not make the user
	}
	login = sshdtest.LoginWith(t, "dash")
	client := sshdtest.Dropbear(t, login)
	if client == nil {
		return
	}
	dir := directory(t, login)
	if _, err := os.Stat("/usr/lib/sftp-server"); err != nil {
		_, err := Open(t.Context(), client, func() {})
		mustFail(t, err, Unavailable)
		return
	}
	if _, err := write(t, client, anything(dir+"/file"), Write{Content: []byte("content")}); err != nil {
		t.Error(err)
	}
	if part, err := read(t, client, anything(dir+"/file"), 0, 100); err != nil || string(part.Content) != "content" {
		t.Errorf("got %+v, %v", part, err)
	}
}
