package remote

import (
	"context"
	"errors"
	"regexp"
	"strings"
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

// LeadsGroups says whether the server is one that gives each command a process
// group of its own, which OpenSSH's does. Others are asked: see ProbeSetsid.
func LeadsGroups(client *ssh.Client) bool {
	return strings.HasPrefix(string(client.ServerVersion()), "SSH-2.0-OpenSSH")
}

// ProbeSetsid finds out whether commands of a POSIX login shell need setsid(1)
// to have a process group of their own, and the device has it. dropbear runs
// them in the group of its own connection, which nobody may signal. Its error
// is ctx's, or says that the connection was lost or refused a channel.
func ProbeSetsid(ctx context.Context, client *ssh.Client) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	r := Run(ctx, client, Command{
		Text:      "kill -0 -$$ 2>/dev/null || { command -v setsid >/dev/null && echo needs setsid; }",
		MaxOutput: probeOutput, Abandon: true,
	})
	if r.Outcome != Exited && r.Err == nil {
		r.Err = errors.New("the device's shell did not answer")
	}
	return strings.Contains(string(r.Stdout.Bytes()), "needs setsid"), r.Err
}

// inSession has the login shell become setsid(1) and that one a shell again,
// which runs text as the server's would: the pid and the streams stay, and so
// do the exit status and the signal that the server reports.
func inSession(text string) string {
	return `exec setsid "${SHELL:-sh}" -c '` + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
