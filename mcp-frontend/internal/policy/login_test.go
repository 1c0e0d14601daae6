package policy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// awkward is commands whose quoting is hard on a login shell.
var awkward = []string{
	`echo 'a'"'"'b' "it's"`, `echo '!!' 'a!b' '\!' '!'`, `echo '\' '\\' 'a\nb' '\'"'"`, "echo 'a\nb' '\n' 'a\\\nb'", `echo '$HOME' '$(id)' '` + "`id`" + `' '${x}'`,
	`echo '{a,b}' '{}' '[x]' '*' '~' '#x' '%self' '=ls' '^x'`, `echo 日本語 'ünï' '“”'`, `echo '' "" ''`, `echo "a	b"; echo '  ' | cat && ls || rm x`,
	`echo '\'\''' "\\'" '"' "\"!\""`, `echo '(id)' ';id' '&id' '|id' '<x' '>x'`, `printf '%s\n' '!1' '!$' '!-1:0' '!?x?'`,
	"echo '" + strings.Repeat("x", 60000) + "'", "echo" + strings.Repeat(" 'a b!'", 1500),
	"echo '" + strings.Repeat("x!'\\''\\", 500) + "'",
}

// TestLoginShells runs commands as a device with another login shell does. It
// needs fish, tcsh, zsh, mksh and ksh93u+m.
func TestLoginShells(t *testing.T) {
	if os.Getenv("GATEWAY_SHELLS") == "" {
		t.Skip("set GATEWAY_SHELLS=1 to run this with fish, tcsh, zsh, mksh and ksh93")
	}
	l, policies := newLab(t), compileCorpusPolicies(t)
	names := map[string]bool{}
	for _, shell := range posixShells(t) {
		for name := range shell.builtins {
			names[name] = true
		}
	}
	for _, name := range append(builtinsOf(t, "zsh", "-fc", "print -l ${(k)builtins}"), builtinsOf(t, "ksh93", "-c", "builtin")...) {
		names[name] = true
	}
	names["rename"], names["cat"], names["mknod"], names["realpath"] = true, true, true, true // mksh
	var work []*script
	for _, command := range awkward {
		s := readable(t, &Policy{}, command)
		if s == nil {
			t.Fatalf("%q is not allowed", command)
		}
		work = append(work, s)
	}
	for _, r := range readCorpus(t) {
		if s := readable(t, policies[r.policy], r.command); s != nil {
			work = append(work, s)
		}
	}
	for _, shell := range []struct{ login, program, debian, flags string }{
		{"posix", "zsh", "zsh", "-c"},
		{"posix", "mksh", "mksh", "-c"},
		{"posix", "ksh93", "ksh93u+m", "-c"},
		{"fish", "fish", "fish", "-c"},
		{"csh", "tcsh", "tcsh", "-c"},
	} {
		t.Run(shell.program, func(t *testing.T) {
			t.Parallel()
			path := findShell(t, shell.program, shell.debian)
			for _, s := range work {
				text, want := l.stubbed(t, s, names)
				sent, err := QuoteFor(shell.login, text)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, l.run(t, sent, []string{path, shell.flags})); diff != "" {
					t.Errorf("%.300s (-want +got):\n%s", sent, diff)
				}
			}
		})
	}
}

func builtinsOf(t *testing.T, shell ...string) []string {
	t.Helper()
	output, err := exec.Command(findShell(t, shell[0], shell[0]), shell[1:]...).Output()
	if err != nil {
		t.Fatalf("asking %s for its builtins: %v", shell[0], err)
	}
	return strings.Fields(string(output))
}

// TestEveryBuiltinIsKnown asks the shells for their builtins and keywords: a
// new one must be refused, or be known to run nothing.
func TestEveryBuiltinIsKnown(t *testing.T) {
	ask := [][]string{{"bash", "-c", "compgen -b -k"}}
	if os.Getenv("GATEWAY_SHELLS") != "" {
		ask = append(ask, []string{"zsh", "-fc", "print -l ${(k)builtins} ${(k)reswords}"}, []string{"ksh93", "-c", "builtin"})
	}
	harmless := append([]string{"true", "false", ":", "pwd", "command", "which", "where", "help", "log"}, evaluating...)
	for _, argv := range ask {
		for _, name := range builtinsOf(t, argv...) {
			if strings.Contains(name, "/") || slices.Contains(harmless, name) {
				continue
			}
			if verdict := (&Policy{}).Command("'" + name + "' x"); verdict.Decision != Deny {
				t.Errorf("%s has the builtin %s, which is %s", argv[0], name, verdict.Decision)
			}
		}
	}
}

func TestWithCwd(t *testing.T) {
	l := newLab(t)
	var none *Policy
	for _, name := range []string{"plain", "it's", "-x", "a b;c", "new\nline", "$HOME"} {
		parent := t.TempDir()
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, shell := range posixShells(t) {
			text, want := l.stubbed(t, mustRead(t, "a b; c || d; e | f"), shell.builtins)
			if diff := cmp.Diff(want, l.run(t, none.WithCwd(text, dir), shell.argv)); diff != "" {
				t.Errorf("%s in %q (-want +got):\n%s", shell.name, dir, diff)
			}
			cmd := exec.Command(shell.argv[0], append(slices.Clone(shell.argv[1:]), none.WithCwd("pwd", dir))...)
			if output, err := cmd.Output(); err != nil || string(output) != dir+"\n" {
				t.Errorf("%s: pwd in %q: got %q, %v", shell.name, dir, output, err)
			}
			cmd = exec.Command(shell.argv[0], append(slices.Clone(shell.argv[1:]), none.WithCwd(text, dir+"x"))...)
			cmd.Env = []string{"PATH=" + l.stubs, "STUB_LOG=" + parent}
			if err := cmd.Run(); err == nil {
				t.Errorf("%s: no error in %q", shell.name, dir+"x")
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
				t.Errorf("%s: something ran although cd failed: %v %v", shell.name, entries, err)
			}
		}
	}
}
