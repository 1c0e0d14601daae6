package policy

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// corpusPolicies are the policies that testdata/corpus.tsv names.
var corpusPolicies = map[string]Config{
	"none":     {},
	"readonly": {}, // none again: what ssh_run_readonly refuses
	"ops": {
		Allow: list("systemctl status *", "journalctl **", "cat /var/log/*", "ls **", "grep **", "timeout * systemctl status *", "cd /srv/*",
			"mytool **", "tail -n * /var/log/*.log", "env LANG=C ls **", "cat ~/notes/*", "id", "uptime"),
		Deny:     list("** --force* **", "journalctl --vacuum* **", "mytool delete **"),
		Approve:  list("systemctl restart *", "systemctl stop *", "mytool apply **"),
		ReadOnly: list("mytool show **"),
	},
	// Patterns that name wrappers.
	"wrappers": {
		Allow: list("find **", "env **", "xargs **", "timeout **", "cat **", "nice -n * ls **", "find * -name * -exec grep ** ;", "sudo -n **", "systemctl restart *"),
		Sudo:  true,
	},
	"sudo": {
		Allow: list("sudo -n systemctl restart *", "systemctl status *", "sudo -n -u postgres psql --list"),
		Sudo:  true,
	},
	"deny": {
		Deny: list("rm **", "reboot", "cat /etc/shadow", "** --force* **", "systemctl stop *", "cp * /etc/*"),
		Sudo: true,
	},
	"approve":          {Approve: list("systemctl restart *", "rm **")},
	"nothing":          {Allow: list()},
	"shell":            {Shell: true},
	"shell with allow": {Shell: true, Allow: list("ls **", "sh -c *")},
	"shell with deny":  {Shell: true, Deny: list("rm **")},
}

func list(items ...string) List {
	return List{Present: true, Items: items}
}

// row is one line of testdata/corpus.tsv.
type row struct {
	line          int
	policy        string
	run, readOnly ruling // of ssh_run and of ssh_run_readonly
	command       string
}

// TestCorpus judges every command of testdata/corpus.tsv, for both tools.
func TestCorpus(t *testing.T) {
	rows := readCorpus(t)
	if len(rows) < 300 {
		t.Errorf("got %d commands, want at least 300", len(rows))
	}
	policies := compileCorpusPolicies(t)
	for _, r := range rows {
		p := policies[r.policy]
		run, readOnly := p.Command(r.command), p.ReadOnlyCommand(r.command)
		if got := (ruling{run.Decision, run.Rule}); got != r.run {
			t.Errorf("line %d: policy %s: Command(%.80q): got %v, want %v\n%s", r.line, r.policy, r.command, got, r.run, run.Reason)
		}
		if got := (ruling{readOnly.Decision, readOnly.Rule}); got != r.readOnly {
			t.Errorf("line %d: policy %s: ReadOnlyCommand(%.80q): got %v, want %v\n%s", r.line, r.policy, r.command, got, r.readOnly, readOnly.Reason)
		}
		checkVerdict(t, r.command, run)
		checkVerdict(t, r.command, readOnly)
	}
}

// checkVerdict checks what holds for every verdict.
func checkVerdict(t *testing.T, command string, v Verdict) {
	t.Helper()
	if (v.Decision == Deny) == (v.Canonical != "") {
		t.Errorf("%.80q: %s with the canonical text %.80q", command, v.Decision, v.Canonical)
	}
	if (v.Decision == Allow) != (v.Reason == "") {
		t.Errorf("%.80q: %s with the reason %q", command, v.Decision, v.Reason)
	}
	if v.Rule == "" {
		t.Errorf("%.80q: no rule", command)
	}
	if !utf8.ValidString(v.Reason) || strings.ContainsFunc(v.Reason, unicode.IsControl) || len(v.Reason) > 1000 {
		t.Errorf("%.80q: the reason is not fit to show: %q", command, v.Reason)
	}
	if v.Column < 0 || v.Column > utf8.RuneCountInString(command)+1 {
		t.Errorf("%.80q: column %d", command, v.Column)
	}
}

func compileCorpusPolicies(t *testing.T) map[string]*Policy {
	t.Helper()
	policies := map[string]*Policy{}
	for name, config := range corpusPolicies {
		p, err := New(config)
		if err != nil {
			t.Fatalf("policy %s: %v", name, err)
		}
		policies[name] = p
	}
	return policies
}

// readCorpus reads testdata/corpus.tsv: "## policy" starts a section, a line is
// decision, rule, decision of ssh_run_readonly, its rule, command.
func readCorpus(tb testing.TB) []row {
	tb.Helper()
	data, err := os.ReadFile("testdata/corpus.tsv")
	if err != nil {
		tb.Fatal(err)
	}
	var rows []row
	policy := ""
	for i, line := range strings.Split(string(data), "\n") {
		if name, found := strings.CutPrefix(line, "## "); found {
			policy = name
			continue
		}
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		fields := strings.SplitN(line, "\t", 5)
		if len(fields) != 5 {
			tb.Fatalf("line %d: %d fields", i+1, len(fields))
		}
		command, err := decodeCommand(fields[4])
		if err != nil {
			tb.Fatalf("line %d: %v", i+1, err)
		}
		rows = append(rows, row{
			i + 1, policy, ruling{Decision(fields[0]), fields[1]}, ruling{Decision(fields[2]), fields[3]}, command,
		})
	}
	return rows
}

var goString = regexp.MustCompile(`^("(?:[^"\\]|\\.)*")(?:\*([0-9]+))?$`)

// decodeCommand reads a command as it stands in the corpus: as it is, or as a
// Go string, which may be repeated ("a"*1048576).
func decodeCommand(text string) (string, error) {
	parts := goString.FindStringSubmatch(text)
	if parts == nil {
		return text, nil
	}
	command, err := strconv.Unquote(parts[1])
	if err != nil {
		return "", fmt.Errorf("%s: %w", text, err)
	}
	if parts[2] == "" {
		return command, nil
	}
	times, err := strconv.Atoi(parts[2])
	return strings.Repeat(command, times), err
}
