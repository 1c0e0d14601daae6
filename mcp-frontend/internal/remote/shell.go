package remote

import (
	"context"
	"errors"
	"regexp"
	"time"

	"golang.org/x/crypto/ssh"
)

// Shell is the kind of a login shell.
type Shell string

// The kinds that are told apart. Other runs neither POSIX text nor quoting
// that we know.
const (
	Posix      Shell = "posix"
	Fish       Shell = "fish"
	Csh        Shell = "csh"
	PowerShell Shell = "powershell"
	Cmd        Shell = "cmd"
	Other      Shell = "other"
)

// Each probe is harmless in any shell, and only its own kind answers as
// expected: the default expansion is POSIX alone.
var probes = []struct {
	shell  Shell
	text   string
	answer *regexp.Regexp
}{
	{Posix, "echo posix:$$:${GATEWAY_PROBE-ok}", regexp.MustCompile(`(?m)^posix:\d+:ok\r?$`)},
	{Fish, "echo fish:$fish_pid", regexp.MustCompile(`(?m)^fish:\d+\r?$`)},
	{Csh, "echo csh:$$:$?GATEWAY_PROBE", regexp.MustCompile(`(?m)^csh:\d+:0\r?$`)},
}

const (
	probeTimeout = 10 * time.Second
	probeOutput  = 16 << 10
)

// ProbeShell finds out what shell runs commands on the device. Its error is
// ctx's, or says that the connection was lost or refused a channel.
func ProbeShell(ctx context.Context, client *ssh.Client) (Shell, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, p := range probes {
		r := Run(ctx, client, Command{Text: p.text, MaxOutput: probeOutput, Abandon: true})
		if r.Outcome != Exited {
			if r.Err == nil {
				r.Err = errors.New("the device's shell did not answer")
			}
			return "", r.Err
		}
		if p.answer.Match(r.Stdout.Bytes()) {
			return p.shell, nil
		}
	}
	return Other, nil
}
