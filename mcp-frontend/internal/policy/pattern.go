package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// patterns is a list that may be absent.
type patterns struct {
	present bool
	list    []pattern
}

// texts are the patterns as the operator wrote them.
func (l patterns) texts() []string {
	texts := make([]string, 0, len(l.list))
	for _, p := range l.list {
		texts = append(texts, p.text)
	}
	return texts
}

// pattern is one line of allow, deny, approve or read_only.
type pattern struct {
	text  string
	words []patternWord
}

// patternWord matches one word, or any number of them.
type patternWord struct {
	text string
	kind patternKind
}

type patternKind uint8

const (
	exactly patternKind = iota // the text
	parts                      // text with * for a part of it without a slash
	oneWord                    // *: one word that does not start with -
	anyWord                    // **: any number of words
)

// compile reads a list. Patterns that grant are held to more: what can never
// match is a mistake of the operator's.
func compile(name string, from List, grants bool) (patterns, error) {
	compiled := patterns{present: from.Present}
	var problems []error
	for _, text := range from.Items {
		one, err := compileOne(text, grants)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: bad pattern %q: %w", name, text, err))
			continue
		}
		compiled.list = append(compiled.list, one)
	}
	return compiled, errors.Join(problems...)
}

func compileOne(text string, grants bool) (pattern, error) {
	compiled := pattern{text: text}
	if strings.ContainsFunc(text, unprintable) {
		return pattern{}, errors.New("it holds control or invisible characters")
	}
	for field := range strings.FieldsSeq(text) {
		one := patternWord{text: field}
		switch {
		case field == "*":
			one.kind = oneWord
		case field == "**":
			one.kind = anyWord
		case strings.Contains(field, "**"):
			return pattern{}, fmt.Errorf("%q: ** stands alone, for any number of words; inside a word write *", field)
		case strings.Contains(field, "*"):
			one.kind = parts
		}
		switch {
		case strings.ContainsAny(field, "'\"\\`"):
			return pattern{}, fmt.Errorf("%q: patterns match words without their quotes: leave them out, and write * for a word with spaces", field)
		case slices.Contains([]string{"|", "||", "&&", "&", ">", "<", ">>", "2>&1"}, field):
			return pattern{}, fmt.Errorf("%q: a pattern is one program and its arguments: write one pattern for each program", field)
		case grants && parentIn(field):
			return pattern{}, fmt.Errorf("%q: a path with .. matches no pattern that grants", field)
		case len(compiled.words) == 0 && strings.HasPrefix(field, "-"):
			return pattern{}, fmt.Errorf("%q: the first word is the program's name", field)
		}
		compiled.words = append(compiled.words, one)
	}
	if len(compiled.words) == 0 {
		return pattern{}, errors.New("it is empty")
	}
	return compiled, nil
}

// covers returns the first pattern that every expansion of words matches. The
// words at the pinned indexes are names of programs that the others start: only
// their own text in a pattern matches them.
func (l patterns) covers(words []word, pinned []int) (pattern, bool) {
	if slices.ContainsFunc(words, word.climbs) {
		return pattern{}, false
	}
	for _, candidate := range l.list {
		if candidate.covers(words, pinned) {
			return candidate, true
		}
	}
	return pattern{}, false
}

func (p pattern) covers(words []word, pinned []int) bool {
	return p.run(words, func(one patternWord, w word, at int) bool {
		if slices.Contains(pinned, at) {
			return one.kind == exactly && one.covers(w)
		}
		return one.covers(w)
	}, func(word) bool { return false })
}

// meets returns the first pattern that some expansion of words could match.
// A pattern that starts with a bare name also meets a path to that name.
func (l patterns) meets(words []word) (pattern, bool) {
	name := words[0]
	bare := literalWord(path.Base(name.value))
	for _, candidate := range l.list {
		if candidate.meets(words) {
			return candidate, true
		}
		if name.plain() && bare.value != name.value &&
			candidate.meets(append([]word{bare}, words[1:]...)) {
			return candidate, true
		}
	}
	return pattern{}, false
}

func (p pattern) meets(words []word) bool {
	return p.run(words, func(one patternWord, w word, _ int) bool { return one.meets(w) },
		func(w word) bool { return w.rest || w.globs() })
}

// run goes over the words with the set of positions in the pattern that were
// reached, so that no pattern takes more than words × pattern steps. A word
// that repeats may stand for several.
func (p pattern) run(words []word, match func(patternWord, word, int) bool, repeats func(word) bool) bool {
	if first := p.words[0]; len(words) == 0 || first.kind == exactly && !match(first, words[0], 0) {
		return false // most patterns end here
	}
	reached := make([]bool, len(p.words)+1)
	reached[0] = true
	p.skip(reached)
	for at, w := range words {
		next := p.step(reached, w, at, match)
		for repeats(w) {
			more := p.step(next, w, at, match)
			grown := false
			for i := range more {
				if more[i] && !next[i] {
					next[i], grown = true, true
				}
			}
			if !grown {
				break
			}
		}
		if w.rest && repeats(w) { // none at all
			for i := range reached {
				next[i] = next[i] || reached[i]
			}
		}
		if !slices.Contains(next, true) {
			return false
		}
		reached = next
	}
	return reached[len(p.words)]
}

// step returns the positions after one more word.
func (p pattern) step(reached []bool, w word, at int, match func(patternWord, word, int) bool) []bool {
	next := make([]bool, len(reached))
	for i, one := range p.words {
		if !reached[i] || !match(one, w, at) {
			continue
		}
		if one.kind == anyWord {
			next[i] = true
		} else {
			next[i+1] = true
		}
	}
	p.skip(next)
	return next
}

// skip adds the positions that ** reaches by matching no word.
func (p pattern) skip(reached []bool) {
	for i, one := range p.words {
		if reached[i] && one.kind == anyWord {
			reached[i+1] = true
		}
	}
}
