package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// proveReadOnly returns the rules that prove every program of a command
// read-only, or why one is not.
func (s *script) proveReadOnly(p *Policy) (string, *refusal) {
	if bad := s.checkGlobs(true); bad != nil {
		return "", bad
	}
	var rules []string
	for _, program := range s.programs {
		rule, bad := p.proveRun(program.run)
		if bad != nil {
			return "", bad
		}
		if !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	return strings.Join(rules, ", "), nil
}

// harmless is the wrappers that change nothing by themselves. nohup is none: it
// may create nohup.out.
var harmless = []string{"sudo", "env", "timeout", "nice", "setsid", "stdbuf", "ionice", "command", "busybox", "toybox", "xargs"}

func (p *Policy) proveRun(r run) (string, *refusal) {
	if matched, found := p.readOnly.covers(r.words, r.pinned()); found && !r.loose && !r.unread {
		return rule(ruleReadOnly, matched), nil
	}
	if r.unread {
		return "", unproved(r.words[0], "what %s does is not known", show(r.words[0].value))
	}
	name, trusted := trustedName(r.words[0])
	if !trusted {
		return "", unproved(r.words[0], "%s is not where system programs are: its name proves nothing", show(r.words[0].value))
	}
	if len(r.started) == 0 {
		return p.proveProgram(name, r.words)
	}
	if name == "find" {
		if _, bad := p.proveProgram(name, withoutExec(r)); bad != nil {
			return "", bad
		}
	} else if bad := proveWrapper(name, r); bad != nil {
		return "", bad
	}
	var inner string
	for _, s := range r.started {
		rule, bad := p.proveRun(s.run)
		if bad != nil {
			return "", bad
		}
		inner = rule
	}
	return inner, nil
}

// trustedName says whether a program is what the table means by its name.
func trustedName(w word) (string, bool) {
	folder, name := path.Split(w.value)
	return name, slices.Contains([]string{"", "/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/"}, folder)
}

func proveWrapper(name string, r run) *refusal {
	if !slices.Contains(harmless, name) {
		return unproved(r.words[0], "%s is not known to change nothing", name)
	}
	for _, w := range r.words[1:r.started[0].at] {
		switch {
		case name == "env" && strings.Contains(w.value, "=") && !plainVariable.MatchString(w.value):
			return unproved(w, "the variable %s is not known to change nothing", show(w.value))
		case name == "sudo" && (w.value == "-u" || w.value == "-g"):
		case name == "setsid" && w.option():
			return unproved(w, "setsid %s may leave a process behind", w.value)
		case name == "ionice" && strings.ContainsAny(w.value, "pPu") && w.option():
			return unproved(w, "ionice %s changes other processes", w.value)
		}
	}
	return nil
}

var plainVariable = regexp.MustCompile(`^(LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|COLUMNS|LINES|NO_COLOR|SYSTEMD_COLORS)=`)

// withoutExec leaves the rest of find's words, for find's own rule.
func withoutExec(r run) []word {
	rest := slices.Clone(r.words)
	for _, s := range slices.Backward(r.started) {
		// From -exec, which stands before the program, to the ; or + after it.
		rest = slices.Delete(rest, s.at-1, s.at+len(s.run.words)+1)
	}
	return rest
}

func unproved(w word, format string, args ...any) *refusal {
	return refuse(ruleReadOnly, w.column, "not proved read-only: "+format+"; ssh_run runs what the policy allows", args...)
}

// proveProgram looks a program up in the built-in table.
func (p *Policy) proveProgram(name string, words []word) (string, *refusal) {
	known, found := readOnlyTable[name]
	if !found {
		return "", unproved(words[0], "%s is not in the list of programs that change nothing", show(name))
	}
	if bad := known.prove(name, words); bad != nil {
		return "", bad
	}
	return ruleReadOnly + ": built-in " + name, nil
}

// readOnlyRule is what keeps a program read-only. Options that are not listed
// are not proved, wherever they stand: -- ends nothing, since it could be the
// value of an option before it.
type readOnlyRule struct {
	anything bool   // no option and no operand changes anything
	flags    string // one-letter options without a value
	values   string // one-letter options whose value may be joined to them
	long     string // names of long options, with spaces between
	single   string // options that are one word whatever their dashes, as find's
	numbers  bool   // -10 and the like
	operands int    // at most so many words that are no options; -1: any number
	first    string // the first operand must be one of these, with spaces between
	before   string // the only options that may stand before it: the value of another could be taken for it
	needs    bool   // there must be a first operand
	operand  *regexp.Regexp
	check    func(words []word) *refusal // the whole of the rule, if it is none of the above
}

func (r readOnlyRule) prove(name string, words []word) *refusal {
	if r.check != nil {
		return r.check(words)
	}
	if r.anything {
		return nil
	}
	operands := 0
	beforeFirst := "" // an option that could have taken the first operand for its value
	for _, w := range words[1:] {
		if w.opaque() {
			return unproved(w, "what is put here could be an option of %s", name)
		}
		if w.option() && w.value != "-" {
			if !r.knows(w.value) {
				return unproved(w, "the option %s of %s is not known to change nothing", show(w.value), name)
			}
			if operands == 0 && !slices.Contains(strings.Fields(r.before), w.value) {
				beforeFirst = w.value
			}
			continue
		}
		operands++
		switch {
		case operands == 1 && r.first != "" && beforeFirst != "":
			return unproved(w, "write %s %s and the option %s after it", name, show(w.value), show(beforeFirst))
		case operands == 1 && r.first != "" && !slices.Contains(strings.Fields(r.first), w.value):
			return unproved(w, "%s %s is not known to change nothing", name, show(w.value))
		case r.operands >= 0 && operands > r.operands:
			return unproved(w, "%s with %s could change something", name, show(w.value))
		case r.operand != nil && (!r.operand.MatchString(w.value) || !w.plain()):
			return unproved(w, "%s with %s could change something", name, show(w.value))
		}
	}
	if r.needs && operands == 0 {
		return unproved(words[0], "%s without a subcommand", name)
	}
	return nil
}

func (r readOnlyRule) knows(text string) bool {
	if text == "--" || slices.Contains(strings.Fields(r.single), text) {
		return true
	}
	if long, isLong := strings.CutPrefix(text, "--"); isLong {
		name, _, _ := strings.Cut(long, "=")
		return slices.Contains(strings.Fields(r.long), name)
	}
	cluster := text[1:]
	if r.numbers && signed.MatchString(cluster) {
		return true
	}
	for _, letter := range cluster {
		switch {
		case strings.ContainsRune(r.values, letter):
			return true
		case !strings.ContainsRune(r.flags, letter):
			return false
		}
	}
	return true
}

var signed = regexp.MustCompile(`^[0-9]+[A-Za-z]?$`)

var (
	// awk and sed are languages; a few sentences of them are known by heart.
	awkField   = `(\$([0-9]+|NF)|NR|NF|"[^"\\]*"|length)`
	awkProgram = regexp.MustCompile(`^\s*((NR|NF|` + `\$[0-9]+)\s*(==|!=|>=|<=|>|<|~|!~)\s*([0-9.]+|"[^"\\]*"|/[A-Za-z0-9 _.:,=@#%|^$-]+/)\s*|!?/[A-Za-z0-9 _.:,=@#%|^$-]+/\s*)?` +
		`(\{\s*print(\s*` + awkField + `(\s*,?\s*` + awkField + `)*)?\s*;?\s*\})?\s*$`)
	sedLine   = `([0-9]+|\$|/[A-Za-z0-9 _.:,=@#%|^$-]+/)`
	sedScript = regexp.MustCompile(`^((` + sedLine + `(,` + sedLine + `)?)?[pdq=]|s/[^/\\&\n]+/[^/\\\n]*/[gp0-9]*|s\|[^|\\\n]+\|[^|\\\n]*\|[gp0-9]*)$`)
)

// checkAwk accepts awk [-F x] 'program' [file …].
func checkAwk(words []word) *refusal {
	at := 1
	for at < len(words) && words[at].option() {
		if !strings.HasPrefix(words[at].value, "-F") {
			return unproved(words[at], "the option %s of awk", show(words[at].value))
		}
		if words[at].value == "-F" {
			at++
		}
		at++
	}
	return checkLanguage(words, at, awkProgram)
}

// checkSed accepts sed [-n] [-E] 'script' [file …], without any e, w or -i.
func checkSed(words []word) *refusal {
	at := 1
	for at < len(words) && words[at].option() {
		if !slices.Contains([]string{"-n", "-E", "-r", "-nE", "-nr", "-En", "-rn"}, words[at].value) {
			return unproved(words[at], "the option %s of sed", show(words[at].value))
		}
		at++
	}
	return checkLanguage(words, at, sedScript)
}

func checkLanguage(words []word, at int, known *regexp.Regexp) *refusal {
	if at >= len(words) || !words[at].plain() || !known.MatchString(words[at].value) {
		return unproved(words[0], "only the simplest scripts of %s are known to change nothing", words[0].value)
	}
	for _, w := range words[at+1:] {
		if w.opaque() || w.option() {
			return unproved(w, "what stands after the script could be an option of %s", words[0].value)
		}
	}
	return nil
}

// ipVerbs are written out: ip completes abbreviations in an order of its own.
func checkIP(words []word) *refusal {
	at := 1
	for at < len(words) && words[at].option() {
		if !slices.Contains(strings.Fields("-4 -6 -o -br -s -d -j -p -c -h -brief -oneline -stats -details -json -pretty -color -human -family -0 -N -r -t"), words[at].value) {
			return unproved(words[at], "the option %s of ip", show(words[at].value))
		}
		at++
	}
	if at == len(words) {
		return nil
	}
	objects := strings.Fields("addr address a link l route r ro rule neigh neighbour n maddr mroute netns tunnel tcpmetrics vrf")
	if !slices.Contains(objects, words[at].value) {
		return unproved(words[at], "ip %s", show(words[at].value))
	}
	if at+1 == len(words) {
		return nil
	}
	if verb := words[at+1]; !slices.Contains([]string{"show", "list", "ls", "get"}, verb.value) {
		return unproved(verb, "ip %s %s", words[at].value, fmt.Sprintf("%.20q", verb.value))
	}
	for _, w := range words[at+2:] {
		if w.opaque() || w.globs() {
			return unproved(w, "what is put here could be anything")
		}
	}
	return nil
}

// checkCrontab accepts crontab -l alone: with a file's name, and without any
// word, crontab installs one.
func checkCrontab(words []word) *refusal {
	switch strings.Join(values(words[1:]), " ") {
	case "-l", "-l -u root", "-u root -l":
		return nil
	}
	return unproved(words[0], "only crontab -l is known to change nothing")
}

// checkCommand accepts the questions command -v and command -V.
func checkCommand(words []word) *refusal {
	if len(words) > 1 && (words[1].value == "-v" || words[1].value == "-V") {
		return nil
	}
	return unproved(words[0], "command starts a program")
}
