package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// What clients attach as context shows the same as the tools, in both
// generations of the protocol.
func TestResourcesPromptsAndCompletion(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{newestProtocol, "2025-11-25"} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			t.Parallel()
			userKey := newKey(t)
			f := newFrontend(t, "")
			f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
			c := connect(t, f.command("stdio"), protocol)

			var listed struct{ Devices []map[string]any }
			decodeResource(t, c, "ssh://devices", &listed)
			var one map[string]any
			decodeResource(t, c, "ssh://devices/"+directDevice, &one)
			if len(listed.Devices) != 1 || one["name"] != directDevice || listed.Devices[0]["name"] != directDevice {
				t.Errorf("ssh://devices: %v, ssh://devices/%s: %v", listed, directDevice, one)
			}
			var policy struct{ Policy []string }
			decodeResource(t, c, "ssh://policy/"+directDevice, &policy)
			if len(policy.Policy) == 0 {
				t.Error("the policy has no words")
			}
			for _, uri := range []string{"ssh://devices/nobody", "ssh://policy/nobody", "ssh://elsewhere"} {
				if _, err := c.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uri}); err == nil {
					t.Errorf("%s was read", uri)
				}
			}

			prompts, err := c.ListPrompts(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, p := range prompts.Prompts {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != "fleet_check safe_change triage_device" {
				t.Errorf("prompts: %s", got)
			}
			triage, err := c.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "triage_device", Arguments: map[string]string{"device": directDevice}})
			if err != nil {
				t.Fatal(err)
			}
			if text, ok := triage.Messages[0].Content.(*mcp.TextContent); !ok || !strings.Contains(text.Text, directDevice) || strings.Contains(text.Text, "{") {
				t.Errorf("triage_device says %v", triage.Messages[0].Content)
			}
			completed, err := c.Complete(t.Context(), &mcp.CompleteParams{
				Ref:      &mcp.CompleteReference{Type: "ref/prompt", Name: "triage_device"},
				Argument: mcp.CompleteParamsArgument{Name: "device", Value: "edge"},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(completed.Completion.Values, []string{directDevice}) {
				t.Errorf("completion of edge: %v", completed.Completion.Values)
			}
		})
	}
}

func decodeResource(t *testing.T, c *client, uri string, value any) {
	t.Helper()
	read, err := c.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: uri})
	if err != nil {
		t.Fatalf("reading %s: %v", uri, err)
	}
	if err := json.Unmarshal([]byte(read.Contents[0].Text), value); err != nil {
		t.Fatalf("%s: %v", uri, err)
	}
}

// status shows an operator what ssh_list_devices shows an agent.
func TestStatus(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.openTunnel(t)
	g.frontend.serve(t)
	c := g.frontend.attach(t)
	c.mustWork(t, tunnelDevice)
	table := runCmd(t, exec.Command(frontendProgram(), "status", "--mcp-socket", g.frontend.mcpSocket))
	if table.code != 0 || !strings.Contains(table.stdout, tunnelDevice) || !strings.Contains(table.stdout, "tunnel up since") {
		t.Errorf("status: exit code %d\n%s%s", table.code, table.stdout, table.stderr)
	}
	var devices struct{ Devices []map[string]any }
	if err := json.Unmarshal(output(t, frontendProgram(), "status", "--json", "--mcp-socket", g.frontend.mcpSocket), &devices); err != nil || len(devices.Devices) != 2 {
		t.Errorf("status --json: %v, %v", devices, err)
	}
	gone := runCmd(t, exec.Command(frontendProgram(), "status", "--mcp-socket", g.frontend.mcpSocket+".gone"))
	if gone.code != 1 || !strings.Contains(gone.stderr, "no daemon serves") {
		t.Errorf("without a daemon: exit code %d, stderr %q", gone.code, gone.stderr)
	}
}
