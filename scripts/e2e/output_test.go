package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOutput(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)
	files := shortDir(t) // what the device's user can read
	onDevice := func(t *testing.T, content []byte) string {
		t.Helper()
		path := filepath.Join(files, strings.ReplaceAll(t.Name(), "/", "-"))
		write(t, path, string(content), 0o644)
		return path
	}

	t.Run("streams stay apart", func(t *testing.T) {
		run := c.run(t, directDevice, "ls /etc/hostname /nonexistent")
		run.exited(t, 2)
		if run.Stdout != "/etc/hostname\n" {
			t.Errorf("stdout: got %q", run.Stdout)
		}
		if !strings.Contains(run.Stderr, "/nonexistent") || strings.Contains(run.Stderr, "/etc/hostname") {
			t.Errorf("stderr: got %q", run.Stderr)
		}
		if run.StdoutBytes != int64(len(run.Stdout)) || run.StderrBytes != int64(len(run.Stderr)) {
			t.Errorf("stdout_bytes %d of %q, stderr_bytes %d of %q", run.StdoutBytes, run.Stdout, run.StderrBytes, run.Stderr)
		}
		if run.Encoding != "utf-8" || run.Truncated {
			t.Errorf("encoding %q, truncated %v", run.Encoding, run.Truncated)
		}
	})

	t.Run("binary", func(t *testing.T) {
		want := make([]byte, 4096)
		if _, err := rand.Read(want); err != nil {
			t.Fatal(err)
		}
		run := c.run(t, directDevice, "cat "+onDevice(t, want))
		run.exited(t, 0)
		if run.Encoding != "base64" {
			t.Errorf("encoding: got %q, want base64", run.Encoding)
		}
		if got := run.bytes(t, run.Stdout); !bytes.Equal(got, want) || run.StdoutBytes != 4096 || run.Truncated {
			t.Errorf("%d bytes came back of 4096 (equal %v), stdout_bytes %d, truncated %v", len(got), bytes.Equal(got, want), run.StdoutBytes, run.Truncated)
		}
	})

	t.Run("every byte", func(t *testing.T) {
		want := make([]byte, 256)
		for i := range want {
			want[i] = byte(i)
		}
		run := c.run(t, directDevice, "cat "+onDevice(t, want))
		run.exited(t, 0)
		if got := run.bytes(t, run.Stdout); !bytes.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})

	t.Run("binary beside text", func(t *testing.T) {
		// encoding covers both streams, so stderr is base64 too.
		run := c.run(t, directDevice, "cat "+onDevice(t, []byte("\xff\xfe"))+" /nonexistent")
		run.exited(t, 1)
		if got := run.bytes(t, run.Stdout); string(got) != "\xff\xfe" {
			t.Errorf("stdout: got %q", got)
		}
		if got := run.bytes(t, run.Stderr); !strings.Contains(string(got), "/nonexistent") {
			t.Errorf("stderr: got %q", got)
		}
	})

	t.Run("long", func(t *testing.T) {
		var full strings.Builder
		for i := range 20000 {
			fmt.Fprintln(&full, i+1)
		}
		for _, limit := range []int{0, 1000, 50000} {
			t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
				most, more := 16<<10, args{}
				if limit > 0 {
					most, more = limit, args{"max_output_bytes": limit}
				}
				run := c.run(t, directDevice, "seq 1 20000", more)
				run.exited(t, 0)
				headAndTail(t, run, full.String(), most)
			})
		}
		t.Run("fits", func(t *testing.T) {
			run := c.run(t, directDevice, "seq 1 20000", args{"max_output_bytes": 200000})
			run.exited(t, 0)
			if run.Stdout != full.String() || run.Truncated {
				t.Errorf("got %d bytes, truncated %v", len(run.Stdout), run.Truncated)
			}
		})
	})

	t.Run("long stderr", func(t *testing.T) {
		// max_output_bytes is per stream: what stderr says does not take stdout's room.
		run := c.run(t, directDevice, "seq 1 2000 | xargs ls; echo short")
		run.exited(t, 0)
		if !run.Truncated || run.StderrBytes < 40000 || run.Stdout != "short\n" {
			t.Errorf("truncated %v, stderr_bytes %d, stdout %q", run.Truncated, run.StderrBytes, run.Stdout)
		}
	})

	t.Run("long and not ascii", func(t *testing.T) {
		// Cutting must not split a character and so turn text into base64.
		content := strings.Repeat("✓", 40000)
		run := c.run(t, directDevice, "cat "+onDevice(t, []byte(content)))
		run.exited(t, 0)
		if run.Encoding != "utf-8" || !run.Truncated || !utf8.ValidString(run.Stdout) || strings.ContainsRune(run.Stdout, utf8.RuneError) {
			t.Errorf("encoding %q, truncated %v, stdout begins %.20q", run.Encoding, run.Truncated, run.Stdout)
		}
		if run.StdoutBytes != int64(len(content)) {
			t.Errorf("stdout_bytes: got %d, want %d", run.StdoutBytes, len(content))
		}
	})

	t.Run("much", func(t *testing.T) {
		// 64 MiB pass through without being kept in memory or in the answer.
		run := c.run(t, directDevice, "head -c 67108864 /dev/zero", args{"timeout_s": 40})
		run.exited(t, 0)
		if !run.Truncated || run.StdoutBytes != 64<<20 || len(run.Stdout) > 64<<10 {
			t.Errorf("truncated %v, stdout_bytes %d, %d bytes of text", run.Truncated, run.StdoutBytes, len(run.Stdout))
		}
	})

	c.mustWork(t, directDevice)
}

// headAndTail checks an output that was too long to be returned whole.
func headAndTail(t *testing.T, run runResult, full string, most int) {
	t.Helper()
	if !run.Truncated || run.StdoutBytes != int64(len(full)) {
		t.Errorf("truncated %v, stdout_bytes %d, want true and %d", run.Truncated, run.StdoutBytes, len(full))
	}
	if run.OutputID == nil || *run.OutputID == "" {
		t.Errorf("output_id: got %v of a truncated output", show(run.OutputID))
	}
	const marker = 200 // room for the words that say what is left out
	if len(run.Stdout) > most+marker {
		t.Errorf("got %d bytes, want at most %d", len(run.Stdout), most)
	}
	if len(run.Stdout) < most/2 {
		t.Errorf("got %d bytes, want about %d", len(run.Stdout), most)
	}
	edge := most / 8
	if !strings.HasPrefix(run.Stdout, full[:edge]) {
		t.Errorf("the head is missing: stdout begins %.80q", run.Stdout)
	}
	if !strings.HasSuffix(run.Stdout, full[len(full)-edge:]) {
		t.Errorf("the tail is missing: stdout ends %q", run.Stdout[max(0, len(run.Stdout)-80):])
	}
}

// What was too long is read in full by its handle.
func TestOutputRead(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)
	run := c.run(t, directDevice, "seq 1 100000; ls /nonexistent")
	if run.OutputID == nil || *run.OutputID == "" {
		t.Fatalf("no output_id: %+v", run)
	}
	type part struct {
		Content    string
		Encoding   string
		Offset     int64
		NextOffset int64 `json:"next_offset"`
		EOF        bool
		Error      *toolError
	}
	read := func(more args) part {
		t.Helper()
		more["output_id"] = *run.OutputID
		if more["stream"] == nil {
			more["stream"] = "stdout"
		}
		return decode[part](t, c.callTool(t, "ssh_output_read", more))
	}
	var full, got strings.Builder
	for i := range 100000 {
		fmt.Fprintln(&full, i+1)
	}
	for p := (part{}); !p.EOF; {
		p = read(args{"offset": p.NextOffset, "max_bytes": 300000})
		if p.Error != nil || p.Content == "" {
			t.Fatalf("reading on from %d: %+v", got.Len(), p)
		}
		got.WriteString(p.Content)
	}
	if got.String() != full.String() {
		t.Errorf("read %d bytes, want the %d of seq", got.Len(), full.Len())
	}
	if p := read(args{"tail_lines": 2}); p.Content != "99999\n100000\n" || !p.EOF {
		t.Errorf("tail_lines 2: %+v", p)
	}
	if p := read(args{"grep": "^7777[0-2]$"}); p.Content != "77770\n77771\n77772\n" || !p.EOF {
		t.Errorf("grep: %+v", p)
	}
	if p := read(args{"stream": "stderr"}); !strings.Contains(p.Content, "/nonexistent") {
		t.Errorf("stderr, which was short: %+v", p)
	}
	for name, tt := range map[string]struct {
		more args
		code string
	}{
		"bad pattern":        {args{"grep": "("}, "INVALID_ARGUMENT"},
		"tail and grep":      {args{"grep": "x", "tail_lines": 1}, "INVALID_ARGUMENT"},
		"unknown handle":     {args{"output_id": strings.Repeat("A", 26)}, "HANDLE_EXPIRED"},
		"handle with a path": {args{"output_id": "../../audit.jsonl"}, "HANDLE_EXPIRED"},
	} {
		arguments := args{"output_id": *run.OutputID, "stream": "stdout"}
		maps.Copy(arguments, tt.more)
		if p := decode[part](t, c.callTool(t, "ssh_output_read", arguments)); p.Error == nil || p.Error.Code != tt.code {
			t.Errorf("%s: got %+v, want %s", name, p, tt.code)
		}
	}
}
