package connections

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// document is a JSON text, its value and where each part of it stands.
type document struct {
	path     string
	text     []byte // without byte order mark
	value    any    // as encoding/json decodes it: map[string]any, []any, string, float64, bool, nil
	root     *node
	findings []finding
}

// node is the place of one value: offsets into the text. encoding/json tells
// no offsets for values, so the nodes shadow its tree.
type node struct {
	key        int // where the field's name begins; start if the value has none
	start, end int
	fields     map[string]*node
	items      []*node
}

// find follows the tokens of a JSON pointer.
func (n *node) find(path []string) *node {
	for _, token := range path {
		if i, err := strconv.Atoi(token); n.items != nil && err == nil {
			n = n.items[i]
		} else {
			n = n.fields[token]
		}
	}
	return n
}

// parse reads the text and reports whether it is JSON at all.
func (d *document) parse() bool {
	if len(d.text) > MaxSize {
		d.text = nil
		d.report(0, "the file is larger than %d MiB", MaxSize>>20)
		return false
	}
	d.text = bytes.TrimPrefix(d.text, []byte("\ufeff"))
	if offset := invalidUTF8(d.text); offset >= 0 {
		d.report(offset, "not UTF-8 text: save the file as UTF-8")
		return false
	}
	// Unmarshal checks the syntax of the whole text first: nesting and
	// trailing data included, which Decoder.Token does not.
	var raw json.RawMessage
	if err := json.Unmarshal(d.text, &raw); err != nil {
		offset, message := syntaxProblem(d.text, err)
		d.report(offset, "%s", message)
		return false
	}
	decoder := json.NewDecoder(bytes.NewReader(d.text))
	decoder.UseNumber()
	var err error
	if d.value, d.root, err = d.locate(decoder); err != nil {
		d.report(int(decoder.InputOffset()), "not valid JSON: %v", err)
		return false
	}
	return true
}

// locate reads the next value. It reports fields that are given twice.
func (d *document) locate(decoder *json.Decoder) (any, *node, error) {
	start := d.next(decoder)
	token, err := decoder.Token()
	if err != nil {
		return nil, nil, err
	}
	at := &node{key: start, start: start}
	var value any
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			value, err = d.locateItems(decoder, at)
		} else {
			value, err = d.locateFields(decoder, at)
		}
		if err != nil {
			return nil, nil, err
		}
		if _, err := decoder.Token(); err != nil { // the closing bracket
			return nil, nil, err
		}
	case json.Number:
		value = number(token)
	default:
		value = token
	}
	at.end = int(decoder.InputOffset())
	return value, at, nil
}

func (d *document) locateItems(decoder *json.Decoder, at *node) (any, error) {
	values := []any{}
	at.items = []*node{}
	for decoder.More() {
		value, item, err := d.locate(decoder)
		if err != nil {
			return nil, err
		}
		values, at.items = append(values, value), append(at.items, item)
	}
	return values, nil
}

func (d *document) locateFields(decoder *json.Decoder, at *node) (any, error) {
	values := map[string]any{}
	at.fields = map[string]*node{}
	for decoder.More() {
		key := d.next(decoder)
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("a field's name is %v", token)
		}
		value, field, err := d.locate(decoder)
		if err != nil {
			return nil, err
		}
		if first, twice := at.fields[name]; twice {
			d.report(key, "the field %q is given twice, first in line %d", name, d.line(first.key))
			continue
		}
		field.key = key
		values[name], at.fields[name] = value, field
	}
	return values, nil
}

// next is where the next token begins: InputOffset is where the last one ended.
func (d *document) next(decoder *json.Decoder) int {
	offset := int(decoder.InputOffset())
	for offset < len(d.text) && strings.IndexByte(" \t\r\n,:", d.text[offset]) >= 0 {
		offset++
	}
	return offset
}

func (d *document) line(offset int) int {
	return 1 + bytes.Count(d.text[:offset], []byte("\n"))
}

// number keeps what is too large for a float64 finite, so that the schema's
// bounds can refuse it. They are far below where a float64 loses integers.
func number(literal json.Number) float64 {
	value, err := literal.Float64()
	if err != nil {
		return math.Copysign(math.MaxFloat64, value)
	}
	return value
}

func invalidUTF8(text []byte) int {
	for offset := 0; offset < len(text); {
		r, size := utf8.DecodeRune(text[offset:])
		if r == utf8.RuneError && size == 1 {
			return offset
		}
		offset += size
	}
	return -1
}

// syntaxProblem says in words what encoding/json found, and where.
func syntaxProblem(text []byte, err error) (offset int, message string) {
	if len(bytes.TrimSpace(text)) == 0 {
		return 0, "the file is empty: write [] for no devices"
	}
	syntax, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return 0, "not valid JSON: " + err.Error()
	}
	found := syntax.Error()
	if strings.HasPrefix(found, "unexpected end") {
		return len(text), `the file ends too early: a closing ", } or ] is missing`
	}
	offset = int(syntax.Offset) - 1 // it counts the bytes read, the offending one included
	char := text[offset]
	before := bytes.TrimRight(text[:offset], " \t\r\n")
	switch {
	case strings.HasSuffix(found, "after top-level value"):
		return offset, "there is more after the end of the list: the file must hold one JSON array"
	case char == '/' || char == '#':
		return offset, "JSON has no comments: remove this one"
	case char == '\'':
		return offset, "text needs double quotes"
	case (char == '}' || char == ']') && bytes.HasSuffix(before, []byte(",")):
		return len(before) - 1, fmt.Sprintf("remove the comma before %q", char)
	case strings.Contains(found, "after object key:value pair"), strings.Contains(found, "after array element"):
		return offset, fmt.Sprintf("a comma or a closing bracket is missing before %q", char)
	}
	return offset, "not valid JSON: " + found
}
