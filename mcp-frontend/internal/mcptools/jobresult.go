package mcptools

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
)

// jobResult is a job as the tools tell it.
type jobResult struct {
	JobID              string     `json:"job_id"`
	Device             string     `json:"device"`
	Name               string     `json:"name"`
	Command            string     `json:"command"`
	State              string     `json:"state"`
	Executed           string     `json:"executed"`
	ExitCode           *int       `json:"exit_code"`
	Signal             string     `json:"signal"`
	Reason             string     `json:"reason"`
	Stdout             string     `json:"stdout"`
	Stderr             string     `json:"stderr"`
	Encoding           string     `json:"encoding"`
	Cursor             string     `json:"cursor"`
	More               bool       `json:"more"`
	StdoutBytes        int64      `json:"stdout_bytes"`
	StderrBytes        int64      `json:"stderr_bytes"`
	Truncated          bool       `json:"truncated"`
	SurvivesDisconnect bool       `json:"survives_disconnect"`
	StartedAt          *time.Time `json:"started_at"`
	EndedAt            *time.Time `json:"ended_at"`
	MaxRuntimeS        int        `json:"max_runtime_s"`
	Error              *toolError `json:"error,omitempty"`
}

// maxShownCommand bounds the command in a result: a list has many.
const maxShownCommand = 200

func newJobResult(j jobs.Job) jobResult {
	command := j.Command
	if len(command) > maxShownCommand {
		command = strings.ToValidUTF8(command[:maxShownCommand], "") + "..."
	}
	return jobResult{
		JobID: j.ID, Device: j.Device, Name: j.Name, Command: command, State: string(j.State), Executed: j.Executed(),
		ExitCode: j.ExitCode, Signal: j.Signal, Reason: j.Reason, Encoding: "utf-8", Cursor: cursor{}.String(),
		StdoutBytes: j.StdoutBytes, StderrBytes: j.StderrBytes, Truncated: j.Truncated,
		SurvivesDisconnect: j.Detached, StartedAt: j.StartedAt, EndedAt: j.EndedAt, MaxRuntimeS: int(j.MaxRuntime.Seconds()),
	}
}

// fail says that the device could not be asked, and so what is not known.
func (r *jobResult) fail(e toolError) {
	if r.State == string(jobs.Running) {
		r.State = string(jobs.Unreachable)
	}
	r.Error = &e
}

// add puts in the output from the cursor on.
func (r *jobResult) add(j jobs.Job, out [2][]byte, at cursor) {
	sizes := [2]int64{j.StdoutBytes, j.StderrBytes}
	for i := range out {
		whole := j.State.Over() && at[i]+int64(len(out[i])) >= sizes[i]
		if !whole {
			out[i] = wholeRunes(out[i])
		}
		at[i] += int64(len(out[i]))
		r.More = r.More || len(out[i]) > 0 && at[i] < sizes[i]
	}
	r.Cursor = at.String()
	r.Stdout, r.Stderr = string(out[0]), string(out[1])
	if !isText(out[0]) || !isText(out[1]) {
		r.Encoding = "base64"
		r.Stdout, r.Stderr = base64.StdEncoding.EncodeToString(out[0]), base64.StdEncoding.EncodeToString(out[1])
	}
}

// wholeRunes leaves out a rune that is cut off at the end of what is text
// otherwise: the next part begins with it.
func wholeRunes(data []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(data); i++ {
		if at := len(data) - i; utf8.RuneStart(data[at]) {
			if !utf8.FullRune(data[at:]) && utf8.Valid(data[:at]) {
				return data[:at]
			}
			break
		}
	}
	return data
}

// cursor is how far both streams of a job have been read.
type cursor [2]int64

func (c cursor) String() string { return fmt.Sprintf("%d.%d", c[0], c[1]) }

func parseCursor(text string) (cursor, error) {
	var c cursor
	if text == "" {
		return c, nil
	}
	for i, part := range strings.SplitN(text, ".", len(c)) {
		n, err := strconv.ParseInt(part, 10, 64)
		if err != nil || n < 0 || n > maxCursor || !strings.Contains(text, ".") {
			return c, errors.New("cursor must be one that ssh_job_get has returned")
		}
		c[i] = n
	}
	return c, nil
}

// maxCursor is above what any stream has.
const maxCursor = 1 << 40

// readHeld reads the output of a job that the gateway holds, and notes in j
// how much there is.
func (t *tools) readHeld(j *jobs.Job, at cursor, window int) (out [2][]byte) {
	for i, stream := range []string{"stdout", "stderr"} {
		f, err := t.cfg.Outputs.Open(j.OutputID, stream)
		if err != nil {
			continue // it has none, or it is kept no more
		}
		if part, err := outputs.ReadAt(f, at[i], window); err == nil {
			out[i] = part.Content
		}
		if info, err := f.Stat(); err == nil {
			size := []*int64{&j.StdoutBytes, &j.StderrBytes}[i]
			*size = max(*size, info.Size())
		}
		_ = f.Close()
	}
	return out
}
