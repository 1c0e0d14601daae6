package policy

import "strings"

// covers says that every word that w can become matches.
func (p patternWord) covers(w word) bool {
	switch {
	case p.kind == anyWord:
		return true
	case w.opaque():
		return false
	case p.kind == oneWord:
		// A leading glob could become an option.
		return w.opens() == tilde || w.opens() == literal && !w.option()
	case p.kind == exactly:
		return !w.globs() && w.value == p.text
	case p.text[0] == '*' && (w.option() || w.opens() != literal):
		return false
	}
	return p.coversParts(w)
}

// coversParts compares segment by segment: neither the pattern's * nor a
// shell's glob goes over a slash.
func (p patternWord) coversParts(w word) bool {
	segments := strings.Split(p.text, "/")
	elements := flatten(w)
	for i, segment := range segments {
		end := 0
		for end < len(elements) && elements[end] != (element{literal, '/'}) {
			end++
		}
		if last := i == len(segments)-1; last != (end == len(elements)) {
			return false
		}
		if !coversSegment(segment, elements[:end]) {
			return false
		}
		if end < len(elements) {
			elements = elements[end+1:]
		}
	}
	return true
}

// coversSegment is the usual comparison with one step back to the last star.
// What the shell expands is matched by a star only, never by a character.
func coversSegment(text string, elements []element) bool {
	t, e, lastStar, resume := 0, 0, -1, 0
	for e < len(elements) {
		switch {
		case t < len(text) && text[t] == '*':
			lastStar, resume = t, e
			t++
		case t < len(text) && elements[e] == element{literal, text[t]}:
			t++
			e++
		case t < len(text) && elements[e] == element{tilde, text[t]}:
			t++
			e++
		case lastStar >= 0 && elements[resume].kind != tilde:
			resume++
			t, e = lastStar+1, resume
		default:
			return false
		}
	}
	return strings.Trim(text[t:], "*") == ""
}

// element is one character of a word, or something that expands.
type element struct {
	kind kind
	char byte
}

func flatten(w word) []element {
	elements := make([]element, 0, len(w.value))
	for _, p := range w.pieces {
		switch p.kind {
		case literal, tilde:
			for _, char := range []byte(p.text) {
				elements = append(elements, element{p.kind, char})
			}
		case star, one, unknown:
			elements = append(elements, element{kind: p.kind})
		}
	}
	return elements
}

// meets says that some word that w can become matches. It errs on the side of
// matching: a bracket expression that finds no file stays as it is written, so
// it counts as any characters.
func (p patternWord) meets(w word) bool {
	switch {
	case p.kind == anyWord, w.opaque():
		return true
	case p.kind == oneWord:
		return !w.option()
	case w.plain():
		return p.kind == exactly && w.value == p.text || p.kind == parts && p.coversParts(w)
	}
	var elements []element
	for _, e := range flatten(w) {
		switch {
		case e.kind != tilde:
			elements = append(elements, e)
		case e.char == '~': // a path below /
			elements = append(elements, element{literal, '/'}, element{kind: unknown})
		}
	}
	return intersect(p.text, elements)
}

// intersect says whether a text exists that both sides match. row[i] says
// that text[:i] and the elements so far have one in common.
func intersect(text string, elements []element) bool {
	row := make([]bool, len(text)+1)
	row[0] = true
	skipStars(text, row)
	for _, e := range elements {
		next := make([]bool, len(row))
		for i := range row {
			switch {
			case e.kind != literal: // nothing, or more of the text
				next[i] = next[i] || row[i]
				if i < len(text) && next[i] && (text[i] != '/' || e.kind == unknown) {
					next[i+1] = true
				}
			case i == len(text) || !row[i]:
			case text[i] == '*':
				next[i] = next[i] || e.char != '/'
			case text[i] == e.char:
				next[i+1] = true
			}
		}
		skipStars(text, next)
		row = next
	}
	return row[len(text)]
}

func skipStars(text string, row []bool) {
	for i := range len(text) {
		if row[i] && text[i] == '*' {
			row[i+1] = true
		}
	}
}
