package mcptools

import (
	"context"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// prompt is a way of working that a person can pick in a client.
type prompt struct {
	name, description string
	arguments         []mcp.PromptArgument
	text              string // with {ARGUMENT} where a value goes
}

var prompts = []prompt{
	{
		name: "triage_device", description: "Find out what is wrong with a device, changing nothing.",
		arguments: []mcp.PromptArgument{
			{Name: "device", Description: "Name of the device.", Required: true},
			{Name: "symptom", Description: "What was noticed."},
		},
		text: `Find out what is wrong with the device {device}. Noticed so far: {symptom}

Change nothing. Look at its state with ssh_list_devices first; if it cannot be reached, find out why with ssh_diagnose, say so and stop. ssh_device_info tells what it is. Then look at load, memory, disks, failed services and recent errors in the log, one narrow command at a time. End with what you saw, what you conclude from it, and what a person should decide.`,
	},
	{
		name: "safe_change", description: "Make one change on a device, with a way back.",
		arguments: []mcp.PromptArgument{
			{Name: "device", Description: "Name of the device.", Required: true},
			{Name: "change", Description: "What should be different afterwards.", Required: true},
		},
		text: `Make this change on the device {device}: {change}

Before: look at the present state, keep a copy of what you will change, and try the commands with dry_run. Say what you are about to run and how it is undone. Then run one step at a time and check each. If executed is "maybe" or remote_state is "may_be_running", look before you go on. Afterwards: show that the change took effect and that nothing else broke; if it did, undo it.`,
	},
	{
		name: "fleet_check", description: "Ask the same question of many devices.",
		arguments: []mcp.PromptArgument{
			{Name: "question", Description: "What to find out.", Required: true},
			{Name: "tag", Description: "Only devices with this tag."},
		},
		text: `Find out on every device (tag: {tag}): {question}

List the devices with ssh_list_devices. Work on those that can be reached, with the same read-only command on each; a device that is down or backing off is a finding, not a failure: go on without it. End with a table of device, answer and anything unusual, and the devices that could not be asked.`,
	},
}

func addPrompts(s *server.MCPServer) {
	for _, p := range prompts {
		s.AddPrompt(mcp.Prompt{Name: p.name, Description: p.description, Arguments: p.arguments},
			func(_ context.Context, request mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
				text, err := p.fill(request.Params.Arguments)
				if err != nil {
					return nil, err
				}
				return mcp.NewGetPromptResult(p.description, []mcp.PromptMessage{
					mcp.NewPromptMessage(mcp.RoleUser, mcp.NewTextContent(text)),
				}), nil
			})
	}
}

// fill puts the arguments into the text. One that is left out is "(not said)".
func (p prompt) fill(arguments map[string]string) (string, error) {
	var pairs []string
	for _, a := range p.arguments {
		value := strings.TrimSpace(arguments[a.Name])
		if value == "" && a.Required {
			return "", fmt.Errorf("the prompt %s needs the argument %s", p.name, a.Name)
		}
		if value == "" {
			value = "(not said)"
		}
		pairs = append(pairs, "{"+a.Name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(p.text), nil
}
