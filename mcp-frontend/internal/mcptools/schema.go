package mcptools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

func compile(name string, schema json.RawMessage) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	return c.Compile(name)
}

// withError allows an error beside the properties of an output schema. What an
// error says is the same for all tools and in the server's instructions: its
// fields here, fifteen times, would cost a model two kilobytes of its context.
func withError(schema json.RawMessage) (json.RawMessage, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(schema, &doc); err != nil {
		return nil, fmt.Errorf("reading the schema: %w", err)
	}
	var properties map[string]json.RawMessage
	if err := json.Unmarshal(doc["properties"], &properties); err != nil {
		return nil, fmt.Errorf("reading the schema's properties: %w", err)
	}
	properties["error"] = json.RawMessage(`{"type":"object"}`)
	all, err := json.Marshal(properties)
	if err != nil {
		return nil, err
	}
	doc["properties"] = all
	return json.Marshal(doc)
}

func compact(schema json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, schema) != nil {
		return schema // New has compiled it: it is JSON
	}
	return b.Bytes()
}

// validated checks arguments and returns them as JSON, or what is wrong with
// them in words. Arguments that are left out are an empty object.
func validated(schema *jsonschema.Schema, arguments any) (raw json.RawMessage, problem string) {
	raw, err := json.Marshal(arguments)
	if err != nil {
		return nil, err.Error()
	}
	if string(raw) == "null" { // some clients send null for none
		raw = json.RawMessage("{}")
	}
	return raw, check(schema, raw)
}

// check says in words why text does not fit schema, "" if it does.
func check(schema *jsonschema.Schema, text []byte) string {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err.Error()
	}
	err = schema.Validate(value)
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return ""
	}
	var problems []string
	for _, leaf := range leaves(invalid) {
		problems = append(problems, words(schema, leaf))
	}
	slices.Sort(problems)
	return strings.Join(slices.Compact(problems), "; ")
}

func leaves(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var all []*jsonschema.ValidationError
	for _, cause := range e.Causes {
		all = append(all, leaves(cause)...)
	}
	return all
}

// words says what is wrong in the terms of the arguments, not of the schema.
func words(schema *jsonschema.Schema, e *jsonschema.ValidationError) string {
	where := strings.Join(e.InstanceLocation, ".")
	if where == "" {
		where = "the arguments"
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		return "missing " + strings.Join(k.Missing, ", ")
	case *kind.AdditionalProperties:
		return fmt.Sprintf("unknown argument %s; allowed are %s", strings.Join(k.Properties, ", "), strings.Join(properties(schema), ", "))
	case *kind.Type:
		return fmt.Sprintf("%s must be %s, not %s", where, strings.Join(k.Want, " or "), k.Got)
	case *kind.Enum:
		return fmt.Sprintf("%s must be one of %s", where, list(k.Want))
	case *kind.Minimum:
		return fmt.Sprintf("%s must be at least %s", where, k.Want.RatString())
	case *kind.Maximum:
		return fmt.Sprintf("%s must be at most %s", where, k.Want.RatString())
	case *kind.Pattern:
		return fmt.Sprintf("%s must be %s", where, schema.Properties[e.InstanceLocation[0]].Comment)
	case *kind.MinLength:
		return fmt.Sprintf("%s must not be empty", where)
	case *kind.MaxLength:
		return fmt.Sprintf("%s has %d characters, at most %d are taken", where, k.Got, k.Want)
	}
	return fmt.Sprintf("%s: %v", where, e.Error())
}

func properties(schema *jsonschema.Schema) []string {
	var names []string
	for name := range schema.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func list(values []any) string {
	words := make([]string, 0, len(values))
	for _, v := range values {
		words = append(words, fmt.Sprint(v))
	}
	return strings.Join(words, ", ")
}
