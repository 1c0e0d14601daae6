package connections

import (
	_ "embed" // the schema is part of the program
	"maps"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed connections.schema.json
var schemaText string

// compileSchema is called at the first use, not at start-up: most commands of
// the program never read a connections.json.
var compileSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(schemaText))
	if err != nil {
		return nil, err
	}
	const url = "embedded:///connections.schema.json" // a mere name: relative ones are looked up on disk
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(url, value); err != nil {
		return nil, err
	}
	return compiler.Compile(url)
})

// schemaAt is the schema of the value at a path. The library's error tells a
// schema location instead, but not the schema.
func schemaAt(schema *jsonschema.Schema, path []string) *jsonschema.Schema {
	schema = resolve(schema)
	for _, token := range path {
		if schema.Items2020 != nil {
			schema = resolve(schema.Items2020)
		} else {
			schema = resolve(schema.Properties[token])
		}
	}
	return schema
}

func resolve(schema *jsonschema.Schema) *jsonschema.Schema {
	for schema.Ref != nil {
		schema = schema.Ref
	}
	return schema
}

// withDefaults returns a copy of an object in which absent fields have the
// schema's defaults: the schema is where they are written, and nowhere else.
func withDefaults(schema *jsonschema.Schema, object map[string]any) map[string]any {
	filled := maps.Clone(object)
	for name, field := range schema.Properties {
		if _, given := filled[name]; !given && field.Default != nil {
			filled[name] = *field.Default
		}
		if inner, ok := filled[name].(map[string]any); ok {
			filled[name] = withDefaults(resolve(field), inner)
		}
	}
	return filled
}
