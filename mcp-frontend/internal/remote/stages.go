package remote

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ErrAnswer says that the device took a command and did something else.
var ErrAnswer = errors.New("the login shell did not run the command")

// TryExec runs a harmless command that any login shell knows, and checks its
// answer. When ctx ends it is left alone. Its error wraps ErrAnswer, or is
// ctx's, or says that the channel or the command was refused, or the
// connection lost.
func TryExec(ctx context.Context, client *ssh.Client) error {
	word := rand.Text()
	r := Run(ctx, client, Command{Text: "echo " + word, MaxOutput: 1 << 10, Abandon: true})
	switch {
	case r.Outcome == Exited && strings.Contains(string(r.Stdout.Bytes()), word):
		return nil
	case r.Outcome == Exited:
		return fmt.Errorf("%w: exit code %d", ErrAnswer, *r.ExitCode)
	case r.Outcome == Signaled:
		return fmt.Errorf("%w: it was ended by the signal %s", ErrAnswer, r.Signal)
	case r.Refused && !errors.Is(r.Err, ErrRefused): // it was the channel that was refused
		return fmt.Errorf("%w: %w", ErrRefused, r.Err)
	case r.Err != nil:
		return r.Err
	}
	return context.Cause(ctx)
}

// ErrNoSFTP says that the device has no SFTP subsystem, or none that answers.
var ErrNoSFTP = errors.New("no SFTP subsystem")

const (
	sftpInit    = 1 // SSH_FXP_INIT, draft-ietf-secsh-filexfer-02 section 4
	sftpVersion = 2 // SSH_FXP_VERSION
	sftpThree   = 3 // the version that OpenSSH speaks
)

// TrySFTP opens the SFTP subsystem and waits for its version. Its error wraps
// ErrNoSFTP, or is ctx's, or says that the channel was refused.
func TrySFTP(ctx context.Context, client *ssh.Client) error {
	r := run{client: client}
	reqs, err := r.open(ctx)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(reqs) // ends with the channel
	done := make(chan error, 1)
	go func() { done <- greetSFTP(r.channel) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	_ = r.channel.Close() // ends greetSFTP, at the latest with the connection
	return err
}

func greetSFTP(channel ssh.Channel) error {
	ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoSFTP, err)
	}
	if !ok {
		return fmt.Errorf("%w: the device refused it", ErrNoSFTP)
	}
	hello := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 5, sftpInit}, sftpThree)
	if _, err := channel.Write(hello); err != nil {
		return fmt.Errorf("%w: its program ended: %w", ErrNoSFTP, err)
	}
	answer := make([]byte, 9) // length, type, version; extensions may follow
	if _, err := io.ReadFull(channel, answer); err != nil {
		return fmt.Errorf("%w: its program gave no answer: %w", ErrNoSFTP, err)
	}
	if answer[4] != sftpVersion {
		return fmt.Errorf("%w: its program answered something else", ErrNoSFTP)
	}
	return nil
}
