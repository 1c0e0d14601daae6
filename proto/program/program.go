// Package program is how both programs start and end: flags that are also
// environment variables, one logger on stderr, exit codes, and parts that run
// until the first of them ends. It is given the process's arguments and
// streams by package main and touches neither by itself.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"
)

// The exit codes of both programs.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Program describes a program.
type Program struct {
	Name    string // as it is called; flags become environment variables NAME_FLAG
	About   string // one sentence for --help
	Version string // "" takes the module's version
	CLI     any    // pointer to a struct of kong tags; each command has a Run(context.Context, Streams) error
}

// Streams are the process's own.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run parses args, runs the command they name, and returns the exit code.
// What went wrong is one line (or a list) on streams.Err.
func (p Program) Run(ctx context.Context, args []string, streams Streams) int {
	var ended bool // by --help or --version
	parser, err := kong.New(p.CLI,
		kong.Name(p.Name), kong.Description(p.About),
		kong.Vars{"version": p.Name + " " + Version(p.Version)},
		kong.DefaultEnvars(strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))),
		kong.Writers(streams.Out, streams.Err),
		kong.Exit(func(int) { ended = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		_, _ = fmt.Fprintf(streams.Err, "%s: %v\n", p.Name, err)
		return ExitFailed
	}
	command, err := parser.Parse(args)
	if ended {
		return ExitDone
	}
	if err != nil {
		_, _ = fmt.Fprintf(streams.Err, "%s: %v; see %s --help\n", p.Name, err, p.Name)
		return ExitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	command.Bind(streams)
	if err := command.Run(); err != nil {
		if !errors.Is(err, ErrSaid) {
			_, _ = fmt.Fprintf(streams.Err, "%s: %v\n", p.Name, err)
		}
		return ExitFailed
	}
	return ExitDone
}

// Brief cuts a list of problems, one per line, to its first. all is the
// command that shows the rest.
func Brief(err error, all string) error {
	if err == nil {
		return nil
	}
	first, rest, more := strings.Cut(err.Error(), "\n")
	if !more {
		return err
	}
	return fmt.Errorf("%s (and %d more: run %s)", first, strings.Count(rest, "\n")+1, all)
}

// ErrSaid fails a command that has already said why.
var ErrSaid = errors.New("failed, as said above")

// Version is what a program calls itself: what the linker stamped, else the
// version of its module, which `go install` of a release records.
func Version(stamped string) string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Path is the value of a flag that names a file or directory, and remembers
// whether somebody chose it: a default file may be missing, a named one not.
// It takes no default from kong: see Or.
type Path struct {
	Value string
	Named bool
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Path) UnmarshalText(text []byte) error {
	*p = Path{Value: string(text), Named: true}
	return nil
}

// Or returns p, or def if nobody chose a path.
func (p Path) Or(def string) Path {
	if p.Named {
		return p
	}
	return Path{Value: def}
}

// Log holds the flags of the logger. Embed it in a command.
type Log struct {
	LogFormat string     `help:"Form of the log on stderr: ${enum}." enum:"text,json" default:"text"`
	LogLevel  slog.Level `help:"Least level that is logged: debug, info, warn or error." default:"info"`
}

// New returns the logger that the flags ask for.
func (l Log) New(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.LogLevel}
	if l.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// Size is a number of bytes as an operator writes it: 1048576, 64MiB or 1GiB.
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	number, shift := strings.ReplaceAll(string(text), " ", ""), 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if cut, found := strings.CutSuffix(number, unit); found {
			number, shift = cut, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 32+31-shift)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a size such as 1048576, 64MiB or 1GiB", text)
	}
	*s = Size(n << shift)
	return nil
}

// Together runs parts until the first of them ends, with an error or without,
// then stops the rest by ending their context, waits for all, and returns the
// first error.
func Together(ctx context.Context, parts ...func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	for _, part := range parts {
		group.Go(func() error {
			defer cancel()
			return part(ctx)
		})
	}
	return group.Wait()
}
