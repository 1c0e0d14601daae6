package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// Output, exit code and signal are the command's own, whoever logs in.
func TestEnds(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, login := range sshdtest.Logins(t) {
		client := s.Client(t, login)
		for name, c := range map[string]struct {
			text           string
			code           int
			signal         string
			stdout, stderr string
		}{
			"nothing":         {text: "true"},
			"both streams":    {text: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
			"a code":          {text: "exit 42", code: 42},
			"a high code":     {text: "exit 143", code: 143},
			"not found":       {text: "no-such-program 2>/dev/null", code: 127},
			"a signal":        {text: "echo out; kill -TERM $$", code: 143, signal: "TERM", stdout: "out\n"},
			"killed":          {text: "kill -KILL $$", code: 137, signal: "KILL"},
			"a child's death": {text: "(sh -c 'kill -TERM $$'; exit $?) 2>/dev/null", code: 143},
			"binary":          {text: `printf '\000\377\r\n\001'`, stdout: "\x00\xff\r\n\x01"},
			"no stdin":        {text: "wc -c | tr -d ' '", stdout: "0\n"},
			"lines":           {text: "echo 'a'\n\necho \"b'\\\"\"\n", stdout: "a\nb'\"\n"},
			"its umask":       {text: "umask | tail -c 4", stdout: "022\n"},
			"INT is not lost": {text: "kill -INT $$", code: 130, signal: "INT"},
		} {
			t.Run(login+"/"+name, func(t *testing.T) {
				t.Parallel()
				l := ended(t, client, started(t, client, c.text))
				if l.State != "ended" || l.ExitCode != c.code || l.Signal != c.signal || string(l.Content[0]) != c.stdout || string(l.Content[1]) != c.stderr {
					t.Errorf("got %+v with %q and %q; want %+v", l, l.Content[0], l.Content[1], c)
				}
			})
		}
	}
}

// The job's directory is the user's alone, and goes when it is told to.
func TestPlace(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	login := sshdtest.Plain(t)
	client := s.Client(t, login)
	j := started(t, client, "echo secret")
	ended(t, client, j)
	info, err := os.Stat(place(t, login, j))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("got %v, %v", info, err)
	}
	if l := ask(t, client, j, "forget"); l.State != "gone" {
		t.Errorf("got %+v", l)
	}
	if _, err := os.Stat(place(t, login, j)); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if l := ask(t, client, j, "look"); l.State != "gone" {
		t.Errorf("got %+v", l)
	}
}

// A device with nothing but busybox keeps jobs too, with setsid or without; one
// that lacks what is needed says so, and has run nothing.
func TestSmallDevices(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("not root: no user can be made who has nothing but busybox")
	}
	login := sshdtest.LoginWith(t, "busybox")
	if login == "" {
		t.Fatal("busybox is missing: run scripts/setup")
	}
	for name, c := range map[string]struct{ shell, without, why string }{
		"whole":        {shell: sshdtest.Tool("busybox") + " sh"}, // which has all applets
		"no setsid":    {shell: sshdtest.Tool("dash"), without: "setsid"},
		"no sha256sum": {shell: sshdtest.Tool("dash"), without: "sha256sum"},
		"no mkfifo":    {shell: sshdtest.Tool("dash"), without: "mkfifo", why: "tools: there is no mkfifo"},
	} {
		small := func(text string) string {
			return "exec " + c.shell + " -c '" + strings.ReplaceAll(text, "'", `'\''`) + "'"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"SetEnv PATH=" + busyboxOnly(t, c.without) + " SHLVL=5"}})
			ch := Channel{Client: s.Client(t, login), Quote: small, Done: func() {}}
			m := newMarked(t)
			j := prepared("echo out; sleep "+string(m)+" | sleep "+string(m), time.Minute)
			err := Start(t.Context(), ch, j, ReadByLogin, nil)
			if c.why != "" {
				if !errors.Is(err, ErrUnsupported) || !strings.Contains(fmt.Sprint(err), c.why) || len(m.pids(t)) > 0 {
					t.Errorf("got %v, %v run; want %s", err, m.pids(t), c.why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m.running(t, 3)
			var l Look
			sshdtest.Eventually(t, "it runs", func() bool {
				l, err = Ask(t.Context(), ch, j, "look", [2]int64{}, 100)
				return err == nil && l.State == "running" && string(l.Content[0]) == "out\n" && l.GroupAlive
			})
			if _, err := Ask(t.Context(), ch, j, "TERM", [2]int64{}, 100); err != nil {
				t.Fatal(err)
			}
			sshdtest.Eventually(t, "it ends", func() bool {
				l, err = Ask(t.Context(), ch, j, "sum", [2]int64{}, 100)
				return err == nil && l.State == "ended" && !l.GroupAlive
			})
			if l.Stop != "asked" || l.Signal != "TERM" || len(m.pids(t)) > 0 || (l.SHA256[0] == "") != (c.without == "sha256sum") {
				t.Errorf("got %+v, %v left", l, m.pids(t))
			}
			_, _ = Ask(t.Context(), ch, j, "forget", [2]int64{}, 0)
		})
	}
}

// Other login shells are no hindrance.
func TestShells(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("not root: no users can be made for the shells")
	}
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, shell := range []string{"bash", "dash", "busybox", "zsh", "mksh", "ksh"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			login := sshdtest.LoginWith(t, shell)
			if login == "" {
				return
			}
			client := s.Client(t, login)
			l := ended(t, client, started(t, client, "echo out; exit 201"))
			if l.State != "ended" || l.ExitCode != 201 || l.Signal != "" || string(l.Content[0]) != "out\n" {
				t.Errorf("got %+v with %q", l, l.Content)
			}
			l = ended(t, client, started(t, client, "kill -KILL $$"))
			if l.Signal != "KILL" {
				t.Errorf("got %+v", l)
			}
		})
	}
}

// A home directory that cannot be written is no hindrance either.
func TestReadOnlyHome(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"SetEnv HOME=/proc SHLVL=5"}})
	client := s.Client(t, sshdtest.Plain(t))
	j := started(t, client, "echo out")
	if l := ended(t, client, j); string(l.Content[0]) != "out\n" {
		t.Errorf("got %+v", l)
	}
	if _, err := os.Stat("/var/tmp/mcp-ssh-gateway-" + j.Place); err != nil {
		t.Errorf("not where it should be: %v", err)
	}
	ask(t, client, j, "forget")
}

// What runs away is bounded on the device, and goes on all the same.
func TestRunawayOutput(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	login := sshdtest.Plain(t)
	client := s.Client(t, login)
	j := started(t, client, "head -c 50000000 /dev/zero; echo err >&2; exit 3")
	l := ended(t, client, j)
	if l.State != "ended" || l.ExitCode != 3 || l.Sizes[0] <= MaxOutput || l.Sizes[0] > MaxOutput+1<<20 || l.Limit != MaxOutput || string(l.Content[1]) != "err\n" {
		t.Errorf("got state %s, code %d, sizes %v, limit %d", l.State, l.ExitCode, l.Sizes, l.Limit)
	}
	if info, err := os.Stat(place(t, login, j) + "/stdout"); err != nil || info.Size() > MaxOutput+1<<20 {
		t.Errorf("got %v, %v", info, err)
	}
}

// The device keeps the longest run time by itself: nobody asks meanwhile, and
// the connection has gone.
func TestMaxRuntime(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	login := sshdtest.Plain(t)
	client := s.Client(t, login)
	m := newMarked(t)
	j := prepared("trap '' TERM; sleep "+string(m)+"; sleep "+string(m), time.Second)
	if err := Start(t.Context(), channel(client), j, ReadByLogin, nil); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	s.Cut()
	m.running(t, 1)
	sshdtest.Eventually(t, "the command is gone", func() bool { return len(m.pids(t)) == 0 })
	client = s.Client(t, login)
	l := ended(t, client, j)
	if l.State != "ended" || l.Stop != "max_runtime" || l.Signal != "KILL" {
		t.Errorf("got %+v", l)
	}
	ask(t, client, j, "forget")
}

// A reboot leaves the directory and no process; another process may have the
// number by then.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	login := sshdtest.Plain(t)
	client := s.Client(t, login)
	j := started(t, client, "sleep 60")
	pid := place(t, login, j) + "/pid"
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	number, _, _ := strings.Cut(string(text), " ")
	if l := ask(t, client, j, "look"); l.State != "running" {
		t.Fatalf("got %+v", l)
	}
	sshdtest.Write(t, pid, number+" another-boot:1\n", 0o644)
	if l := ask(t, client, j, "look"); l.State != "dead" {
		t.Errorf("got %+v", l)
	}
	sshdtest.Write(t, pid, string(text), 0o644)
}

// A start whose text was cut off runs nothing, and one that comes after its
// place was claimed neither.
func TestStartIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	client := s.Client(t, sshdtest.Plain(t))
	j := prepared("echo out", time.Minute)
	removeAfter(t, client, j)
	r := channel(client).exchange(t.Context(), startText, "NONCE "+j.Place+" 64 60 login\necho out; rm -rf /tmp/x", 1<<10, nil)
	if got := string(r.Stdout.Bytes()); !strings.Contains(got, "NONCE no cut") {
		t.Errorf("got %q", got)
	}
	if l := ask(t, client, j, "look"); l.State != "gone" {
		t.Errorf("got %+v", l)
	}
	for range 2 {
		if l := ask(t, client, j, "claim"); l.State != "void" {
			t.Errorf("got %+v", l)
		}
	}
	if err := Start(t.Context(), channel(client), j, ReadByLogin, nil); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "taken") {
		t.Errorf("got %v", err)
	}
	if l := ask(t, client, j, "look"); l.State != "void" {
		t.Errorf("got %+v", l)
	}
}

// What a hostile device answers is bounded, and believed only if it makes sense.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"nothing":        "true",
		"garbage":        "head -c 10000 /dev/urandom",
		"endless":        "yes",
		"no header":      `read -r nonce rest; echo "$nonce"`,
		"a bad state":    `read -r nonce rest; echo "$nonce fine - - - - - 0 0 0 0 - - -"`,
		"too much":       `read -r nonce rest; echo "$nonce running - - - - - 9 9 999999 0 - - -"; head -c 999999 /dev/zero`,
		"too little":     `read -r nonce rest; echo "$nonce running - - - - - 9 9 9 9 - - -"; echo x`,
		"a long header":  `read -r nonce rest; printf "%s " "$nonce"; head -c 1000000 /dev/zero`,
		"no code":        `read -r nonce rest; echo "$nonce ended - - - - - 0 0 0 0 - - -"`,
		"a wrong signal": `read -r nonce rest; echo "$nonce ended 1 $(printf 'A\033[2J') - - - 0 0 0 0 - - -"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"ForceCommand " + script}})
			ch := channel(s.Client(t, sshdtest.Plain(t)))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if l, err := Ask(ctx, ch, prepared("true", time.Minute), "look", [2]int64{}, 1<<10); err == nil {
				t.Errorf("believed: %+v", l)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := Start(ctx, ch, prepared("true", time.Minute), ReadByLogin, nil); err == nil {
				t.Error("believed that the job began")
			}
		})
	}
}

// Dropbear gives commands no process group of their own, so setsid must: with
// it a job and all that it starts can be stopped.
func TestDropbear(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("not root: dropbear needs the user's own authorized_keys")
	}
	client := sshdtest.Dropbear(t, sshdtest.LoginWith(t, "mksh")) // a user that no other test of dropbear has
	if client == nil {
		return
	}
	m := newMarked(t)
	j := started(t, client, "echo out; sleep "+string(m)+" | sleep "+string(m))
	m.running(t, 3)
	ask(t, client, j, "TERM")
	l := ended(t, client, j)
	if l.State != "ended" || l.Stop != "asked" || l.Signal != "TERM" || l.GroupAlive || len(m.pids(t)) > 0 {
		t.Errorf("got %+v, %v left", l, m.pids(t))
	}
}
