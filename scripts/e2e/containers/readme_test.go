package containers

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// composeLine is a command in the README, on a line of its own or in backquotes.
var composeLine = regexp.MustCompile("docker compose -f compose/[^`\n]*")

// manual is the README, and which of its commands were run.
type manual struct {
	text string
	run  []string
}

func openManual(t *testing.T) *manual {
	t.Helper()
	return &manual{text: read(t, filepath.Join(root, "README.md"))}
}

// line is the one command of the README that contains part, and counts as run.
func (m *manual) line(t *testing.T, part string) string {
	t.Helper()
	var found []string
	for _, line := range composeLine.FindAllString(m.text, -1) {
		if strings.Contains(line, part) && !slices.Contains(found, line) {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the README has %d docker compose commands with %q, want 1: %q", len(found), part, found)
	}
	m.run = append(m.run, found[0])
	return found[0]
}

// clientCommand is what an MCP client starts, as the README configures it.
func (m *manual) clientCommand(t *testing.T) []string {
	t.Helper()
	_, rest, _ := strings.Cut(m.text, "<!-- mcp client -->\n```json\n")
	block, _, _ := strings.Cut(rest, "```")
	var config struct {
		MCPServers map[string]struct {
			Command string
			Args    []string
		}
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(block, "/path/to/", "")), &config); err != nil {
		t.Fatalf("the README's client configuration: %v", err)
	}
	server := config.MCPServers["ssh"]
	return append([]string{server.Command}, server.Args...)
}

// Whose commands the README's are.
func compositionOfDemo(line string) bool { return strings.Contains(line, "demo.yaml") }
func compositionOfPair(line string) bool { return !compositionOfDemo(line) }

// allRun fails for each docker compose command of the README that belongs to
// the composition and was not run.
func (m *manual) allRun(t *testing.T, belongs func(line string) bool) {
	t.Helper()
	for _, line := range composeLine.FindAllString(m.text, -1) {
		if belongs(line) && !slices.Contains(m.run, line) {
			t.Errorf("the README has a command that is not run here: %s", line)
		}
	}
}
