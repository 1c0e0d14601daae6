package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/program"
)

type auditCmd struct {
	Verify auditVerifyCmd `cmd:"" help:"Check the chain of one or both audit trails."`
	Tail   auditTailCmd   `cmd:"" help:"Show an audit trail to people."`
}

type auditVerifyCmd struct {
	Files []string `arg:"" help:"Current files of the trails; rotated ones beside them are read too."`
	Head  []string `placeholder:"SEQ:HASH" help:"Head that an earlier run printed: fail if a trail does not hold it any more (repeatable)."`
}

// findings is what verify learns from all trails together.
type findings struct {
	wanted  map[audit.Head]bool   // heads of an earlier run, true once seen
	open    map[string]audit.Line // runs that have started and not finished
	granted map[string]bool       // tunnels that an acceptor granted
	used    map[string]audit.Line // tunnels that a run went through
}

// Run fails at the first break of a chain, and at a head that is gone.
func (c *auditVerifyCmd) Run(_ context.Context, streams program.Streams) error {
	f := findings{wanted: map[audit.Head]bool{}, open: map[string]audit.Line{}, granted: map[string]bool{}, used: map[string]audit.Line{}}
	for _, text := range c.Head {
		head, err := audit.ParseHead(text)
		if err != nil {
			return err
		}
		f.wanted[head] = false
	}
	for _, file := range c.Files {
		if err := f.read(file, streams.Out); err != nil {
			return err
		}
	}
	f.report(streams.Out)
	for head, seen := range f.wanted {
		if !seen {
			return fmt.Errorf("no trail holds record %s any more: a file was cut or replaced since", head)
		}
	}
	return nil
}

func (f *findings) read(file string, out io.Writer) error {
	var first, last audit.Line
	err := audit.Walk(file, func(l audit.Line) error {
		if first.Seq == 0 {
			first = l
		}
		last = l
		f.note(l)
		return nil
	}, func(file string, line int) {
		_, _ = fmt.Fprintf(out, "%s:%d: a line that a crash cut short; the chain goes on after it\n", file, line)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: records %d to %d, the chain is whole, head %s\n", file, first.Seq, last.Seq, audit.Head{Seq: last.Seq, Hash: last.Hash})
	return err
}

func (f *findings) note(l audit.Line) {
	head := audit.Head{Seq: l.Seq, Hash: l.Hash}
	if _, wanted := f.wanted[head]; wanted {
		f.wanted[head] = true
	}
	switch l.Event {
	case "run_started", "transfer_started":
		f.open[l.RunID] = l
		if l.TunnelID != "" {
			f.used[l.TunnelID] = l
		}
	case "run_finished", "transfer_finished":
		delete(f.open, l.RunID)
	case "forward_granted":
		f.granted[l.TunnelID] = true
	}
}

// report names what is no break and still worth a look.
func (f *findings) report(out io.Writer) {
	for _, id := range slices.Sorted(maps.Keys(f.open)) {
		l := f.open[id]
		_, _ = fmt.Fprintf(out, "%s:%d: run %s on %s has no end on record: %s\n", l.File, l.Line, id, l.Device, cmp.Or(l.Command, l.Tool+" "+l.Path))
	}
	if len(f.granted) == 0 {
		return // only one side was given: nothing to join
	}
	for _, id := range slices.Sorted(maps.Keys(f.used)) {
		if l := f.used[id]; !f.granted[id] {
			_, _ = fmt.Fprintf(out, "%s:%d: run %s went through tunnel %s, which the acceptor's trail does not have\n", l.File, l.Line, l.RunID, id)
		}
	}
}

type auditTailCmd struct {
	File   string        `arg:"" help:"Current file of the trail."`
	Device string        `help:"Only records about this device."`
	Since  time.Duration `help:"Only records of the last so long, such as 1h."`
	JSON   bool          `name:"json" help:"Print the records as they are."`
	Last   int           `default:"50" help:"At most so many records, the newest."`
}

// Run prints the newest records, one line each.
func (c *auditTailCmd) Run(_ context.Context, streams program.Streams) error {
	var lines []string
	err := audit.Walk(c.File, func(l audit.Line) error {
		if c.Device != "" && l.Device != c.Device || c.Since > 0 && time.Since(l.Time) > c.Since {
			return nil
		}
		text := oneLine(l.Record)
		if c.JSON {
			data, err := json.Marshal(l.Record)
			if err != nil {
				return err
			}
			text = string(data)
		}
		if lines = append(lines, text); len(lines) > 2*c.Last {
			lines = slices.Clone(lines[len(lines)-c.Last:])
		}
		return nil
	}, func(string, int) {})
	if _, broken := errors.AsType[*audit.BrokenError](err); err != nil && !broken {
		return err
	}
	for _, line := range lines[max(0, len(lines)-c.Last):] {
		_, _ = fmt.Fprintln(streams.Out, line)
	}
	return err // a break is told after what could be read
}

// oneLine is a record for people.
func oneLine(r audit.Record) string {
	words := []string{r.Time.Local().Format("2006-01-02 15:04:05"), fmt.Sprintf("%6d", r.Seq), r.Event}
	for _, field := range []struct{ name, value string }{
		{"device", r.Device},
		{"remote", r.Remote},
		{"tunnel", r.TunnelID},
		{"run", r.RunID},
		{"outcome", r.Outcome},
		{"executed", r.Executed},
		{"decision", r.Decision},
		{"approval", r.ApprovalID},
		{"decided_by", r.DecidedBy},
		{"command", r.Command},
		{"path", r.Path},
		{"local_path", r.LocalPath},
		{"reason", r.Reason},
	} {
		if field.value != "" {
			words = append(words, fmt.Sprintf("%s=%q", field.name, field.value))
		}
	}
	if r.Client != nil {
		words = append(words, fmt.Sprintf("client=%q", r.Client.Name))
	}
	if r.ExitCode != nil {
		words = append(words, fmt.Sprintf("exit=%d", *r.ExitCode))
	}
	return strings.Join(words, "  ")
}
