package mcptools

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// The resources show what the tools show, for clients that attach context
// rather than call.
const (
	devicesURI      = "ssh://devices"
	deviceTemplate  = "ssh://devices/{name}"
	policyTemplate  = "ssh://policy/{name}"
	jsonContentType = "application/json"
)

func (t *tools) addResources(s *server.MCPServer) {
	s.AddResource(
		mcp.NewResource(devicesURI, "devices", mcp.WithResourceDescription("All devices with their states, as ssh_list_devices gives them."), mcp.WithMIMEType(jsonContentType)),
		func(ctx context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			return contents(request.Params.URI, map[string]any{"devices": t.devices(ctx, listArgs{})})
		})
	s.AddResourceTemplate(
		mcp.NewResourceTemplate(deviceTemplate, "device", mcp.WithTemplateDescription("One device with its state."), mcp.WithTemplateMIMEType(jsonContentType)),
		func(ctx context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			name := strings.TrimPrefix(request.Params.URI, devicesURI+"/")
			for _, d := range t.devices(ctx, listArgs{}) {
				if d.Name == name {
					return contents(request.Params.URI, d)
				}
			}
			return nil, t.unknownDevice(name)
		})
	s.AddResourceTemplate(
		mcp.NewResourceTemplate(policyTemplate, "policy", mcp.WithTemplateDescription("What may run on a device, in words."), mcp.WithTemplateMIMEType(jsonContentType)),
		func(_ context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			name := strings.TrimPrefix(request.Params.URI, "ssh://policy/")
			if _, err := t.cfg.Pool.Device(name); err != nil {
				return nil, t.unknownDevice(name)
			}
			return contents(request.Params.URI, map[string]any{"device": name, "policy": t.cfg.Policy(name).Words()})
		})
}

// unknownDevice is what the protocol calls a resource that is not there.
func (t *tools) unknownDevice(name string) error {
	_, err := t.cfg.Pool.Device(name)
	return fmt.Errorf("%w: %w", server.ErrResourceNotFound, err)
}

func contents(uri string, value any) ([]mcp.ResourceContents, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", uri, err)
	}
	return []mcp.ResourceContents{mcp.TextResourceContents{URI: uri, MIMEType: jsonContentType, Text: string(text)}}, nil
}

// completions complete the names of devices, wherever one is asked for.
type completions struct{ tools *tools }

// maxCompletions is what the protocol allows at most.
const maxCompletions = 100

func (c completions) complete(prefix string) *mcp.Completion {
	found := &mcp.Completion{Values: []string{}}
	for _, status := range c.tools.cfg.Pool.Status() {
		if !strings.HasPrefix(status.Device.Name, prefix) {
			continue
		}
		found.Total++
		if len(found.Values) < maxCompletions {
			found.Values = append(found.Values, status.Device.Name)
		}
	}
	found.HasMore = found.Total > len(found.Values)
	return found
}

// CompletePromptArgument implements mcp-go's PromptCompletionProvider.
func (c completions) CompletePromptArgument(_ context.Context, _ string, argument mcp.CompleteArgument, _ mcp.CompleteContext) (*mcp.Completion, error) {
	if argument.Name != "device" {
		return &mcp.Completion{Values: []string{}}, nil
	}
	return c.complete(argument.Value), nil
}

// CompleteResourceArgument implements mcp-go's ResourceCompletionProvider.
func (c completions) CompleteResourceArgument(_ context.Context, _ string, argument mcp.CompleteArgument, _ mcp.CompleteContext) (*mcp.Completion, error) {
	return c.complete(argument.Value), nil
}
