package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

type testCLI struct {
	Show showCmd `cmd:"" help:"Show the flags."`
}

type showCmd struct {
	Keys Path `help:"Keys."`
	Max  Size `default:"64MiB" help:"Size."`
	Fail bool `help:"Fail."`
}

func (c *showCmd) Run(_ context.Context, s Streams) error {
	if c.Fail {
		return errors.New("it failed")
	}
	_, err := fmt.Fprintf(s.Out, "%+v %d", c.Keys.Or("data/keys"), c.Max)
	return err
}

func TestRun(t *testing.T) {
	for name, tt := range map[string]struct {
		args     []string
		env      map[string]string
		wantCode int
		wantOut  string
		wantErr  string
	}{
		"defaults":      {args: []string{"show"}, wantOut: "{Value:data/keys Named:false} 67108864"},
		"named path":    {args: []string{"show", "--keys", "data/keys"}, wantOut: "{Value:data/keys Named:true} 67108864"},
		"empty path":    {args: []string{"show", "--keys", ""}, wantOut: "{Value: Named:true} 67108864"},
		"by variable":   {args: []string{"show"}, env: map[string]string{"THE_PROG_KEYS": "k", "THE_PROG_MAX": "1KiB"}, wantOut: "{Value:k Named:true} 1024"},
		"failure":       {args: []string{"show", "--fail"}, wantCode: ExitFailed, wantErr: "the-prog: it failed\n"},
		"unknown flag":  {args: []string{"show", "--what"}, wantCode: ExitUsage, wantErr: "unknown flag --what"},
		"no command":    {wantCode: ExitUsage, wantErr: "expected"},
		"bad size":      {args: []string{"show", "--max", "many"}, wantCode: ExitUsage, wantErr: "is not a size"},
		"size overflow": {args: []string{"show", "--max", "9999999999GiB"}, wantCode: ExitUsage, wantErr: "is not a size"},
		"version":       {args: []string{"--version"}, wantOut: "the-prog v1"},
		"help":          {args: []string{"--help"}, wantOut: "Usage: the-prog"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			var out, errs bytes.Buffer
			var cli struct {
				testCLI
				Version kong.VersionFlag `name:"version" help:"Version."`
			}
			code := Program{Name: "the-prog", Version: "v1", CLI: &cli}.Run(t.Context(), tt.args, Streams{Out: &out, Err: &errs})
			if code != tt.wantCode || !strings.Contains(out.String(), tt.wantOut) || !strings.Contains(errs.String(), tt.wantErr) {
				t.Errorf("got code %d, out %q, err %q; want %d, %q, %q", code, &out, &errs, tt.wantCode, tt.wantOut, tt.wantErr)
			}
		})
	}
}

func TestTogetherStopsTheRestWhenOneEndsWithoutAnError(t *testing.T) {
	stopped := false
	err := Together(t.Context(),
		func(context.Context) error { return nil },
		func(ctx context.Context) error {
			<-ctx.Done()
			stopped = true
			return nil
		})
	if err != nil || !stopped {
		t.Errorf("got error %v, stopped %v; want nil and true", err, stopped)
	}
}
