package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

// statusTimeout is above the daemon's own wait for the acceptor.
const statusTimeout = 5 * time.Second

type statusCmd struct {
	socketFlag
	JSON bool `name:"json" help:"Print JSON, as ssh_list_devices gives it."`
}

// Run shows what the daemon knows of its devices.
func (c *statusCmd) Run(ctx context.Context, streams program.Streams) error {
	answer, err := c.ask(ctx, "tools/call", `{"name":"ssh_list_devices","arguments":{}}`, statusTimeout)
	if err != nil {
		return err
	}
	var listed struct {
		IsError           bool
		StructuredContent json.RawMessage
	}
	if err := json.Unmarshal(answer, &listed); err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	if listed.IsError {
		return fmt.Errorf("the daemon says: %s", listed.StructuredContent)
	}
	if c.JSON {
		_, err := fmt.Fprintf(streams.Out, "%s\n", listed.StructuredContent)
		return err
	}
	return statusTable(streams.Out, listed.StructuredContent)
}

func statusTable(w io.Writer, devices json.RawMessage) error {
	var list struct {
		Devices []struct {
			Name, Mode, State string
			Failures          int
			LastError         string `json:"last_error"`
			RetryAfterS       int    `json:"retry_after_s"`
			Tunnel            *struct {
				Since          *time.Time
				LastDown       *time.Time `json:"last_down"`
				LastDownReason string     `json:"last_down_reason"`
			}
		}
	}
	if err := json.Unmarshal(devices, &list); err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "DEVICE\tMODE\tSTATE\tFAILURES\tABOUT")
	for _, d := range list.Devices {
		about := d.LastError
		switch {
		case d.RetryAfterS > 0:
			about = fmt.Sprintf("tried again in %d s; %s", d.RetryAfterS, d.LastError)
		case d.Tunnel != nil && d.Tunnel.Since != nil:
			about = "tunnel up since " + d.Tunnel.Since.Local().Format(time.DateTime)
			if d.LastError != "" {
				about = d.LastError + "; " + about
			}
		case d.Tunnel != nil && d.Tunnel.LastDown != nil:
			about = "tunnel lost at " + d.Tunnel.LastDown.Local().Format(time.DateTime) + ": " + d.Tunnel.LastDownReason
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\n", d.Name, d.Mode, d.State, d.Failures, plain(about))
	}
	return tw.Flush()
}

// plain keeps what a device or a peer said from steering the terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// ask sends the daemon one request, as any MCP client may, and returns its
// result.
func (f socketFlag) ask(ctx context.Context, method, params string, patience time.Duration) (json.RawMessage, error) {
	conn, err := localsocket.Dial(ctx, f.MCPSocket)
	if err != nil {
		return nil, fmt.Errorf("no daemon serves on %s: %w", f.MCPSocket, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, `{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`+"\n", method, params); err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	const maxAnswer = 16 << 20
	line, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the daemon does not answer: %w", err)
	}
	var answer struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	switch err := json.Unmarshal(line, &answer); {
	case err != nil:
		return nil, fmt.Errorf("reading the daemon's answer: %w", err)
	case answer.Error != nil:
		return nil, fmt.Errorf("the daemon refused: %s", answer.Error.Message)
	case answer.Result == nil:
		return nil, errors.New("the daemon gave an answer that is none")
	}
	return answer.Result, nil
}
