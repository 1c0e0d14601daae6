package policy

import (
	"flag"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestShellsRunWhatWasRead is the property of the package, over the corpus:
// real shells run exactly the argv lists of the verdict, and nothing else.
func TestShellsRunWhatWasRead(t *testing.T) {
	l, shells, policies := newLab(t), posixShells(t), compileCorpusPolicies(t)
	rows := readCorpus(t)
	done := map[string]bool{}
	var work []*script
	for _, r := range rows {
		s := readable(t, policies[r.policy], r.command)
		if s == nil || done[r.command] {
			continue
		}
		done[r.command] = true
		work = append(work, s)
	}
	if len(work) < 150 {
		t.Errorf("got %d commands to run, want at least 150", len(work))
	}
	for i, shell := range shells {
		t.Run(shell.name, func(t *testing.T) {
			t.Parallel()
			for j, s := range work {
				if testing.Short() && j%len(shells) != i {
					continue
				}
				text, want := l.stubbed(t, s, shell.builtins)
				if diff := cmp.Diff(want, l.run(t, text, shell.argv)); diff != "" {
					t.Errorf("%.300s (-want +got):\n%s", text, diff)
				}
			}
		})
	}
}

// FuzzCommand checks the same property on texts that nobody wrote, and that
// no text makes a verdict that contradicts itself.
func FuzzCommand(f *testing.F) {
	fuzzing := flag.Lookup("test.fuzz").Value.String() != ""
	for i, r := range readCorpus(f) {
		// Without -fuzz the seeds would only repeat TestShellsRunWhatWasRead.
		if len(r.command) < 4096 && (fuzzing || i%20 == 0) {
			f.Add(r.command)
		}
	}
	l, shells := newLab(f), posixShells(f)
	none, restricted := &Policy{}, compileOrFail(f, corpusPolicies["ops"])
	shell, sudo := compileOrFail(f, corpusPolicies["shell"]), compileOrFail(f, corpusPolicies["wrappers"])
	f.Fuzz(func(t *testing.T, command string) {
		for _, p := range []*Policy{none, restricted, shell, sudo} {
			run, readOnly := p.Command(command), p.ReadOnlyCommand(command)
			checkVerdict(t, command, run)
			checkVerdict(t, command, readOnly)
			if readOnly.Decision == Allow && (run.Decision != Allow || !readOnly.ReadOnly) {
				t.Errorf("%q: read-only, and %s for ssh_run", command, run.Decision)
			}
		}
		if restricted.Command(command).Decision != Deny && none.Command(command).Decision != Allow {
			t.Errorf("%q: a policy grants what no policy does not", command)
		}
		s := readable(t, none, command)
		if s == nil || len(s.programs) > 8 {
			return
		}
		again, bad := readScript(s.canonical())
		if bad != nil || again.canonical() != s.canonical() {
			t.Errorf("%q: reading %q gives another command", command, s.canonical())
		}
		for _, shell := range shells {
			text, want := l.stubbed(t, s, shell.builtins)
			if diff := cmp.Diff(want, l.run(t, text, shell.argv)); diff != "" {
				t.Errorf("%s: %q from %q (-want +got):\n%s", shell.name, text, command, diff)
			}
		}
	})
}

func compileOrFail(tb testing.TB, config Config) *Policy {
	tb.Helper()
	p, err := New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}
