package policy

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// word removes the quotes of a word, and refuses what a shell would expand to
// something that cannot be known now.
func (r *reader) word(from *syntax.Word) (word, *refusal) {
	var b builder
	for i, part := range from.Parts {
		var bad *refusal
		switch part := part.(type) {
		case *syntax.Lit:
			bad = r.unquoted(&b, part, i == 0, i == len(from.Parts)-1)
		case *syntax.SglQuoted:
			if part.Dollar {
				bad = r.expansion(part)
			}
			b.literal(part.Value)
		case *syntax.DblQuoted:
			bad = r.doubleQuoted(&b, part)
		default:
			bad = r.expansion(part)
		}
		if bad != nil {
			return word{}, bad
		}
	}
	w := b.word(r.column(from.Pos()))
	if w.globs() && len(w.value) > maxGlobWord {
		return word{}, refuse(ruleSize, w.column, "a glob of more than %d bytes", maxGlobWord)
	}
	return w, nil
}

func (r *reader) expansion(part syntax.WordPart) *refusal {
	what := "an expansion"
	switch part := part.(type) {
	case *syntax.CmdSubst:
		what = "a command substitution"
	case *syntax.ArithmExp:
		what = "an arithmetic expansion"
	case *syntax.ProcSubst:
		what = "a process substitution"
	case *syntax.ParamExp:
		what = "a variable"
		if part.Param != nil {
			what = "the variable " + show(part.Param.Value)
		}
	case *syntax.DblQuoted, *syntax.SglQuoted:
		what = "$ before a quote"
	}
	return refuse(ruleExpansion, r.column(part.Pos()),
		"%s is known only when the command runs: write its value, or put it in single quotes if the text itself is meant", what)
}

func (r *reader) doubleQuoted(b *builder, quoted *syntax.DblQuoted) *refusal {
	if quoted.Dollar {
		return r.expansion(quoted)
	}
	for _, part := range quoted.Parts {
		lit, ok := part.(*syntax.Lit)
		if !ok {
			return r.expansion(part)
		}
		b.literal(unescapeDoubleQuoted(lit.Value))
	}
	return nil
}

func unescapeDoubleQuoted(raw string) string {
	var out strings.Builder
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' && i+1 < len(raw) {
			switch raw[i+1] {
			case '$', '`', '"', '\\':
				i++
			case '\n':
				i++
				continue
			}
		}
		out.WriteByte(raw[i])
	}
	return out.String()
}

var (
	tildePrefix = regexp.MustCompile(`^~([A-Za-z_][A-Za-z0-9_.-]*)?$`)
	// What a bracket expression may hold to be sent bare: nothing that a
	// shell reads in another way, no quotes, no ^ (! is the POSIX spelling).
	bracket = regexp.MustCompile(`^\[!?([A-Za-z0-9_.-]|\[:[a-z]+:\])+\]`)
)

// unquoted reads a part of a word that has no quotes around it: backslashes,
// globs and ~ mean something here.
func (r *reader) unquoted(b *builder, lit *syntax.Lit, first, last bool) *refusal {
	raw, start := lit.Value, int(lit.Pos().Offset())
	i := 0
	if first && strings.HasPrefix(raw, "~") {
		prefix, _, slash := strings.Cut(raw, "/")
		if !tildePrefix.MatchString(prefix) || !slash && !last {
			return refuse(ruleTilde, r.columnAt(start), "only ~ and ~user before a slash are known: quote the ~, or write the path")
		}
		b.active(tilde, prefix)
		i = len(prefix)
	}
	for i < len(raw) {
		char, size := utf8.DecodeRuneInString(raw[i:])
		at := func() int { return r.columnAt(start + i) }
		switch {
		case char == '\\':
			if i+1 == len(raw) {
				return refuse(ruleUnreadable, at(), "a backslash at the end of a word")
			}
			_, next := utf8.DecodeRuneInString(raw[i+1:])
			if raw[i+1] != '\n' {
				b.literal(raw[i+1 : i+1+next])
			}
			i += 1 + next
			continue
		case char == '$':
			return refuse(ruleExpansion, at(), "an unquoted $: put it in single quotes")
		case strings.HasPrefix(raw[i:], "{}"): // find's and xargs' placeholder: literal in every shell
			b.literal("{}")
			size = len("{}")
		case char == '{':
			return refuse(ruleBrace, at(), "an unquoted {: bash would expand braces; write the words, or put it in single quotes ('{}')")
		case char == '*':
			b.active(star, "*")
		case char == '?':
			b.active(one, "?")
		case char == '[':
			if set := bracket.FindString(raw[i:]); set != "" {
				b.active(one, set)
				i += len(set)
				continue
			}
			if strings.Contains(raw[i:], "]") || !last {
				return refuse(ruleGlob, at(), "a bracket expression that shells read in different ways: put it in single quotes, or use only [a-z0-9_.-], [!…] and [[:class:]]")
			}
			b.literal("[")
		case looksLikeShell(char):
			return refuse(ruleCharacters, at(), "the character %s (%U) looks like shell syntax and is none: write the ASCII character, or put it in quotes", show(string(char)), char)
		default:
			b.literal(raw[i : i+size])
		}
		i += size
	}
	return nil
}

// looksLikeShell finds characters that a reader takes for a space, a quote, a
// dash or an operator.
func looksLikeShell(r rune) bool {
	switch {
	case r < utf8.RuneSelf:
		return false
	case unicode.In(r, unicode.Zs, unicode.Pd, unicode.Pi, unicode.Pf, unicode.Sk):
		return true
	case 0xFF00 <= r && r <= 0xFFEF, 0xFE50 <= r && r <= 0xFE6F: // full-width and small forms
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}
	return strings.ContainsRune("\u037e\u01c0\u2223\u2016\u2502\u2212\u2032\u2033\u2035\u2217\u204e\u2215\u2044\u29f8\u2216\u29f5\u2236\ua789\u204f\u061b\u201a\u201e\u02bc\u02b9\u275b\u275c\u275d\u275e", r)
}
