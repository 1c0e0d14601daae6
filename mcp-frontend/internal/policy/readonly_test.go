package policy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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

// TestReadOnlyChangesNothing runs every command that ssh_run_readonly accepts
// in the corpus, as far as its programs are installed, and reads the system
// calls that it made. It needs strace and a few minutes.
func TestReadOnlyChangesNothing(t *testing.T) {
	if os.Getenv("GATEWAY_SHELLS") == "" {
		t.Skip("set GATEWAY_SHELLS=1 to run this with strace")
	}
	strace, dash, timeout := findShell(t, "strace", "strace"), findShell(t, "dash", "dash"), findShell(t, "timeout", "coreutils")
	policies := compileCorpusPolicies(t)
	done := map[string]bool{}
	for _, r := range readCorpus(t) {
		verdict := policies[r.policy].ReadOnlyCommand(r.command)
		if verdict.Decision != Allow || done[verdict.Canonical] || strings.Contains(verdict.Canonical, "mytool") {
			continue
		}
		done[verdict.Canonical] = true
		log := filepath.Join(t.TempDir(), "calls")
		// timeout ends the whole process group: what strace follows would outlive it.
		cmd := exec.Command(strace, "-f", "-qq", "-o", log, timeout, "-s", "KILL", "3", dash, "-c", verdict.Canonical)
		cmd.Dir = t.TempDir()
		_ = cmd.Run() // whatever it is: what it did is what counts
		calls, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for call := range strings.Lines(string(calls)) {
			if writes.MatchString(call) && !sinks.MatchString(call) || changes.MatchString(call) && !ownKill.MatchString(call) {
				t.Errorf("%s (by %s): %s", verdict.Canonical, verdict.Rule, call)
			}
		}
	}
	t.Logf("%d commands", len(done))
}
