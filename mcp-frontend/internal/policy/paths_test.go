package policy

import "testing"

func TestPaths(t *testing.T) {
	open := &Policy{}
	restricted := compileOrFail(t, Config{Allow: list("ls **")})
	roots := compileOrFail(t, Config{ReadPaths: list("/var/log", "/etc/"), WritePaths: list("/etc/myapp", "/home/pi")})
	all := compileOrFail(t, Config{ReadPaths: list("/"), WritePaths: list("/")})
	nothing := compileOrFail(t, Config{ReadPaths: list(), WritePaths: list()})
	for _, c := range []struct {
		name        string
		policy      *Policy
		path        string
		read, write Decision
	}{
		{"no policy", open, "/etc/motd", Allow, Allow},
		{"allow alone", restricted, "/etc/motd", Deny, Deny},
		{"nothing", nothing, "/etc/motd", Deny, Deny},
		{"roots", roots, "/var/log/syslog", Allow, Deny},
		{"roots", roots, "/var/log", Allow, Deny},
		{"roots", roots, "/var/logs", Deny, Deny},
		{"roots", roots, "/var", Deny, Deny},
		{"roots", roots, "/etc/myapp/x", Allow, Allow},
		{"roots", roots, "/etc/myappx", Allow, Deny},
		{"roots", roots, "/home/pi/x", Deny, Allow},
		{"roots", roots, "/home/pi/.bashrc", Deny, Deny},
		{"all", all, "/x", Allow, Allow},
		{"all", all, "/", Allow, Allow},
		{"relative", all, "x", Deny, Deny},
		{"relative", all, "", Deny, Deny},
		{"not clean", all, "/a/../b", Deny, Deny},
		{"not clean", all, "/a//b", Deny, Deny},
		{"not clean", all, "/a/", Deny, Deny},
		{"NUL", all, "/a\x00", Deny, Deny},
	} {
		if got := c.policy.ReadPath(c.path); got.Decision != c.read {
			t.Errorf("%s: ReadPath(%q): got %+v, want %s", c.name, c.path, got, c.read)
		}
		if got := c.policy.WritePath(c.path); got.Decision != c.write {
			t.Errorf("%s: WritePath(%q): got %+v, want %s", c.name, c.path, got, c.write)
		}
	}
}

func TestNeverWritable(t *testing.T) {
	for _, name := range []string{
		"/root/.ssh", "/root/.ssh/authorized_keys", "/home/pi/.ssh/rc", "/Users/x/.SSH/config", "/home/pi/.bashrc", "/home/pi/.profile",
		"/home/pi/.bash_profile", "/home/pi/.zshenv", "/home/pi/.zshrc.zwc", "/home/pi/.config/fish/config.fish", "/home/pi/.config/fish",
		"/home/pi/.cshrc", "/home/pi/.login", "/home/pi/.bashrc.d/x", "/etc/profile", "/etc/profile.d/x.sh", "/etc/bash.bashrc", "/etc/zsh/zshenv",
		"/etc/environment", "/etc/dropbear/authorized_keys", "/etc/ssh/keys/pi/authorized_keys2", "/etc/ssh/sshrc", "/home/pi/.pam_environment",
		"/etc/skel/.bashrc", "/etc/csh.cshrc", "/.profile",
	} {
		for _, p := range []*Policy{{}, compileOrFail(t, Config{WritePaths: list("/")})} {
			if got := p.WritePath(name); got.Decision != Deny || got.Rule != "never writable" {
				t.Errorf("WritePath(%q): got %s %q", name, got.Decision, got.Rule)
			}
			if got := p.ReadPath(name); p.readPaths.Present && got.Decision != Allow {
				t.Errorf("ReadPath(%q): got %s %q", name, got.Decision, got.Rule)
			}
		}
	}
	for _, name := range []string{"/etc/profiles", "/home/pi/bashrc", "/home/pi/.sshx", "/srv/my.ssh/x", "/etc/environments", "/home/pi/profile", "/home/pi/.config/x"} {
		if got := (&Policy{}).WritePath(name); got.Decision != Allow {
			t.Errorf("WritePath(%q): got %s %q", name, got.Decision, got.Rule)
		}
	}
}
