package jobs

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/remote"
)

//go:embed start.sh
var startText string

//go:embed look.sh
var lookText string

//go:embed identity.sh
var identityText string

const (
	startTimeout = 30 * time.Second
	lookTimeout  = 20 * time.Second
	// maxNoise is how much a login's start-up files may print.
	maxNoise = 64 << 10
)

// script is a script as it is sent: without its comments, and with what both
// share in its place.
func script(text string) string {
	text = strings.Replace(text, "@IDENTITY@\n", identityText, 1)
	return comment.ReplaceAllString(text, "")
}

var comment = regexp.MustCompile(`(?m)^[ \t]*#.*\n|[ \t]# .*$`)

// Channel is the way to a device for one exchange.
type Channel struct {
	Client *ssh.Client
	// Quote puts POSIX text into the quoting of the login shell.
	Quote func(posix string) string
	// Done is called when the device counts the channel no more.
	Done func()
}

// exchange sends a script and its input, once. permit is asked first; nil
// permits.
func (c Channel) exchange(ctx context.Context, text, input string, answer int, permit func() error) remote.Result {
	return remote.Run(ctx, c.Client, remote.Command{
		Text: c.Quote(script(text)), Stdin: []byte(input), MaxOutput: answer + maxNoise,
		Abandon: true, Permit: permit, Done: c.Done,
	})
}

// What reads the command on the device.
const (
	ReadByLogin   = "login"   // the login shell, which is POSIX
	ReadByForeign = "foreign" // the login shell, whatever it is
	ReadBySh      = "sh"      // /bin/sh
)

// Start sends j to the device. permit is asked before anything is sent. The
// error is nil once the device has said that the job begins; ErrUnsupported if
// it can keep none, and nothing has run; ErrUnclear if the answer was lost;
// permit's own; any other if nothing was sent.
func Start(ctx context.Context, c Channel, j Job, read string, permit func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	nonce := rand.Text()
	input := fmt.Sprintf("%s %s %d %d %s\n%s%s", nonce, j.Place, MaxOutput>>10, int(j.MaxRuntime.Seconds()), read, j.Text, nonce)
	r := c.exchange(ctx, startText, input, 1<<10, permit)
	if r.Executed == remote.No {
		return r.Err
	}
	answer := string(r.Stdout.Bytes())
	if strings.Contains(answer, nonce+" started\n") {
		return nil
	}
	if _, why, found := strings.Cut(answer, nonce+" no "); found {
		return fmt.Errorf("%w: %s", ErrUnsupported, printable(line(why)))
	}
	if !strings.Contains(answer, nonce+" begin") && r.Outcome == remote.Exited {
		return fmt.Errorf("%w: its login runs no POSIX shell (exit code %d)", ErrUnsupported, *r.ExitCode)
	}
	if r.Err != nil {
		return fmt.Errorf("%w: %w", ErrUnclear, r.Err)
	}
	return fmt.Errorf("%w: the device did not answer in full", ErrUnclear)
}

// Look is what a device says of a job.
type Look struct {
	State          string // begun, running, ended, dead, gone, void: see look.sh
	ExitCode       int    // of ended
	Signal         string // "" if the command exited
	Runtime        time.Duration
	Stop           string // why it was told to end: asked, max_runtime; "" if it was not
	Began          bool   // its process group has been there
	GroupAlive     bool   // its process group has members
	Sizes          [2]int64
	Content        [2][]byte // from the offsets on
	SHA256         [2]string // if they were asked for and the device can
	Limit          int64     // how many bytes of each stream the device keeps; 0 if it does not say
	contentLengths [2]int
}

// Ask asks the device about a job: verb is one of look.sh's. It returns at
// most limit bytes of each stream, from the offsets on.
func Ask(ctx context.Context, c Channel, j Job, verb string, offsets [2]int64, limit int) (Look, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	nonce := rand.Text()
	input := fmt.Sprintf("%s %s %s %d %d %d\n", nonce, j.Place, verb, offsets[0], offsets[1], limit)
	r := c.exchange(ctx, lookText, input, 2*limit+1<<10, nil)
	if r.Outcome != remote.Exited {
		switch {
		case r.Err != nil:
			return Look{}, r.Err
		case r.Stdout.Truncated():
			return Look{}, errNonsense
		}
		return Look{}, errors.New("the device did not answer in time")
	}
	_, answer, found := bytes.Cut(r.Stdout.Bytes(), []byte(nonce+" "))
	if !found || r.Stdout.Truncated() {
		return Look{}, errNonsense
	}
	header, content, _ := bytes.Cut(answer, []byte("\n"))
	l, err := parseLook(string(header), limit)
	if err != nil || len(content) < l.contentLengths[0]+l.contentLengths[1] {
		return Look{}, errNonsense
	}
	l.Content[0], content = content[:l.contentLengths[0]], content[l.contentLengths[0]:]
	l.Content[1] = content[:l.contentLengths[1]]
	return l, nil
}

var errNonsense = errors.New("the device's answer about the job makes no sense")

var header = regexp.MustCompile(`^(begun|running|ended|dead|gone|void) (-|\d{1,3}) (-|[A-Z0-9+]{1,16}) (-|-?\d{1,9}) (-|asked|max_runtime) (-|alive|ended) (\d{1,12}) (\d{1,12}) (\d{1,9}) (\d{1,9}) (-|[0-9a-f]{64}) (-|[0-9a-f]{64}) (-|\d{1,6})\r?$`)

func parseLook(text string, limit int) (Look, error) {
	m := header.FindStringSubmatch(text)
	if m == nil {
		return Look{}, errNonsense
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0 // "-": the expression allows nothing else
		}
		return n
	}
	absent := func(s string) string {
		if s == "-" {
			return ""
		}
		return s
	}
	l := Look{
		State: m[1], ExitCode: int(number(m[2])), Signal: strings.TrimPrefix(absent(m[3]), "SIG"), Runtime: time.Duration(max(number(m[4]), 0)) * time.Second,
		Stop: absent(m[5]), Began: m[6] != "-", GroupAlive: m[6] == "alive", Sizes: [2]int64{number(m[7]), number(m[8])},
		SHA256: [2]string{absent(m[11]), absent(m[12])}, contentLengths: [2]int{int(number(m[9])), int(number(m[10]))},
		Limit: min(number(m[13])<<10, MaxOutput),
	}
	if l.contentLengths[0] > limit || l.contentLengths[1] > limit || l.State == "ended" && m[2] == "-" {
		return Look{}, errNonsense
	}
	return l, nil
}

func line(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first)
}

// printable makes text of a device safe to show, and bounds it.
func printable(text string) string {
	const limit = 200
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}
