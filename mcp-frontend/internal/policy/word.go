package policy

import (
	"slices"
	"strings"
)

// kind is what a piece of a word stands for.
type kind uint8

const (
	literal kind = iota // itself
	star                // *: any characters without a slash
	one                 // ? or a bracket expression: one character, not a slash
	tilde               // ~ or ~user: an absolute path
	unknown             // put there by find or xargs: anything
)

type piece struct {
	kind kind
	text string // as written; the value for a literal
}

// word is one word of a command as the shell will see it: quotes are gone,
// what is still to be expanded is known by its kind.
type word struct {
	pieces []piece
	value  string // the pieces' text
	column int
	rest   bool // not a word but any number of unknown ones: what xargs appends
}

func literalWord(value string) word {
	w := word{value: value}
	if value != "" {
		w.pieces = []piece{{literal, value}}
	}
	return w
}

// builder puts a word together from many small pieces.
type builder struct {
	pieces []piece
	text   strings.Builder // the literal that is not yet in pieces
}

func (b *builder) literal(text string) {
	b.text.WriteString(text)
}

// active appends a piece that is no literal. Two stars are one: zsh reads **
// as "any depth", which no POSIX shell does.
func (b *builder) active(k kind, text string) {
	b.flush()
	if last := len(b.pieces) - 1; k == star && last >= 0 && b.pieces[last].kind == star {
		return
	}
	b.pieces = append(b.pieces, piece{k, text})
}

func (b *builder) flush() {
	if b.text.Len() > 0 {
		b.pieces = append(b.pieces, piece{literal, b.text.String()})
		b.text.Reset()
	}
}

func (b *builder) word(column int) word {
	b.flush()
	var value strings.Builder
	for _, p := range b.pieces {
		value.WriteString(p.text)
	}
	return word{pieces: b.pieces, value: value.String(), column: column}
}

// plain says that the word is its value, whatever is on the device.
func (w word) plain() bool {
	return !w.rest && !slices.ContainsFunc(w.pieces, func(p piece) bool { return p.kind != literal })
}

// globs says that the word may expand to several words.
func (w word) globs() bool {
	return slices.ContainsFunc(w.pieces, func(p piece) bool { return p.kind == star || p.kind == one })
}

// opaque says that nothing is known of the word before it runs.
func (w word) opaque() bool {
	return w.rest || slices.ContainsFunc(w.pieces, func(p piece) bool { return p.kind == unknown })
}

// opens returns the kind of the word's first character.
func (w word) opens() kind {
	if len(w.pieces) == 0 {
		return literal
	}
	return w.pieces[0].kind
}

// option says that the word may be read as an option.
func (w word) option() bool {
	return w.opens() == literal && strings.HasPrefix(w.value, "-")
}

// climbs says that the word may hold a path with a .. in it. A glob's segment
// can become .. only if it starts with a dot: all shells ask for a literal one.
func (w word) climbs() bool {
	if parentIn(w.value) {
		return true
	}
	if !w.globs() {
		return false
	}
	segment := "" // with every glob as *
	for _, p := range w.pieces {
		switch p.kind {
		case star, one:
			segment += "*"
			if strings.HasPrefix(segment, ".") && strings.Trim(segment, ".*") == "" {
				return true
			}
		case literal, tilde, unknown:
			segment += p.text
			segment = segment[strings.LastIndexByte(segment, '/')+1:]
		}
	}
	return false
}

// parentIn finds exactly two dots that end a path segment: at the end, or
// before anything that is no part of a name (a/../b, --file=.., x:..:y), so
// that 1..10 and main..topic are no paths.
func parentIn(value string) bool {
	for i := 0; i < len(value); {
		if value[i] != '.' {
			i++
			continue
		}
		dots := i
		for i < len(value) && value[i] == '.' {
			i++
		}
		if i-dots == 2 && (i == len(value) || !nameByte(value[i])) {
			return true
		}
	}
	return false
}

func nameByte(b byte) bool {
	return b == '_' || b == '-' || b >= 0x80 ||
		'0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
}

func values(words []word) []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = w.value
	}
	return list
}
