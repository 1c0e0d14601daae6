package mcptools

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"regexp"
	"unicode/utf8"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
)

type outputArgs struct {
	OutputID  string `json:"output_id"`
	Stream    string `json:"stream"`
	Offset    int64  `json:"offset"`
	MaxBytes  int    `json:"max_bytes"`
	TailLines int    `json:"tail_lines"`
	Grep      string `json:"grep"`
}

type outputResult struct {
	Content    string `json:"content"`
	Encoding   string `json:"encoding"`
	Offset     int64  `json:"offset"`
	NextOffset int64  `json:"next_offset"`
	EOF        bool   `json:"eof"`
}

func (t *tools) readOutput(ctx context.Context, args outputArgs) result {
	r := t.record(ctx, "tool_called")
	r.Tool = "ssh_output_read"
	if _, err := t.cfg.Record(r); err != nil {
		return failure(auditUnavailable(err))
	}
	if args.TailLines > 0 && (args.Grep != "" || args.Offset != 0) {
		return failure(invalidArgument("tail_lines goes alone: leave offset and grep out"))
	}
	f, err := t.cfg.Outputs.Open(args.OutputID, args.Stream)
	if errors.Is(err, outputs.ErrExpired) {
		return failure(toolError{
			Code: "HANDLE_EXPIRED", Message: "this output is not kept any more", Stage: "arguments",
			Hint: "run the command again, with a narrower command or a higher max_output_bytes", NextTool: "ssh_run", FixBy: byModel,
		})
	}
	if err != nil {
		return failure(t.internal("opening a kept output", err))
	}
	defer func() { _ = f.Close() }()
	part, problem, err := args.read(f)
	switch {
	case problem != "":
		return failure(invalidArgument(problem))
	case err != nil:
		return failure(t.internal("reading a kept output", err))
	}
	content, encoding := encoded(part.Content)
	return result{value: outputResult{content, encoding, part.Offset, part.NextOffset, part.EOF}}
}

// read returns the part that is asked for, or what is wrong with the question.
func (a outputArgs) read(f *os.File) (part outputs.Part, problem string, err error) {
	limit := a.MaxBytes
	if limit == 0 {
		limit = defaultOutputBytes
	}
	switch {
	case a.TailLines > 0:
		part, err = outputs.Tail(f, a.TailLines, limit)
	case a.Grep != "":
		pattern, bad := regexp.Compile(a.Grep)
		if bad != nil {
			return part, "grep: " + bad.Error(), nil //nolint:nilerr // it is the caller's problem, in words
		}
		part, err = outputs.Grep(f, pattern, a.Offset, limit)
	default:
		part, err = outputs.ReadAt(f, a.Offset, limit)
		part = part.WholeRunes()
	}
	return part, "", err
}

// encoded is data as text where it is text.
func encoded(data []byte) (content, encoding string) {
	if isText(data) {
		return string(data), "utf-8"
	}
	return base64.StdEncoding.EncodeToString(data), "base64"
}

// isText says whether data is what people would read. A NUL is valid UTF-8 and
// takes six bytes of JSON; base64 is smaller and says what it is.
func isText(data []byte) bool { return utf8.Valid(data) && !bytes.ContainsRune(data, 0) }

// keeper keeps the whole output of one run, should it be too long.
type keeper struct {
	tools *tools
	id    string
}

// spill opens the place for a stream. Without it, head and tail must do.
func (k *keeper) spill(stream string) io.WriteCloser {
	w, err := k.tools.cfg.Outputs.Create(k.id, stream)
	if err != nil {
		k.tools.cfg.Log.Error("a long output is not kept", "error", err)
		return nil
	}
	return w
}

// keep ends the streams and returns the handle under which both can be read;
// "" if neither was too long.
func (k *keeper) keep(seen remote.Result) string {
	out, errs := seen.Stdout.Spilled(), seen.Stderr.Spilled()
	if !out && !errs {
		return ""
	}
	for stream, c := range map[string]*remote.Capture{"stdout": seen.Stdout, "stderr": seen.Stderr} {
		if c.Truncated() {
			continue // kept, as far as it could be
		}
		if w := k.spill(stream); w != nil {
			_, _ = w.Write(c.Bytes())
			_ = w.Close()
		}
	}
	return k.id
}
