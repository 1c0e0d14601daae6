package policy

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// maxNesting bounds programs that start programs that start programs.
const maxNesting = 8

// run is a program and what it starts in turn.
type run struct {
	words   []word
	started []started
	loose   bool // what it starts is among its words, where is not known
	unread  bool // it was not understood at all: shell: true
}

type started struct {
	at  int // the index of the program's name in the words of what starts it
	run run
}

// pinned returns the indexes of all programs' names that are started.
func (r run) pinned() []int {
	var at []int
	for _, s := range r.started {
		at = append(at, s.at)
		for _, inner := range s.run.pinned() {
			at = append(at, s.at+inner)
		}
	}
	return at
}

// startedBy finds what a program starts, and refuses programs whose code
// stands in an argument or comes from stdin. Depth is how many programs are
// around it; guessed says that it is one of the guesses of checkLoose, which
// tries every word itself.
func startedBy(words []word, p *Policy, depth int, guessed bool) (run, *refusal) {
	found := run{words: words}
	if depth == maxNesting {
		return run{}, refuse(ruleWrapper, words[0].column, "more than %d programs that start each other", maxNesting)
	}
	if bad := checkProgram(words, p); bad != nil {
		if p.shell && bad.rule != ruleSudo {
			found.loose, found.unread = true, true
			return found, nil
		}
		return run{}, bad
	}
	name := programName(words[0])
	find := wrappers[name]
	if find == nil {
		found.loose = looseWrapper(name, words)
		if found.loose && !guessed && !p.shell {
			return found, checkLoose(words, p, depth)
		}
		return found, nil
	}
	inners, bad := find(words)
	if bad != nil {
		if p.shell && bad.rule != ruleSudo {
			found.loose, found.unread = true, true
			return found, nil
		}
		return run{}, bad
	}
	for _, in := range inners {
		if bad := checkName(in.words[0]); bad != nil {
			return run{}, bad
		}
		inner, bad := startedBy(in.words, p, depth+1, guessed)
		if bad != nil {
			return run{}, bad
		}
		found.started = append(found.started, started{in.at, inner})
	}
	return found, nil
}

// programName is the name that the tables know a program by: without its
// folder, its version, and in lower case (macOS finds SH).
func programName(w word) string {
	name := strings.ToLower(path.Base(w.value))
	if trimmed := strings.TrimRight(name, "0123456789.-"); trimmed != "" && !knownWhole[name] {
		return trimmed
	}
	return name
}

// knownWhole is the names that end in a digit which is no version.
var knownWhole = map[string]bool{"sqlite3": true, "run0": true, "7z": true, "sha1": true, "base64": true, "base32": true, "i386": true, "x86_64": true}

// inner is a program found among the words of its wrapper.
type inner struct {
	at    int
	words []word
}

// wrappers is how to find what a program starts.
var wrappers = map[string]func([]word) ([]inner, *refusal){
	"sudo": sudo,
	"env":  grammar{flags: "i0v", values: "uC", long: []string{"ignore-environment", "null", "debug", "unset=", "chdir="}, assigns: true}.inner,
	"timeout": grammar{
		flags: "vfp", values: "ks", long: []string{"foreground", "preserve-status", "verbose", "kill-after=", "signal="},
		operands: 1,
	}.inner,
	"nice":    grammar{values: "n", long: []string{"adjustment="}, digits: true}.inner,
	"nohup":   grammar{}.inner,
	"setsid":  grammar{flags: "cfw", long: []string{"ctty", "fork", "wait"}}.inner,
	"stdbuf":  grammar{values: "ioe", long: []string{"input=", "output=", "error="}}.inner,
	"ionice":  grammar{flags: "t", values: "cnpPu", long: []string{"class=", "classdata=", "pid=", "ignore"}}.inner,
	"command": command,
	"busybox": multicall,
	"toybox":  multicall,
	"find":    find,
	"xargs":   xargs,
}

// grammar is the options of a wrapper, as far as they are known: what is not
// listed is refused, because it hides where the program begins.
type grammar struct {
	flags    string   // one-letter options
	values   string   // one-letter options with a value
	long     []string // with a trailing = if they take a value
	operands int      // words before the program
	assigns  bool     // NAME=value words before the program
	digits   bool     // -10
}

// option is one that was found; its name has no dashes.
type option struct{ name, value string }

func (g grammar) inner(words []word) ([]inner, *refusal) {
	at, _, bad := g.program(words)
	if bad != nil || at == len(words) {
		return nil, bad
	}
	return []inner{{at, words[at:]}}, nil
}

// program returns the index of the program's name, len(words) if there is none.
func (g grammar) program(words []word) (int, []option, *refusal) {
	var options []option
	at := 1
	for at < len(words) {
		w := words[at]
		if w.value == "--" {
			at++
			break
		}
		if !w.option() || w.value == "-" && !g.assigns {
			break
		}
		taken, used, bad := g.option(words[at:], words[0].value)
		if bad != nil {
			return 0, nil, bad
		}
		options = append(options, taken...)
		at += used
	}
	for skip := g.operands; skip > 0 && at < len(words); skip-- {
		at++
	}
	for g.assigns && at < len(words) && strings.Contains(words[at].value, "=") {
		if bad := checkVariable(words[at]); bad != nil {
			return 0, nil, bad
		}
		at++
	}
	at = min(at, len(words))
	for _, w := range words[1:at] {
		if !w.plain() {
			return 0, nil, refuse(ruleWrapper, w.column, "%s could become several words, so it is not known which program %s starts: write it out", show(w.value), words[0].value)
		}
	}
	return at, options, nil
}

// option reads the options in the first word, and says how many words they use.
func (g grammar) option(words []word, wrapper string) ([]option, int, *refusal) {
	text := words[0].value
	value := func() string {
		if len(words) > 1 {
			return words[1].value
		}
		return ""
	}
	hidden := refuse(ruleWrapper, words[0].column, "the option %s of %s is not known here, so it is not known which program it starts: leave it out", show(text), wrapper)
	if long, isLong := strings.CutPrefix(text, "--"); isLong {
		name, given, has := strings.Cut(long, "=")
		switch {
		case slices.Contains(g.long, name) && !has:
			return []option{{name, ""}}, 1, nil
		case slices.Contains(g.long, name+"=") && has:
			return []option{{name, given}}, 1, nil
		case slices.Contains(g.long, name+"="):
			return []option{{name, value()}}, 2, nil
		}
		return nil, 0, hidden
	}
	cluster := text[1:]
	if g.digits && cluster != "" && strings.Trim(cluster, "0123456789") == "" {
		return nil, 1, nil
	}
	var options []option
	for i, letter := range cluster {
		rest := cluster[i+1:]
		switch {
		case strings.ContainsRune(g.flags, letter):
			options = append(options, option{string(letter), ""})
		case strings.ContainsRune(g.values, letter) && rest != "":
			return append(options, option{string(letter), rest}), 1, nil
		case strings.ContainsRune(g.values, letter):
			return append(options, option{string(letter), value()}), 2, nil
		default:
			return nil, 0, hidden
		}
	}
	return options, 1, nil
}

var sudoGrammar = grammar{flags: "nHl", values: "ug", long: []string{"non-interactive", "set-home", "list", "user=", "group="}}

func sudo(words []word) ([]inner, *refusal) {
	at, options, bad := sudoGrammar.program(words)
	if bad != nil {
		bad.rule = ruleSudo
		return nil, bad
	}
	if !slices.Contains(options, option{"n", ""}) && !slices.Contains(options, option{"non-interactive", ""}) {
		return nil, refuse(ruleSudo, words[0].column, "sudo could ask for a password, which nobody would see: write sudo -n")
	}
	if at == len(words) {
		return nil, nil
	}
	return []inner{{at, words[at:]}}, nil
}

func command(words []word) ([]inner, *refusal) {
	at, options, bad := grammar{flags: "pvV"}.program(words)
	asks := slices.ContainsFunc(options, func(o option) bool { return o.name != "p" })
	if bad != nil || asks || at == len(words) {
		return nil, bad
	}
	return []inner{{at, words[at:]}}, nil
}

func multicall(words []word) ([]inner, *refusal) {
	if len(words) == 1 || slices.Contains([]string{"--list", "--list-full", "--help"}, words[1].value) {
		return nil, nil
	}
	if words[1].option() {
		return nil, refuse(ruleWrapper, words[1].column, "the option %s of %s changes the system", show(words[1].value), words[0].value)
	}
	return []inner{{1, words[1:]}}, nil
}

// find starts a program for each -exec, up to a ; or a + after {}.
func find(words []word) ([]inner, *refusal) {
	var inners []inner
	for at := 1; at < len(words); at++ {
		if !slices.Contains([]string{"-exec", "-execdir", "-ok", "-okdir"}, words[at].value) {
			continue
		}
		end := at + 1
		for end < len(words) && words[end].value != ";" && (words[end].value != "+" || words[end-1].value != "{}") {
			end++
		}
		if end == len(words) || end == at+1 {
			return nil, refuse(ruleWrapper, words[at].column, "%s without a program and a final ';'", words[at].value)
		}
		inners = append(inners, inner{at + 1, fill(words[at+1:end], "{}")})
		at = end
	}
	return inners, nil
}

var xargsGrammar = grammar{
	flags: "0rtpxo", values: "nPLsdaEI",
	long: []string{"null", "no-run-if-empty", "verbose", "exit", "max-args=", "max-procs=", "max-chars=", "delimiter=", "arg-file=", "replace=", "replace"},
}

func xargs(words []word) ([]inner, *refusal) {
	at, options, bad := xargsGrammar.program(words)
	if bad != nil || at == len(words) {
		return nil, bad // alone it is echo
	}
	for _, o := range options {
		if o.name == "I" || o.name == "replace" {
			return []inner{{at, fill(words[at:], cmp.Or(o.value, "{}"))}}, nil
		}
	}
	appended := append(slices.Clone(words[at:]), word{pieces: []piece{{unknown, ""}}, rest: true, column: words[at].column})
	return []inner{{at, appended}}, nil
}

// fill marks the words that find or xargs puts a text into.
func fill(words []word, placeholder string) []word {
	filled := slices.Clone(words)
	for i, w := range filled {
		if strings.Contains(w.value, placeholder) {
			filled[i].pieces = []piece{{unknown, w.value}}
		}
	}
	return filled
}
