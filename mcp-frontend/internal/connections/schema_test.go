package connections_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type schemaObject struct {
	Type                 string
	AdditionalProperties *bool
	Description          string
	Properties           map[string]*schemaObject
	Items                *schemaObject
}

func readSchema(t *testing.T, into any) {
	t.Helper()
	text, err := os.ReadFile("connections.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// The fields that the documentation names are the fields of the schema.
func TestSchemaHasTheDocumentedFields(t *testing.T) {
	var schema schemaObject
	readSchema(t, &schema)
	device := schema.Items
	for _, object := range []struct {
		name       string
		schema     *schemaObject
		documented []string
	}{
		{"device", device, []string{
			"name", "mode", "user", "host", "port", "id_file",
			"description", "tags", "known_hosts", "certificate_file", "jump", "login_shell",
			"connect_timeout_s", "command_timeout_s", "keepalive_s", "max_sessions", "retry", "policy",
		}},
		{"retry", device.Properties["retry"], []string{
			"max_attempts", "initial_backoff_ms", "max_backoff_ms", "cooldown_s",
		}},
		{"policy", device.Properties["policy"], []string{
			"allow", "deny", "approve", "read_only", "shell", "sudo", "read_paths", "write_paths",
			"max_timeout_s", "max_output_bytes", "approve_by",
		}},
	} {
		slices.Sort(object.documented)
		got := slices.Sorted(maps.Keys(object.schema.Properties))
		if diff := cmp.Diff(object.documented, got); diff != "" {
			t.Errorf("%s: fields (-documented +schema):\n%s", object.name, diff)
		}
		if object.schema.AdditionalProperties == nil || *object.schema.AdditionalProperties {
			t.Errorf("%s: additionalProperties is not false", object.name)
		}
		for name, field := range object.schema.Properties {
			if field.Description == "" {
				t.Errorf("%s: field %q has no description", object.name, name)
			}
		}
	}
}

// A field that the schema admits but the code forgets would be ignored silently.
func TestEveryFieldIsRead(t *testing.T) {
	var schema schemaObject
	readSchema(t, &schema)
	var example []map[string]any
	if err := json.Unmarshal([]byte(everyField), &example); err != nil {
		t.Fatal(err)
	}
	for name := range schema.Items.Properties {
		if _, given := example[0][name]; !given {
			t.Errorf("everyField lacks %q", name)
		}
	}
	device, _ := parse(t, everyField).Lookup("web-1")
	for _, part := range []any{device, device.Retry, *device.Policy} {
		value := reflect.ValueOf(part)
		for i := range value.NumField() {
			if value.Field(i).IsZero() {
				t.Errorf("%T.%s is not read", part, value.Type().Field(i).Name)
			}
		}
	}
}

// Every keyword that can refuse a value has its own words in explain.
func TestSchemaUsesOnlyExplainedKeywords(t *testing.T) {
	known := []string{
		// annotations and structure
		"$schema", "$comment", "$ref", "$defs", "title", "description", "default", "items", "properties",
		// explained
		"additionalProperties", "required", "type", "enum", "pattern", "maxLength", "minimum", "maximum", "maxItems", "uniqueItems",
	}
	var check func(schema map[string]any)
	check = func(schema map[string]any) {
		for keyword, value := range schema {
			if !slices.Contains(known, keyword) {
				t.Errorf("the keyword %q would be reported without words", keyword)
			}
			inner, ok := value.(map[string]any)
			switch {
			case !ok:
			case keyword == "items":
				check(inner)
			case keyword == "properties" || keyword == "$defs":
				for name, field := range inner {
					fields, ok := field.(map[string]any)
					if !ok {
						t.Errorf("%s is not an object", name)
					}
					check(fields)
				}
			}
		}
		// "must be a whole number from … to …" needs both.
		if schema["type"] == "integer" && (schema["minimum"] == nil || schema["maximum"] == nil) {
			t.Errorf("a number lacks a bound: %v", schema["description"])
		}
	}
	var schema map[string]any
	readSchema(t, &schema)
	check(schema)
}
