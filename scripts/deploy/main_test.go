package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binDir holds both programs. TestMain sets it.
var binDir string

var programs = []string{"tunnel-acceptor", "mcp-frontend"}

func TestMain(m *testing.M) {
	var err error
	if binDir, err = os.MkdirTemp("", "deploy-bin"); err == nil {
		err = build()
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(binDir)
	os.Exit(code)
}

// build makes the programs as `make build` does: static, because they run
// where there is nothing but them.
func build() error {
	if err := os.Chmod(binDir, 0o755); err != nil { // other users run them
		return err
	}
	for _, program := range programs {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binDir, "./cmd/"+program)
		cmd.Dir = filepath.Join("..", "..", program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return nil
}

// asRoot is the command that runs words as root.
func asRoot(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	if os.Getuid() != 0 {
		if out, err := exec.CommandContext(t.Context(), "sudo", "-n", "true").CombinedOutput(); err != nil {
			note := fmt.Sprintf("this test needs root, or sudo without a password: %v %s", err, out)
			if os.Getenv("DEPLOY_TEST_ROOT") == "required" {
				t.Fatal(note)
			}
			t.Skip(note)
		}
		words = append([]string{"sudo", "-n"}, words...)
	}
	return exec.CommandContext(t.Context(), words[0], words[1:]...)
}

// read is the text of a file of the repository.
func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// write makes a file and its directories.
func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

// eventually waits up to a minute for check to return "".
func eventually(t *testing.T, check func() (problem string)) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", problem)
		}
		<-tick.C
	}
}

// help is what `PROGRAM COMMAND --help` prints, or the error of arguments that
// the program does not know, which it looks for first.
func help(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(binDir, program), append(args, "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %s", program, strings.Join(args, " "), out)
	}
	return string(out)
}
