package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// client is a session of the official MCP SDK with the command that it started.
type client struct {
	*mcp.ClientSession
	cmd *exec.Cmd
}

// attach starts the command of the README's client configuration, or the same
// with the files of an overlay. The session ends with the test.
func (p *pair) attach(t *testing.T, command []string) (*client, error) {
	t.Helper()
	cmd := p.at(exec.Command(command[0], command[1:]...))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	sdk := mcp.NewClient(&mcp.Implementation{Name: "compose-test", Version: "1"}, nil)
	session, err := sdk.Connect(ctx, &mcp.CommandTransport{Command: cmd, TerminateDuration: soon}, nil)
	if err != nil {
		return nil, fmt.Errorf("attaching: %w\n%s", err, stderr.String())
	}
	t.Cleanup(func() { _ = session.Close() }) // the test may have ended its server
	return &client{ClientSession: session, cmd: cmd}, nil
}

func (p *pair) mustAttach(t *testing.T, command []string) *client {
	t.Helper()
	c, err := p.attach(t, command)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// call calls a tool and decodes its result. An error is one of the session, not
// of the tool.
func (c *client) call(ctx context.Context, tool string, arguments map[string]any, result any) error {
	answer, err := c.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return err
	}
	content, err := json.Marshal(answer.StructuredContent)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, result)
}

// run is a result of ssh_run.
type run struct {
	Outcome, Executed, Stdout, Via string
	ExitCode                       *int `json:"exit_code"`
	Error                          *toolError
}

type toolError struct {
	Code, Message string
	Retriable     bool
}

// failure is nil for a command that ran and exited with 0.
func (r run) failure() error {
	switch {
	case r.Error != nil:
		return fmt.Errorf("%s: %s (executed %s, retriable %v)", r.Error.Code, r.Error.Message, r.Executed, r.Error.Retriable)
	case r.Outcome != "exited" || r.ExitCode == nil || *r.ExitCode != 0 || r.Executed != "yes":
		return fmt.Errorf("the run did not exit with 0: %+v", r)
	}
	return nil
}

func (c *client) run(ctx context.Context, device, command string) (run, error) {
	var result run
	err := c.call(ctx, "ssh_run", map[string]any{"device": device, "command": command}, &result)
	return result, err
}

// mustRun returns the stdout of a command that must exit with 0.
func (c *client) mustRun(t *testing.T, device, command string) string {
	t.Helper()
	result, err := c.run(t.Context(), device, command)
	if err == nil {
		err = result.failure()
	}
	if err != nil {
		t.Fatalf("%s on %s: %v", command, device, err)
	}
	return strings.TrimSuffix(result.Stdout, "\n")
}

// states are the devices that ssh_list_devices names.
func (c *client) states(t *testing.T) map[string]string {
	t.Helper()
	var list struct {
		Devices []struct{ Name, State string }
	}
	if err := c.call(t.Context(), "ssh_list_devices", map[string]any{}, &list); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, device := range list.Devices {
		states[device.Name] = device.State
	}
	return states
}
