// Package files lists, reads and writes files on a device by SFTP (version 3,
// draft-ietf-secsh-filexfer-02, with OpenSSH's extensions), over an SSH
// connection that it is given. It knows neither names, tunnels nor policies.
//
// It promises that a path is resolved on the device first, that what it
// resolved to is judged, that nothing is opened before that, and that both are
// done again after opening: against somebody who can change links on the device,
// only its own permissions are a boundary. A file is replaced in one step: a
// reader, and whoever looks after the connection was cut, sees the old one or
// the new one. What a device sends is bounded, in size and in time, whatever it
// sends. On the gateway nothing outside one directory is touched.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Request is one file or directory on the device, and who decides about it.
type Request struct {
	// Path is absolute. Links in it are followed.
	Path string
	// Judge says why a path must not be used, nil if it may be. It is asked
	// about paths that hold no link, at least twice.
	Judge func(resolved string) error
	// Permit is asked once, when the path has been judged and before anything
	// is opened or changed; its error ends the operation. nil permits.
	Permit func(resolved string) error
}

// Concurrency and packet size are those that fill OpenSSH's channel window of
// 2 MiB (channels.h, CHAN_SES_WINDOW_DEFAULT). A server need not take more than
// 32 KiB of data in a packet.
const (
	packetSize  = 32 << 10
	concurrency = 64
)

// An sshd that has just closed a channel may count it for a moment more, and
// refuse one that would be within its MaxSessions.
const (
	openTries = 6
	openPause = 10 * time.Millisecond // doubled after each try
)

// Session is one SFTP session, for one operation. Close it.
type Session struct {
	ctx    context.Context
	client *sftp.Client
	ssh    *ssh.Client
	stream *stream
	unhook func() bool
}

// Open starts an SFTP session on a channel of its own. When ctx ends, so does
// the session, whatever the device does. done is called once, when the device
// has closed the channel or none was had; that may be after Close, as the
// device counts the channel until then.
func Open(ctx context.Context, client *ssh.Client, done func()) (*Session, error) {
	channel, requests, err := openPatiently(ctx, client)
	if err != nil {
		done()
		return nil, openError(ctx, err)
	}
	go func() { // ends with the channel, at the latest with the connection
		ssh.DiscardRequests(requests)
		done()
	}()
	s := &Session{ctx: ctx, ssh: client, stream: newStream(channel)}
	s.unhook = context.AfterFunc(ctx, func() { s.stream.abort(context.Cause(ctx)) })
	if err := s.start(channel); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// start asks for the subsystem and greets its server.
func (s *Session) start(channel ssh.Channel) error {
	type answer struct {
		ok  bool
		err error
	}
	answered := make(chan answer, 1)
	go func() { // ends with the channel, at the latest with the connection
		ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"}))
		answered <- answer{ok, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return s.failed("starting SFTP", "", a.err)
		}
		if !a.ok {
			return &Error{Kind: Unavailable, Doing: "starting SFTP", Err: errors.New("the device refuses the sftp subsystem")}
		}
	case <-s.ctx.Done():
		return s.failed("starting SFTP", "", s.ctx.Err())
	}
	var err error
	s.client, err = sftp.NewClientPipe(s.stream, s.stream,
		sftp.MaxPacketChecked(packetSize), sftp.MaxConcurrentRequestsPerFile(concurrency), sftp.UseConcurrentWrites(true), sftp.UseFstat(true))
	if err == nil {
		return nil
	}
	failure := s.failed("starting SFTP", "", err)
	if s.ctx.Err() == nil && s.alive() { // it took the request, and has no server that speaks SFTP
		failure = &Error{Kind: Unavailable, Doing: "starting SFTP", Err: fmt.Errorf("no SFTP server answers: %w", err)}
	}
	return failure
}

// Close ends the session. It does not wait for the device.
func (s *Session) Close() {
	s.unhook()
	s.stream.abort(io.ErrClosedPipe)
	if s.client != nil {
		_ = s.client.Close()
	}
}

// alive says whether the connection still works when a channel has failed.
func (s *Session) alive() bool {
	const patience = 5 * time.Second
	answered := make(chan error, 1)
	go func() { // ends with the connection at the latest
		_, _, err := s.ssh.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-answered:
		return err == nil
	case <-timer.C:
		return false
	case <-s.ctx.Done():
		return false
	}
}

// openPatiently opens the session channel. Nothing has been done yet, so
// trying again is safe.
func openPatiently(ctx context.Context, client *ssh.Client) (ssh.Channel, <-chan *ssh.Request, error) {
	for try := 0; ; try++ {
		channel, requests, err := open(ctx, client)
		if _, refused := errors.AsType[*ssh.OpenChannelError](err); !refused || try+1 == openTries {
			return channel, requests, err
		}
		select {
		case <-time.After(openPause << try):
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// open opens a session channel. A late one is closed.
func open(ctx context.Context, client *ssh.Client) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		channel  ssh.Channel
		requests <-chan *ssh.Request
		err      error
	}
	result := make(chan opened)
	go func() { // ends with the connection at the latest, whose owner waits for it
		channel, requests, err := client.OpenChannel("session", nil)
		select {
		case result <- opened{channel, requests, err}:
		case <-ctx.Done():
			if err == nil {
				go ssh.DiscardRequests(requests)
				_ = channel.Close()
			}
		}
	}()
	select {
	case o := <-result:
		return o.channel, o.requests, o.err
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

func openError(ctx context.Context, err error) *Error {
	kind := ConnectionLost
	if _, refused := errors.AsType[*ssh.OpenChannelError](err); refused {
		kind = ChannelRefused
	}
	if ctx.Err() != nil {
		kind, err = stopped(ctx)
	}
	return &Error{Kind: kind, Doing: "opening a channel for SFTP", Err: err}
}

// stopped says how a ctx ended.
func stopped(ctx context.Context) (Kind, error) {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return TimedOut, cause
	}
	return Cancelled, cause
}

// failed says what an error of pkg/sftp means.
func (s *Session) failed(doing, path string, err error) error {
	e, ours := errors.AsType[*Error](err)
	if ours {
		return e
	}
	e = &Error{Kind: Failed, Doing: doing, Path: path, Err: err}
	status, answered := errors.AsType[*sftp.StatusError](err)
	switch {
	case s.ctx.Err() != nil:
		e.Kind, e.Err = stopped(s.ctx)
	case errors.Is(s.stream.why(), errStalled):
		e.Kind, e.Err = TimedOut, errStalled
	case errors.Is(s.stream.why(), errTooMuch):
		e.Kind, e.Err = LimitExceeded, errTooMuch
	case errors.Is(err, fs.ErrNotExist):
		e.Kind, e.Err = NotFound, errors.New("there is no such file or directory")
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Err = Denied, errors.New("the device's user may not do that")
	case answered:
		e.Err = fmt.Errorf("the device reports: %s", printable(status.Error()))
		if status.FxCode() == sftp.ErrSSHFxOpUnsupported {
			e.Kind = Unavailable
		}
	case s.stream.why() != nil:
		e.Kind = ConnectionLost
	}
	return e
}
