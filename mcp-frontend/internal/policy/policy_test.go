package policy

import (
	"strings"
	"testing"
	"time"
)

func TestNewNamesEveryBadPattern(t *testing.T) {
	bad := []string{"", " ", "ls **x", "***", "cat /var/**", "ls 'a b'", `ls "x"`, `ls \x`, "ls | cat", "ls && id", "ls > x", "-x", "cat ../x", "cat /a/../b", "ls \x1b", "ls \u202e"}
	_, err := New(Config{Allow: list(bad...), ReadPaths: list("relative", "/a/../b"), WritePaths: list("/ok", "")})
	if err == nil {
		t.Fatal("no error")
	}
	if got, want := strings.Count(err.Error(), "bad pattern"), len(bad); got != want {
		t.Errorf("got %d bad patterns, want %d:\n%v", got, want, err)
	}
	if got, want := strings.Count(err.Error(), "bad path"), 3; got != want {
		t.Errorf("got %d bad paths, want %d:\n%v", got, want, err)
	}
	if strings.ContainsAny(err.Error(), "\x1b\u202e") {
		t.Errorf("the error holds control characters: %q", err)
	}
	good := list("ls", "* x", "** --force* **", "find ** -exec rm {} ;", "systemctl status *", "cat ~/x", "git log *..x", "cat *...*")
	if _, err := New(Config{Allow: good, Deny: list("cat ../x"), Approve: good, ReadOnly: good}); err != nil {
		t.Error(err)
	}
}

func TestNilIsNoPolicy(t *testing.T) {
	var none *Policy
	for _, got := range []Verdict{none.Command("ls"), none.ReadOnlyCommand("ls"), none.Cwd("/"), none.ReadPath("/x"), none.WritePath("/x")} {
		if got.Decision != Allow {
			t.Errorf("got %+v", got)
		}
	}
	if len(none.Words()) == 0 {
		t.Error("no words")
	}
}

func TestColumnIsOfTheCharacterToBlame(t *testing.T) {
	for command, want := range map[string]int{
		"echo $x":                   6,
		"echo 'ü' $x":               10,
		"echo \"é$x\"":              8,
		"ls; ls > x":                8,
		"ls | bash":                 6,
		"ls a | timeout 5 sh -c id": 21,
		"echo 'a\nb' `id`":          12,
		"ls a；b":                    5,
		"ls &":                      4,
		"x=1 ls":                    1,
		"ls # x":                    4,
	} {
		if got := (&Policy{}).Command(command); got.Column != want {
			t.Errorf("%s: got column %d, want %d (%s)", command, got.Column, want, got.Reason)
		}
	}
}

func TestCanonical(t *testing.T) {
	for command, want := range map[string]string{
		"ls":                             "'ls'",
		"ls -l  a\\ b \"c d\"":           "'ls' '-l' 'a b' 'c d'",
		"echo it\\'s":                    `'echo' 'it'\''s'`,
		"ls ~/x/*.log ~root ~":           "'ls' ~/'x/'*'.log' ~root ~",
		"ls ~/ a**b ?[a-c]*'*'":          "'ls' ~/ 'a'*'b' ?[a-c]*'*'",
		"a|b&&c||d;e":                    "'a' | 'b' && 'c' || 'd'; 'e'",
		"a 2>/dev/null >/dev/null 2>&1":  "'a' 2>/dev/null >/dev/null 2>&1",
		"a 1>&2 </dev/null 1>/dev/null;": "'a' >&2 </dev/null >/dev/null",
		"''ls \"\" ''":                   "'ls' '' ''",
		"ls [x a] '[a]'*":                "'ls' '[x' 'a]' '[a]'*",
		"echo =x {} '{a,b}' %1":          "'echo' '=x' '{}' '{a,b}' '%1'",
	} {
		if got := (&Policy{}).Command(command); got.Canonical != want {
			t.Errorf("%s: got %s, want %s (%s)", command, got.Canonical, want, got.Reason)
		}
	}
}

func TestCwd(t *testing.T) {
	restricted := compileOrFail(t, Config{Allow: list("cd /srv/*", "ls **")})
	denied := compileOrFail(t, Config{Deny: list("cd /etc **")})
	approved := compileOrFail(t, Config{Approve: list("reboot")})
	for _, c := range []struct {
		policy *Policy
		dir    string
		want   Decision
		rule   string
	}{
		{nil, "/srv/x", Allow, "no policy"},
		{nil, "/", Allow, "no policy"},
		{nil, "srv", Deny, "cwd"},
		{nil, "", Deny, "cwd"},
		{nil, "~", Deny, "cwd"},
		{nil, "-", Deny, "cwd"},
		{nil, "/a\nb", Deny, "cwd"},
		{nil, "/a\x00", Deny, "cwd"},
		{nil, "/a\xff", Deny, "cwd"},
		{nil, "/" + strings.Repeat("a", 5000), Deny, "cwd"},
		{restricted, "/srv/x", Allow, `allow: "cd /srv/*"`},
		{restricted, "/srv/x/", Allow, `allow: "cd /srv/*"`},
		{restricted, "/srv/x/y", Deny, "allow"},
		{restricted, "/srv/..", Deny, "allow"},
		{restricted, "/srv/../etc/", Deny, "allow"},
		{restricted, "/srv", Deny, "allow"},
		{denied, "/etc", Deny, `deny: "cd /etc **"`},
		{denied, "/srv", Allow, "not denied"},
		{approved, "/srv", Allow, "no policy"},
	} {
		got := c.policy.Cwd(c.dir)
		if got.Decision != c.want || got.Rule != c.rule {
			t.Errorf("Cwd(%.50q): got %s %q, want %s %q", c.dir, got.Decision, got.Rule, c.want, c.rule)
		}
	}
}

func TestQuoteFor(t *testing.T) {
	if got, err := QuoteFor("posix", "'ls' *"); err != nil || got != "'ls' *" {
		t.Errorf("posix: got %q, %v", got, err)
	}
	for _, shell := range []string{"powershell", "cmd", "", "nu"} {
		if got, err := QuoteFor(shell, "'ls'"); err == nil || got != "" {
			t.Errorf("%s: got %q, %v, want an error", shell, got, err)
		}
	}
}

func TestWordsNameTheBoundaries(t *testing.T) {
	for name, p := range compileCorpusPolicies(t) {
		words := strings.Join(p.Words(), "\n")
		for _, want := range []string{"Only allow, approve and read_only are boundaries", "guard rails", "SFTP reads: ", "SFTP writes: "} {
			if !strings.Contains(words, want) {
				t.Errorf("policy %s: %q is missing in:\n%s", name, want, words)
			}
		}
	}
}

// TestNoTextTakesLong judges texts that are made to be slow.
func TestNoTextTakesLong(t *testing.T) {
	many := make([]string, 0, 200)
	for range 5 {
		many = append(many, "** "+strings.Repeat("x* ", 20)+"**", "a* *b*c*d*e*f **", strings.Repeat("** a ", 30), "*/*/*/*x")
	}
	patterns := compileOrFail(t, Config{Allow: list(append(many, "**")...), Deny: list(many...), Approve: list(many...), ReadOnly: list(many...), Sudo: true})
	const size = maxText
	repeat := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for _, text := range []string{
		repeat("a"), repeat("a "), "a " + repeat("'b'c"), repeat("a|"), repeat("("), repeat("$("), repeat("`"), repeat("\\"), repeat("\\a"), repeat("{"),
		repeat("a;"), repeat("if "), repeat("<<x "), repeat("[a"), "a " + repeat("[a-"), "a " + repeat("~"), "a " + strings.Repeat("*a", 500),
		"a " + strings.Repeat(strings.Repeat("*a", 500)+" ", 60), "strace " + repeat("env strace ")[:20000], "strace " + strings.Repeat("env ", 2000),
		"strace " + strings.Repeat("xargs ", 2000), strings.Repeat("env ", 2000), "strace " + strings.Repeat("find -exec ", 900),
		"a '" + repeat("é")[:size-10] + "'", "a " + repeat("a/")[:size-2], "sed " + repeat("s/")[:size-4], "awk " + repeat("a|")[:100] + repeat("'|'")[:size-1000],
		"sed '" + repeat("s/a/")[:size-10] + "'", "sed '" + repeat("/a")[:size-10] + "'", "awk '" + repeat("print |")[:size-10] + "'",
	} {
		start := time.Now()
		checkVerdict(t, text, patterns.Command(text))
		checkVerdict(t, text, patterns.ReadOnlyCommand(text))
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%.40q… took %s", text, took)
		}
	}
}

// Who is asked stands in the words, and nobody else can be named.
func TestApproveBy(t *testing.T) {
	t.Parallel()
	for by, want := range map[string]string{
		"": "else an operator", AnyHuman: "else an operator", Operator: "never the MCP client's user", Client: "a client that cannot ask is refused",
	} {
		p := compileOrFail(t, Config{Approve: list("reboot"), ApproveBy: by})
		if words := strings.Join(p.Words(), "\n"); !strings.Contains(words, want) {
			t.Errorf("approve_by %q: the words lack %q:\n%s", by, want, words)
		}
		if by != "" && p.ApproveBy() != by {
			t.Errorf("ApproveBy: got %q, want %q", p.ApproveBy(), by)
		}
	}
	if got := (*Policy)(nil).ApproveBy(); got != AnyHuman {
		t.Errorf("without a policy: got %q", got)
	}
	if _, err := New(Config{ApproveBy: "me"}); err == nil || !strings.Contains(err.Error(), `approve_by: "me"`) {
		t.Errorf("approve_by me: got %v", err)
	}
}
