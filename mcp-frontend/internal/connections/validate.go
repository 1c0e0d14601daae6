package connections

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// validate reports what the schema refuses, in words a person can act on, and
// returns the indices of the entries concerned.
func (d *document) validate(schema *jsonschema.Schema) (broken map[int]bool) {
	broken = map[int]bool{}
	err := schema.Validate(d.value)
	if err == nil {
		return broken
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		d.report(0, "the file cannot be checked: %v", err)
		return broken
	}
	for _, leaf := range leaves(invalid, nil) {
		if path := leaf.InstanceLocation; len(path) > 0 {
			if index, err := strconv.Atoi(path[0]); err == nil {
				broken[index] = true
			}
		}
		d.explain(schemaAt(schema, leaf.InstanceLocation), leaf)
	}
	return broken
}

func leaves(err *jsonschema.ValidationError, found []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(err.Causes) == 0 {
		return append(found, err)
	}
	for _, cause := range err.Causes {
		found = leaves(cause, found)
	}
	return found
}

// explain reports one error of the library. Most say only that a value is not
// what it should be, and what that is stands in the schema.
func (d *document) explain(schema *jsonschema.Schema, err *jsonschema.ValidationError) {
	path := err.InstanceLocation
	at := d.root.find(path)
	subject := d.subject(path)
	switch k := err.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range slices.Sorted(slices.Values(k.Properties)) {
			d.report(at.fields[name].key, "%s: %s", subject, unknownField(schema, name))
		}
	case *kind.Required:
		d.report(at.start, "%s: missing %s", subject, strings.Join(quoteAll(k.Missing), ", "))
	case *kind.MaxLength:
		d.report(at.start, "%s is longer than %d characters", subject, k.Want)
	case *kind.MaxItems:
		d.report(at.start, "%s has more than %d items", subject, k.Want)
	case *kind.UniqueItems:
		second := at.items[max(k.Duplicates[0], k.Duplicates[1])]
		d.report(second.start, "%s has %s twice", subject, d.literal(second))
	case *kind.Pattern:
		if strings.HasSuffix(k.Got, "*") && (path[1] == "name" || path[1] == "host") {
			d.report(at.start, "%s ends in \"*\": templates for many devices are not supported yet, write one entry per device", subject)
			return
		}
		d.mismatch(at, subject, schema)
	case *kind.Type, *kind.Enum, *kind.Minimum, *kind.Maximum:
		d.mismatch(at, subject, schema)
	default:
		// Not reached with today's schema; a test holds the two together.
		d.report(at.start, "%s does not fit the schema: %s", subject, strings.Join(k.KeywordPath(), "."))
	}
}

func (d *document) mismatch(at *node, subject string, schema *jsonschema.Schema) {
	literal, hint := d.literal(at), ""
	if number, err := strconv.Unquote(literal); err == nil && integral(schema) {
		if _, err := strconv.Atoi(number); err == nil {
			hint = " (remove the quotes)"
		}
	}
	d.report(at.start, "%s must be %s, not %s%s", subject, expected(schema), literal, hint)
}

// expected completes the sentence "must be …".
func expected(schema *jsonschema.Schema) string {
	switch {
	case schema.Comment != "":
		return schema.Comment
	case schema.Enum != nil:
		return oneOf(schema.Enum.Values)
	case integral(schema):
		return fmt.Sprintf("a whole number from %s to %s", bound(schema.Minimum), bound(schema.Maximum))
	case slices.Contains(schema.Types.ToStrings(), "boolean"):
		return "true or false"
	}
	return strings.Join(schema.Types.ToStrings(), " or ")
}

func integral(schema *jsonschema.Schema) bool {
	return slices.Contains(schema.Types.ToStrings(), "integer")
}

func bound(limit *big.Rat) string {
	return limit.RatString()
}

func oneOf(values []any) string {
	words := make([]string, 0, len(values))
	for _, value := range values {
		words = append(words, fmt.Sprintf("%q", value))
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// mistaken are names that people bring along from elsewhere, too far from ours
// for the edit distance.
var mistaken = map[string]string{
	"password":              "there are no passwords here, only keys: use \"id_file\"",
	"passphrase":            "keys with a passphrase are not supported",
	"hostname":              "did you mean \"host\"?",
	"address":               "did you mean \"host\"?",
	"username":              "did you mean \"user\"?",
	"key":                   "did you mean \"id_file\"?",
	"key_file":              "did you mean \"id_file\"?",
	"private_key":           "did you mean \"id_file\"?",
	"identityfile":          "did you mean \"id_file\"?",
	"identity_file":         "did you mean \"id_file\"?",
	"proxyjump":             "did you mean \"jump\"?",
	"proxy_jump":            "did you mean \"jump\"?",
	"stricthostkeychecking": "host keys are always verified",
	"readonly":              "did you mean \"read_only\"?",
}

func unknownField(schema *jsonschema.Schema, name string) string {
	message := fmt.Sprintf("unknown field %q", name)
	if near := nearest(name, slices.Sorted(maps.Keys(schema.Properties)), 1); len(near) > 0 {
		return fmt.Sprintf("%s; did you mean %q?", message, near[0])
	}
	if hint, ok := mistaken[strings.ToLower(name)]; ok {
		return message + "; " + hint
	}
	return message
}

// subject names what a message is about: device "edge": policy.allow[2].
func (d *document) subject(path []string) string {
	if len(path) == 0 {
		return "the file"
	}
	subject := "entry"
	if index, err := strconv.Atoi(path[0]); err == nil {
		subject = fmt.Sprintf("entry %d", index+1)
		if name, ok := entryName(d.value, index); ok {
			subject = fmt.Sprintf("device %q", name)
		}
	}
	var field strings.Builder
	for i, token := range path[1:] {
		switch {
		case i == 0:
			field.WriteString(": " + token)
		case d.root.find(path[:i+1]).items != nil:
			field.WriteString("[" + token + "]")
		default:
			field.WriteString("." + token)
		}
	}
	return subject + field.String()
}

// literal is a value as the file has it, in short.
func (d *document) literal(at *node) string {
	switch {
	case at.fields != nil:
		return "an object"
	case at.items != nil:
		return "a list"
	}
	text := []rune(string(d.text[at.start:at.end]))
	if len(text) > 64 {
		return string(text[:60]) + "…"
	}
	return string(text)
}

func quoteAll(names []string) []string {
	quoted := make([]string, 0, len(names))
	for _, name := range names {
		quoted = append(quoted, strconv.Quote(name))
	}
	return quoted
}
