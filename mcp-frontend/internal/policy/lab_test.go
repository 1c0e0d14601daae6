package policy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lab runs canonical texts in real shells, with a PATH that has nothing but
// stub programs. A stub writes its argv, NUL-separated, into a file of its own.
type lab struct {
	stubs string
	stub  string

	mu    sync.Mutex
	known map[string]bool // guarded by mu
}

type posixShell struct {
	name     string
	argv     []string
	builtins map[string]bool // programs that this shell does not look up in PATH
}

// newLab fails, and does not skip, if a shell is missing: the property is what
// the package is for.
func newLab(tb testing.TB) *lab {
	tb.Helper()
	dash := findShell(tb, "dash", "dash")
	l := &lab{stubs: tb.TempDir(), known: map[string]bool{}}
	l.stub = filepath.Join(tb.TempDir(), "stub")
	script := "#!" + dash + "\nprintf '%s\\0' \"${0##*/}\" \"$@\" >\"$STUB_LOG/$$\"\n"
	if err := os.WriteFile(l.stub, []byte(script), 0o700); err != nil {
		tb.Fatal(err)
	}
	return l
}

func findShell(tb testing.TB, name, debian string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("this test needs %s: apt-get install %s", name, debian)
	}
	return path
}

func posixShells(tb testing.TB) []posixShell {
	tb.Helper()
	builtins := map[string]bool{"command": true, "true": true, "false": true, "pwd": true, ":": true}
	for _, name := range evaluating {
		builtins[name] = true
	}
	busybox := findShell(tb, "busybox", "busybox-static")
	applets := map[string]bool{}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		tb.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		applets[name] = true
	}
	for name := range builtins {
		applets[name] = true
	}
	return []posixShell{
		{"dash", []string{findShell(tb, "dash", "dash"), "-c"}, builtins},
		{"bash", []string{findShell(tb, "bash", "bash"), "-c"}, builtins},
		{"busybox sh", []string{busybox, "sh", "-c"}, applets},
	}
}

// stubbed renames the programs that the shell would not find in PATH, and
// returns the text with the argv lists that it must run: all exit 0, so what
// stands after || does not run.
func (l *lab) stubbed(tb testing.TB, s *script, builtins map[string]bool) (string, []string) {
	tb.Helper()
	renamed := script{programs: slices.Clone(s.programs)}
	var want []string
	skipped := false
	for i := range renamed.programs {
		p := &renamed.programs[i]
		name := p.words[0].value
		if builtins[name] || strings.Contains(name, "/") {
			name = strings.ReplaceAll(name, "/", "_") + "+stub"
			p.words = append([]word{literalWord(name)}, p.words[1:]...)
		}
		l.provide(tb, name)
		if p.operator != "|" {
			skipped = p.operator == "||"
		}
		if !skipped {
			want = append(want, strings.Join(values(p.words), "\x00")+"\x00")
		}
	}
	slices.Sort(want)
	return renamed.canonical(), want
}

func (l *lab) provide(tb testing.TB, name string) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[name] {
		return
	}
	l.known[name] = true
	if err := os.Symlink(l.stub, filepath.Join(l.stubs, name)); err != nil && !os.IsExist(err) {
		tb.Fatal(err)
	}
}

// run runs text and returns the argv lists that were started, sorted.
func (l *lab) run(tb testing.TB, text string, shell []string) []string {
	tb.Helper()
	log, err := os.MkdirTemp(filepath.Dir(l.stub), "log") //nolint:usetesting // one for each of thousands of runs, removed at once
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(log); err != nil {
			tb.Error(err)
		}
	}()
	home := filepath.Join(log, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell[0], append(slices.Clone(shell[1:]), text)...)
	cmd.Env = []string{"PATH=" + l.stubs, "STUB_LOG=" + log, "HOME=" + home, "LC_ALL=C.UTF-8"}
	cmd.Dir = home
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil || output.Len() > 0 {
		tb.Errorf("%s %.300q: %v, output %.300q", shell[0], text, err, output.String())
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 && !strings.HasSuffix(shell[0], "/fish") {
		tb.Errorf("%s %.300q left files behind: %v %v", shell[0], text, left, err)
	}
	var got []string
	entries, err := os.ReadDir(log)
	if err != nil {
		tb.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		argv, err := os.ReadFile(filepath.Join(log, entry.Name()))
		if err != nil {
			tb.Fatal(err)
		}
		got = append(got, string(argv))
	}
	slices.Sort(got)
	return got
}

// readable returns the script of a command that is allowed and whose argv
// lists are known, nil for others.
func readable(tb testing.TB, p *Policy, command string) *script {
	tb.Helper()
	verdict := p.Command(command)
	if verdict.Decision != Allow || verdict.Verbatim {
		return nil
	}
	s, bad := readScript(command)
	if bad != nil {
		tb.Fatalf("%.300q is allowed and not readable: %s", command, bad.reason)
	}
	if got, want := verdict.Programs, s.argvs(); !cmp.Equal(got, want) {
		tb.Fatalf("%.300q: Programs: %s", command, cmp.Diff(want, got))
	}
	if got, want := verdict.Canonical, s.canonical(); got != want {
		tb.Fatalf("%.300q: Canonical %.300q, want %.300q", command, got, want)
	}
	for _, program := range s.programs {
		if len(program.words[0].value) > 200 || slices.ContainsFunc(program.words, func(w word) bool { return !w.plain() }) {
			return nil
		}
	}
	return s
}

func mustRead(tb testing.TB, command string) *script {
	tb.Helper()
	s, bad := readScript(command)
	if bad != nil {
		tb.Fatal(fmt.Errorf("%q: %s", command, bad.reason))
	}
	return s
}
