package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
)

// maxPath bounds a path, as PATH_MAX does.
const maxPath = 4096

// judge applies the patterns to a command that is static.
func (p *Policy) judge(s *script) Verdict {
	verdict := Verdict{Decision: Allow, Programs: s.argvs()}
	if _, bad := s.proveReadOnly(p); bad == nil {
		verdict.ReadOnly = true
	}
	refused := func(bad *refusal) Verdict {
		denied := bad.verdict()
		denied.Programs, denied.ReadOnly = verdict.Programs, verdict.ReadOnly
		return denied
	}
	if bad := s.checkGlobs(p.restricted()); bad != nil {
		return refused(bad)
	}
	var rules []string
	var asked string
	for _, program := range s.programs {
		decided, bad := p.judgeRun(program.run)
		switch {
		case bad != nil:
			return refused(bad)
		case decided.decision == Approve && asked == "":
			asked = decided.rule
			verdict.Reason = fmt.Sprintf("%s needs a human's yes", show(strings.Join(values(program.words), " ")))
			verdict.Column = program.words[0].column
		}
		if !slices.Contains(rules, decided.rule) {
			rules = append(rules, decided.rule)
		}
	}
	verdict.Canonical = s.canonical()
	verdict.Rule = strings.Join(rules, ", ")
	if asked != "" {
		verdict.Decision, verdict.Rule = Approve, asked
		verdict.Reason = clip(printable(verdict.Reason))
	}
	return verdict
}

type ruling struct {
	decision Decision
	rule     string
}

// judgeRun judges one program together with what it starts.
func (p *Policy) judgeRun(r run) (ruling, *refusal) {
	at := r.words[0].column
	if denied, found := p.deny.meetsAny(r); found {
		return ruling{}, refuse(rule("deny", denied), at, "%s is denied by the policy's %q", show(strings.Join(values(r.words), " ")), denied.text)
	}
	if asked, found := p.approve.meetsAny(r); found {
		return ruling{Approve, rule("approve", asked)}, nil
	}
	if !p.allow.present && !p.approve.present {
		if p.deny.present {
			return ruling{Allow, ruleNotDenied}, nil
		}
		return ruling{Allow, ruleNoPolicy}, nil
	}
	granted, found, blame := p.allow.grants(r)
	if found {
		return ruling{Allow, rule("allow", granted)}, nil
	}
	hint := "the resource ssh://policy/NAME lists them" + some(p.allow.texts())
	if slices.ContainsFunc(blame, word.climbs) {
		hint = "a path with .. matches no pattern: write the path without it"
	}
	return ruling{}, refuse(ruleAllow, at, "%s matches no pattern of the policy's allow or approve; %s", show(strings.Join(values(blame), " ")), hint)
}

// some shows the first few of many patterns.
func some(patterns []string) string {
	const few = 8
	if len(patterns) == 0 {
		return ""
	}
	text := "; allowed here: " + strings.Join(patterns[:min(few, len(patterns))], ", ")
	if len(patterns) > few {
		text += fmt.Sprintf(" and %d more", len(patterns)-few)
	}
	return text
}

func rule(list string, p pattern) string {
	return fmt.Sprintf("%s: %q", list, p.text)
}

// meetsAny looks at the program and at all that it starts, or may start.
func (l patterns) meetsAny(r run) (pattern, bool) {
	if met, found := l.meets(r.words); found {
		return met, true
	}
	if r.loose {
		for i := 1; i < len(r.words); i++ {
			if met, found := l.meets(r.words[i:]); found {
				return met, true
			}
		}
	}
	for _, s := range r.started {
		if met, found := l.meetsAny(s.run); found {
			return met, true
		}
	}
	return pattern{}, false
}

// grants wants a pattern that spells out what is started; or one for the
// program, and one for each that it starts. Otherwise it returns the words
// that nothing grants.
func (l patterns) grants(r run) (pattern, bool, []word) {
	if granted, found := l.covers(r.words, r.pinned()); found {
		return granted, true, nil
	}
	granted, found := l.covers(r.words, nil)
	if !found {
		return pattern{}, false, r.words
	}
	for _, s := range r.started {
		if _, found, blame := l.grants(s.run); !found {
			return pattern{}, false, blame
		}
	}
	return granted, true, nil
}

// checkGlobs refuses globs that could become options. A * in front is the
// everyday case of it, and is let through where there is nothing to evade.
func (s *script) checkGlobs(strict bool) *refusal {
	for _, program := range s.programs {
		for _, w := range program.words {
			if !w.globs() {
				continue
			}
			first := w.opens()
			if w.option() || strict && (first == star || first == one) {
				return refuse(ruleGlob, w.column, "%s could become an option: write ./ before it, or quote it", show(w.value))
			}
		}
	}
	return nil
}

// Cwd judges the directory that a command is to run in. With allow present it
// is judged as the command cd DIR; deny and approve apply to that too.
func (p *Policy) Cwd(dir string) Verdict {
	p = p.orNone()
	switch {
	case !strings.HasPrefix(dir, "/"):
		return refuse(ruleCwd, 0, "cwd %s must be an absolute path", show(dir)).verdict()
	case len(dir) > maxPath, strings.ContainsFunc(dir, unicode.IsControl), printable(strings.ToValidUTF8(dir, "\x00")) != dir:
		return refuse(ruleCwd, 0, "cwd must be at most %d bytes of printable UTF-8", maxPath).verdict()
	}
	words := []word{literalWord("cd"), literalWord(dir)}
	if !p.allow.present {
		unlisted := *p
		unlisted.approve.present = false // an approve list alone does not keep from changing the directory
		p = &unlisted
	}
	asked := run{words: words}
	decided, bad := p.judgeRun(asked)
	if bad == nil {
		return Verdict{Decision: decided.decision, Rule: decided.rule, Canonical: "'cd' -- " + quote(dir), ReadOnly: true, Programs: [][]string{values(words)}}
	}
	// A folder is the same with and without a trailing slash.
	if clean := path.Clean(dir); clean != dir && !strings.Contains(dir, "..") {
		return p.Cwd(clean)
	}
	return bad.verdict()
}
