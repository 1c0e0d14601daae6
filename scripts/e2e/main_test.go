package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// binDir holds tunnel-acceptor and mcp-frontend. TestMain sets it.
var binDir string

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for processes far more than they compute.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := flag.Set("test.parallel", "6"); err != nil {
			exit(err)
		}
	}
	if err := requireTools(); err != nil {
		exit(err)
	}
	var err error
	if logins, err = prepareLogins(); err != nil {
		exit(err)
	}
	cleanUp, err := findBinaries()
	if err != nil {
		exit(err)
	}
	code := m.Run()
	cleanUp()
	os.Exit(code)
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	os.Exit(1)
}

// requireTools fails when something that scripts/setup installs is not here.
func requireTools() error {
	// sshd lives where a user's PATH may not lead.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin"); err != nil {
		return err
	}
	var missing []string
	for _, tool := range []string{"sshd", "ssh", "sftp", "ssh-keygen", "ssh-keyscan", "pgrep"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if _, err := os.Stat("/run/sshd"); err != nil && os.Getuid() == 0 {
		missing = append(missing, "/run/sshd")
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing on this machine: %s; run scripts/setup", strings.Join(missing, ", "))
	}
	return nil
}

// findBinaries sets binDir, and builds the programs when they are nowhere.
func findBinaries() (cleanUp func(), err error) {
	nothing := func() {}
	dir, named := os.LookupEnv("E2E_BIN")
	if !named {
		dir = filepath.Join("..", "..", "bin")
	}
	if binDir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	present := true
	for _, program := range []string{"tunnel-acceptor", "mcp-frontend"} {
		_, err := os.Stat(filepath.Join(binDir, program))
		switch {
		case errors.Is(err, fs.ErrNotExist) && !named:
			present = false
		case err != nil:
			return nil, fmt.Errorf("looking for the programs to test: %w", err)
		}
	}
	if present {
		return nothing, nil
	}

	if binDir, err = os.MkdirTemp("", "e2e-bin"); err != nil {
		return nil, err
	}
	cleanUp = func() { _ = os.RemoveAll(binDir) }
	for _, program := range []string{"tunnel-acceptor", "mcp-frontend"} {
		build := exec.Command("go", "build", "-o", binDir, "./cmd/"+program)
		build.Dir = filepath.Join("..", "..", program)
		if out, err := build.CombinedOutput(); err != nil {
			cleanUp()
			return nil, fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return cleanUp, nil
}

// acceptorProgram and frontendProgram are the programs under test.
func acceptorProgram() string { return filepath.Join(binDir, "tunnel-acceptor") }
func frontendProgram() string { return filepath.Join(binDir, "mcp-frontend") }
