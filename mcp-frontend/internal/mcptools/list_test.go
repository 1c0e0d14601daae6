package mcptools

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/tools_list.json")

// What clients rely on changes only on purpose: go test -update.
func TestToolsListIsGolden(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "")
	var ignored struct{}
	text := g.ask(t, "tools/list", nil, &ignored)
	if len(text) > 20<<10 {
		t.Errorf("tools/list has %d bytes, at most 20 KiB are promised", len(text))
	}
	var got bytes.Buffer
	if err := json.Indent(&got, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	golden := filepath.Join("testdata", "tools_list.json")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("tools/list has changed (-want +got); go test ./internal/mcptools -update rewrites it:\n%s", diff)
	}
}

func TestEveryToolIsDescribed(t *testing.T) {
	t.Parallel()
	for name, tool := range newGateway(t, "").lists {
		if tool.Title == "" || tool.Description == "" || len(tool.OutputSchema) == 0 {
			t.Errorf("%s has no title, description or output schema", name)
		}
		for _, hint := range []string{"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} {
			if _, ok := tool.Annotations[hint]; !ok {
				t.Errorf("%s does not say its %s", name, hint)
			}
		}
		var input struct {
			Type                 string
			AdditionalProperties *bool
			Properties           map[string]struct {
				Description string
				Enum        []string
			}
		}
		if err := json.Unmarshal(tool.InputSchema, &input); err != nil {
			t.Fatal(err)
		}
		if input.Type != "object" || input.AdditionalProperties == nil || *input.AdditionalProperties {
			t.Errorf("%s takes arguments that nobody knows", name)
		}
		for argument, property := range input.Properties {
			if property.Description == "" && len(property.Enum) == 0 {
				t.Errorf("%s: argument %s is not described", name, argument)
			}
		}
	}
}

// Each client pays for the instructions with every conversation.
func TestInstructionsAreShort(t *testing.T) {
	t.Parallel()
	if len(Instructions) > 1<<10 {
		t.Errorf("the instructions have %d bytes, at most 1024 are promised", len(Instructions))
	}
}
