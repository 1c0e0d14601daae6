package tunnels

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
)

// RefusedError is the acceptor's answer to a dial that it did not grant.
type RefusedError struct {
	Status int    // of HTTP: 502 the device refused, 503 draining or too many streams, 504 no answer
	Text   string // one line, in words
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s (%d)", e.Text, e.Status) }

// errStale says that the tunnel was replaced between being found and dialled.
var errStale = errors.New("the tunnel has been replaced")

// Dial opens a byte stream through the tunnel that host and port mean, and
// returns the tunnel's id with it. It never lands on another generation than
// the one it found. Its error wraps ErrAcceptorDown, ErrTunnelDown or a
// *RefusedError, or is ctx's.
func (d *Directory) Dial(ctx context.Context, host string, port uint16) (net.Conn, Tunnel, error) {
	for attempt := 0; ; attempt++ {
		t, err := d.Find(ctx, host, port)
		if err != nil {
			return nil, t, err
		}
		conn, err := Connect(ctx, d.dir, t.Device, port, t.Generation)
		if errors.Is(err, errStale) && attempt < 2 {
			if err := d.awaitChange(ctx); err != nil {
				return nil, t, err
			}
			continue
		}
		if errors.Is(err, errStale) {
			err = fmt.Errorf("%w: %w again and again", ErrTunnelDown, err)
		}
		return conn, t, err
	}
}

// awaitChange waits until the directory has caught up with the acceptor.
func (d *Directory) awaitChange(ctx context.Context) error {
	select {
	case <-d.nextChange():
	case <-time.After(200 * time.Millisecond): // it may have caught up before we looked
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Connect asks the acceptor at dir for a stream to host and port: CONNECT of
// RFC 9110 section 9.3.6. A generation other than 0 fences the dial.
func Connect(ctx context.Context, dir, host string, port uint16, generation uint64) (net.Conn, error) {
	path := filepath.Join(dir, "dial.sock")
	conn, err := localsocket.Dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %w", ErrAcceptorDown, path, err)
	}
	stopped := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	bound := &io.LimitedReader{R: conn, N: maxAnswer}
	reader := bufio.NewReader(bound)
	//nolint:bodyclose // the body is the stream, or read by refusal
	response, err := roundTrip(conn, reader, net.JoinHostPort(host, strconv.Itoa(int(port))), generation)
	var refused error
	if err == nil && response.StatusCode != http.StatusOK {
		refused = refusal(response)
	}
	switch {
	case !stopped() || ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = fmt.Errorf("%w on %s: %w", ErrAcceptorDown, path, err)
	case refused != nil:
		err = refused
	default:
		bound.N = math.MaxInt64
		return &stream{Conn: conn, reader: reader}, nil
	}
	_ = conn.Close()
	return nil, err
}

// maxAnswer bounds what is read before the stream begins.
const maxAnswer = 64 << 10

func roundTrip(conn net.Conn, reader *bufio.Reader, authority string, generation uint64) (*http.Response, error) {
	request := "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n"
	if generation != 0 {
		request += "Tunnel-Generation: " + strconv.FormatUint(generation, 10) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, err
	}
	return http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
}

// refusal reads the one line that says why.
func refusal(response *http.Response) error {
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // what came is as good as it gets
	text := strings.TrimSpace(string(body))
	switch response.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrTunnelDown, text)
	case http.StatusConflict:
		return errStale
	}
	return &RefusedError{Status: response.StatusCode, Text: text}
}

// stream is a granted connection; reader holds what came with the answer.
type stream struct {
	net.Conn
	reader *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.reader.Read(p) }

// CloseWrite ends what is sent; the other way stays open.
func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(*net.UnixConn); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
