package containers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// soon bounds what should happen at once but is no promise of the contract.
const soon = 15 * time.Second

// root is the repository, seen from here.
const root = "../../.."

// testProject is the compose project to work in, and the label of all that the
// test makes beside it: scripts/compose-test.sh removes both.
func testProject(t *testing.T) string {
	t.Helper()
	project := os.Getenv("COMPOSE_TEST_PROJECT")
	if project == "" {
		t.Skip("not run: needs what `make compose-test` prepares")
	}
	return project
}

// must runs cmd to its end and returns its stdout, without the last newline.
func must(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func output(cmd *exec.Cmd) (string, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.String())
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// docker runs the engine's own client.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, exec.CommandContext(t.Context(), "docker", args...))
}

// eventually polls until met returns nil, and fails the test with met's last
// error when that takes longer than within. It returns how long it took.
func eventually(t *testing.T, within time.Duration, what string, met func() error) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := met()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		<-tick.C
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// write makes a file that the containers' users can read too.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// program is the path of one of our programs, built by `make build`.
func program(name string) string { return filepath.Join(root, "bin", name) }
