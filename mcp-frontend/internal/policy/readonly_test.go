package policy

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var (
	// What strace prints for a call that made or changed something.
	writes = regexp.MustCompile(`\b(openat?|open|creat)\(.*\b(O_WRONLY|O_RDWR|O_CREAT|O_TRUNC)\b.*= [0-9]`)
	// Writing to these changes nothing.
	sinks   = regexp.MustCompile(`"/dev/(null|tty|pts/[0-9]+|shm/[^"]*)"|"/proc/self/(task/[0-9]+/)?(attr|comm|oom_score_adj)|"/dev/shm`)
	changes = regexp.MustCompile(`\b(unlink|unlinkat|rename|renameat|renameat2|mkdir|mkdirat|rmdir|link|linkat|symlink|symlinkat|chmod|fchmod|fchmodat|` +
		`chown|fchown|lchown|fchownat|truncate|ftruncate|mknod|mknodat|utimensat|utime|utimes|setxattr|fsetxattr|removexattr|mount|umount2|` +
		`sethostname|setdomainname|settimeofday|clock_settime|adjtimex|reboot|init_module|finit_module|swapon|kill)\(.* = 0`)
	// The timeout that bounds the test kills its own group.
	ownKill = regexp.MustCompile(`\bkill\((0|[0-9]+), (SIGKILL|SIGTERM|SIGCONT)\)`)
)

// changed returns the calls of a log of strace that made or changed something.
func changed(calls string) []string {
	var found []string
	for call := range strings.Lines(calls) {
		if writes.MatchString(call) && !sinks.MatchString(call) || changes.MatchString(call) && !ownKill.MatchString(call) {
			found = append(found, call)
		}
	}
	return found
}

// TestReadOnlyChangesNothing runs every command that ssh_run_readonly accepts
// in the corpus, as far as its programs are installed, and reads the system
// calls that it made.
func TestReadOnlyChangesNothing(t *testing.T) {
	t.Parallel()
	strace, dash, timeout := findShell(t, "strace", "strace"), findShell(t, "dash", "dash"), findShell(t, "timeout", "coreutils")
	trace := func(text string) string {
		log := filepath.Join(t.TempDir(), "calls")
		// timeout ends the whole process group: what strace follows would outlive it.
		cmd := exec.Command(strace, "-f", "-qq", "-o", log, timeout, "-s", "KILL", "2", dash, "-c", text)
		cmd.Dir = t.TempDir()
		_ = cmd.Run() // whatever it is: what it did is what counts
		calls, err := os.ReadFile(log)
		if err != nil {
			t.Errorf("strace is not allowed to work here: %v", err)
		}
		return string(calls)
	}
	for _, text := range []string{"echo x >file", "touch file", "mkdir dir", "mkdir a; mv a b", "touch a; rm a", "touch a; chmod 600 a"} {
		if len(changed(trace(text))) == 0 {
			t.Fatalf("%s changes something, which strace does not show", text)
		}
	}

	missing := map[string]bool{}
	var accepted, ran int
	free := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for _, verdict := range acceptedReadOnly(t) {
		accepted++
		installed := true
		for _, program := range verdict.Programs {
			if _, err := exec.LookPath(program[0]); err != nil {
				missing[program[0]], installed = true, false
			}
		}
		if installed {
			ran++
		}
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			for _, call := range changed(trace(verdict.Canonical)) {
				t.Errorf("%s (by %s): %s", verdict.Canonical, verdict.Rule, call)
			}
		})
	}
	wg.Wait()
	t.Logf("%d commands, of %d all programs are installed; not here: %v", accepted, ran, slices.Sorted(maps.Keys(missing)))
	if ran < 80 {
		t.Errorf("only %d commands could run: that proves too little", ran)
	}
}

// acceptedReadOnly is what ssh_run_readonly accepts of the corpus, each once.
func acceptedReadOnly(t *testing.T) []Verdict {
	t.Helper()
	policies := compileCorpusPolicies(t)
	done := map[string]bool{}
	var accepted []Verdict
	for _, r := range readCorpus(t) {
		verdict := policies[r.policy].ReadOnlyCommand(r.command)
		if verdict.Decision != Allow || done[verdict.Canonical] || strings.Contains(verdict.Canonical, "mytool") {
			continue
		}
		done[verdict.Canonical] = true
		accepted = append(accepted, verdict)
	}
	return accepted
}
