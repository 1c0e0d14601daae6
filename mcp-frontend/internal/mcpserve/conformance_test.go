package mcpserve_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
)

// The official conformance suite calls tools, resources and prompts by fixed
// names and compares what they answer. mcp-go serves the same fixtures over
// HTTP in examples/conformance; here they are on our transport, and progress
// goes the way of our own tools. There is no test_sampling: see
// scripts/conformance-expected.yml.

const (
	onePixel  = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
	oneSample = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="
)

// object is a JSON object.
type object = map[string]any

func newConformanceMCP() *server.MCPServer {
	srv := server.NewMCPServer("mcpserve-conformance", "1",
		server.WithToolCapabilities(true), server.WithResourceCapabilities(true, true), server.WithPromptCapabilities(true),
		server.WithCompletions(), server.WithLogging(), server.WithElicitation())
	addContentTools(srv)
	addTalkingTools(srv)
	addElicitingTools(srv)
	addResources(srv)
	addPrompts(srv)
	return srv
}

func addContentTools(srv *server.MCPServer) {
	for name, content := range map[string][]mcp.Content{
		"test_simple_text":   {text("This is a simple text response for testing.")},
		"test_image_content": {mcp.NewImageContent(onePixel, "image/png")},
		"test_audio_content": {mcp.NewAudioContent(oneSample, "audio/wav")},
		"test_embedded_resource": {mcp.NewEmbeddedResource(mcp.TextResourceContents{
			URI: "test://embedded-resource", MIMEType: "text/plain", Text: "This is an embedded resource content.",
		})},
		"test_multiple_content_types": {
			text("Multiple content types test:"),
			mcp.NewImageContent(onePixel, "image/png"),
			mcp.NewEmbeddedResource(mcp.TextResourceContents{
				URI: "test://mixed-content-resource", MIMEType: "application/json", Text: `{"test":"data","value":123}`,
			}),
		},
	} {
		addTool(srv, name, func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{Content: content}, nil
		})
	}
	addTool(srv, "test_error_handling", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultError("This tool intentionally returns an error for testing"), nil
	})
}

// addTalkingTools adds the tools that send something before they answer.
func addTalkingTools(srv *server.MCPServer) {
	addTool(srv, "test_tool_with_logging", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for _, message := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			err := srv.SendNotificationToClient(ctx, "notifications/message", object{"level": "info", "logger": "conformance", "data": message})
			if err != nil {
				return nil, err
			}
			pause(ctx)
		}
		return mcp.NewToolResultText("Tool with logging executed successfully"), nil
	})
	addTool(srv, "test_tool_with_progress", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for _, progress := range []float64{0, 50, 100} {
			if err := mcpserve.Progress(ctx, progress, 100, ""); err != nil {
				return nil, err
			}
			pause(ctx)
		}
		return mcp.NewToolResultText("progress reported"), nil
	})
}

func addElicitingTools(srv *server.MCPServer) {
	elicit := func(ctx context.Context, message string, schema object) (*mcp.CallToolResult, error) {
		result, err := srv.RequestElicitation(ctx, mcp.ElicitationRequest{Params: mcp.ElicitationParams{Message: message, RequestedSchema: schema}})
		if err != nil {
			return mcp.NewToolResultError(err.Error()), nil
		}
		content, err := json.Marshal(result.Content)
		if err != nil {
			return nil, err
		}
		return mcp.NewToolResultText(fmt.Sprintf("User response: action=%s, content=%s", result.Action, content)), nil
	}
	account := object{"type": "object", "required": []string{"username", "email"}, "properties": object{
		"username": object{"type": "string", "description": "User's response"},
		"email":    object{"type": "string", "description": "User's email address"},
	}}
	addTool(srv, "test_elicitation", func(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return elicit(ctx, request.GetString("message", ""), account)
	}, mcp.WithString("message", mcp.Required()))

	for name, properties := range map[string]object{
		"test_elicitation_sep1034_defaults": {
			"name":     object{"type": "string", "default": "John Doe"},
			"age":      object{"type": "integer", "default": 30},
			"score":    object{"type": "number", "default": 95.5},
			"status":   object{"type": "string", "enum": []string{"active", "inactive", "pending"}, "default": "active"},
			"verified": object{"type": "boolean", "default": true},
		},
		"test_elicitation_sep1330_enums": {
			"untitledSingle": object{"type": "string", "enum": []string{"option1", "option2"}},
			"titledSingle":   object{"type": "string", "oneOf": titled()},
			"legacyEnum":     object{"type": "string", "enum": []string{"opt1", "opt2"}, "enumNames": []string{"Option One", "Option Two"}},
			"untitledMulti":  object{"type": "array", "items": object{"type": "string", "enum": []string{"option1", "option2"}}},
			"titledMulti":    object{"type": "array", "items": object{"anyOf": titled()}},
		},
	} {
		addTool(srv, name, func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return elicit(ctx, "Please choose", object{"type": "object", "properties": properties})
		})
	}
}

func titled() []object {
	return []object{{"const": "value1", "title": "Value One"}, {"const": "value2", "title": "Value Two"}}
}

func addResources(srv *server.MCPServer) {
	for uri, contents := range map[string]mcp.ResourceContents{
		"test://static-text":   mcp.TextResourceContents{URI: "test://static-text", MIMEType: "text/plain", Text: "This is the content of the static text resource."},
		"test://static-binary": mcp.BlobResourceContents{URI: "test://static-binary", MIMEType: "image/png", Blob: onePixel},
	} {
		srv.AddResource(mcp.NewResource(uri, strings.TrimPrefix(uri, "test://")), func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			return []mcp.ResourceContents{contents}, nil
		})
	}
	srv.AddResourceTemplate(mcp.NewResourceTemplate("test://template/{id}/data", "template"),
		func(_ context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			uri := request.Params.URI
			id := strings.TrimSuffix(strings.TrimPrefix(uri, "test://template/"), "/data")
			body, err := json.Marshal(object{"id": id, "templateTest": true, "data": "Data for ID: " + id})
			return []mcp.ResourceContents{mcp.TextResourceContents{URI: uri, MIMEType: "application/json", Text: string(body)}}, err
		})
}

func addPrompts(srv *server.MCPServer) {
	add := func(name string, argumentNames []string, answer func(map[string]string) []mcp.Content) {
		options := []mcp.PromptOption{mcp.WithPromptDescription("A fixture of the conformance suite")}
		for _, argument := range argumentNames {
			options = append(options, mcp.WithArgument(argument, mcp.RequiredArgument()))
		}
		srv.AddPrompt(mcp.NewPrompt(name, options...), func(_ context.Context, request mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			result := &mcp.GetPromptResult{}
			for _, content := range answer(request.Params.Arguments) {
				result.Messages = append(result.Messages, mcp.PromptMessage{Role: mcp.RoleUser, Content: content})
			}
			return result, nil
		})
	}
	add("test_simple_prompt", nil, func(map[string]string) []mcp.Content {
		return []mcp.Content{text("This is a simple prompt for testing.")}
	})
	add("test_prompt_with_arguments", []string{"arg1", "arg2"}, func(given map[string]string) []mcp.Content {
		return []mcp.Content{text(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", given["arg1"], given["arg2"]))}
	})
	add("test_prompt_with_embedded_resource", []string{"resourceUri"}, func(given map[string]string) []mcp.Content {
		return []mcp.Content{
			mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: given["resourceUri"], MIMEType: "text/plain", Text: "Embedded resource content for testing."}),
			text("Please process the embedded resource above."),
		}
	})
	add("test_prompt_with_image", nil, func(map[string]string) []mcp.Content {
		return []mcp.Content{mcp.NewImageContent(onePixel, "image/png"), text("Please analyze the image above.")}
	})
}

func addTool(srv *server.MCPServer, name string, handler server.ToolHandlerFunc, options ...mcp.ToolOption) {
	srv.AddTool(mcp.NewTool(name, append(options, mcp.WithDescription("A fixture of the conformance suite"))...), handler)
}

func text(s string) mcp.TextContent { return mcp.TextContent{Type: "text", Text: s} }

// pause keeps messages apart that some clients lose when they arrive in one piece.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(60 * time.Millisecond):
	}
}
