package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// client is a session of the official MCP SDK with a server that it started,
// as Claude Desktop or an IDE starts one.
type client struct {
	*mcp.ClientSession
	server *exec.Cmd
}

// newestProtocol lets the SDK choose: the newest version that both sides speak.
const newestProtocol = ""

// connect starts the server and opens a session. Both end with the test. What
// the server wrote to stderr and the messages exchanged are shown on failure.
func connect(t *testing.T, server *exec.Cmd, protocol string) *client {
	t.Helper()
	return connectWith(t, server, protocol, nil)
}

// connectWith is connect for a client with options, which may be nil.
func connectWith(t *testing.T, server *exec.Cmd, protocol string, options *mcp.ClientOptions) *client {
	t.Helper()
	dir := t.TempDir()
	stderr, messages := filepath.Join(dir, "stderr"), filepath.Join(dir, "messages")
	stderrFile, messagesFile := create(t, stderr), create(t, messages)
	server.Stderr = stderrFile
	t.Cleanup(func() {
		_, _ = stderrFile.Close(), messagesFile.Close()
		if t.Failed() {
			t.Logf("stderr of %v:\n%s", server.Args, tail(t, stderr))
			t.Logf("its MCP messages:\n%s", tail(t, messages))
		}
	})

	transport := &mcp.LoggingTransport{
		Transport: &mcp.CommandTransport{Command: server, TerminateDuration: soon},
		Writer:    messagesFile,
	}
	sdk := mcp.NewClient(&mcp.Implementation{Name: "e2e", Version: "1"}, options)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*soon)
	defer cancel()
	session, err := sdk.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: protocol})
	if err != nil {
		if server.Process != nil {
			_ = server.Process.Kill()
		}
		t.Fatalf("opening an MCP session with %v: %v", server.Args, err)
	}
	t.Cleanup(func() { _ = session.Close() }) // the server may have been ended by the test
	return &client{ClientSession: session, server: server}
}

func (c *client) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := c.server.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// args are a tool's arguments.
type args map[string]any

// callTool makes one tool call. A JSON-RPC error fails the test: whatever goes
// wrong at a device or with arguments is a tool result. Of every result it
// checks that its two forms hold the same facts.
func (c *client) callTool(t *testing.T, tool string, arguments args) *mcp.CallToolResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*soon)
	defer cancel()
	result, err := c.CallTool(ctx, toolCall(tool, arguments))
	if err != nil {
		t.Fatalf("%s %v: %v", tool, arguments, err)
	}
	if result.StructuredContent == nil || len(result.Content) != 1 {
		t.Fatalf("%s %v: want structuredContent and one block, got %v and %d blocks", tool, arguments, result.StructuredContent, len(result.Content))
	}
	block, ok := result.Content[0].(*mcp.TextContent)
	if !ok {
		t.Fatalf("%s %v: want a text block, got %T", tool, arguments, result.Content[0])
	}
	var text any
	if err := json.Unmarshal([]byte(block.Text), &text); err != nil {
		t.Fatalf("%s %v: the text is no JSON: %v\n%s", tool, arguments, err, block.Text)
	}
	if diff := cmp.Diff(result.StructuredContent, text); diff != "" {
		t.Fatalf("%s %v: structuredContent and text differ (-structured +text):\n%s", tool, arguments, diff)
	}
	return result
}

// decode reads a result's structured content.
func decode[T any](t *testing.T, result *mcp.CallToolResult) T {
	t.Helper()
	content, err := json.Marshal(result.StructuredContent)
	if err != nil {
		t.Fatal(err)
	}
	var into T
	if err := json.NewDecoder(bytes.NewReader(content)).Decode(&into); err != nil {
		t.Fatalf("reading a result: %v\n%s", err, content)
	}
	return into
}

// listedDevice is a device as ssh_list_devices tells it.
type listedDevice struct {
	Name      string `json:"name"`
	Mode      string `json:"mode"`
	State     string `json:"state"`
	Failures  int    `json:"failures"`
	LastError any    `json:"last_error"`
}

func (c *client) devices(t *testing.T) map[string]listedDevice {
	t.Helper()
	result := c.callTool(t, "ssh_list_devices", args{})
	if result.IsError {
		t.Fatalf("ssh_list_devices: %v", result.StructuredContent)
	}
	list := decode[struct {
		Devices []listedDevice `json:"devices"`
	}](t, result)
	devices := map[string]listedDevice{}
	for _, device := range list.Devices {
		devices[device.Name] = device
	}
	if len(devices) != len(list.Devices) {
		t.Fatalf("ssh_list_devices names a device twice: %v", list.Devices)
	}
	return devices
}

func toolCall(tool string, arguments args) *mcp.CallToolParams {
	return &mcp.CallToolParams{Name: tool, Arguments: arguments}
}
