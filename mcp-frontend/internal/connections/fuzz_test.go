package connections_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "[]", "\ufeff[]", "{}", "null", "[1, {}]", twoDevices, everyField,
		one(`"port": 23, "tags": ["x", "x"], "nope": {"a": [1e999]}`),
		one(`"policy": {"allow": [], "deny": [null]}, "retry": {"cooldown_s": 1.0}`),
		"[" + jump("a", "b") + "," + jump("b", "a") + "]",
		"[[[[[[]]]]]] ,",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := connections.Parse("dir/c.json", text)
		if err != nil {
			problems, ok := err.(connections.Problems) //nolint:errorlint // the contract is this very type
			if !ok || len(problems) == 0 {
				t.Fatalf("got error %v, want Problems", err)
			}
			for _, problem := range problems {
				if problem.Line < 1 || problem.Column < 1 || problem.Message == "" {
					t.Errorf("bad problem %#v", problem)
				}
			}
			return
		}
		// What was accepted says the same when written by another program.
		var entries []map[string]any
		if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &entries); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		again, err := json.MarshalIndent(entries, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		reparsed, err := connections.Parse("dir/c.json", again)
		if err != nil {
			t.Fatalf("refused after rewriting: %v\n%s", err, again)
		}
		if diff := cmp.Diff(set.Devices(), reparsed.Devices()); diff != "" && len(entries) > 0 {
			t.Errorf("devices after rewriting (-before +after):\n%s", diff)
		}
	})
}
