package tunnels

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDial(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	requests := make(chan *http.Request, 1)
	a.answer = func(request *http.Request, conn net.Conn) {
		requests <- request
		// What the device says may come with the answer, in one piece.
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-early\r\n")
		_, _ = io.Copy(conn, conn) // until the client's half is closed
		_, _ = io.WriteString(conn, "bye")
	}
	a.start(t)
	d := follow(t, a)
	a.events <- snapshot(up("edge", 22222, 7))
	conn, tunnel, err := d.Dial(bounded(t), "127.0.0.1", 22222)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	request := <-requests
	if request.Method != http.MethodConnect || request.Host != "edge:22222" || request.Header.Get("Tunnel-Generation") != "7" || tunnel.ID != "edge-7" {
		t.Errorf("got %s %s, generation %s, tunnel %+v", request.Method, request.Host, request.Header.Get("Tunnel-Generation"), tunnel)
	}
	if _, err := io.WriteString(conn, "echo "); err != nil {
		t.Fatal(err)
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("one half cannot be closed")
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if want := "SSH-2.0-early\r\necho bye"; string(all) != want || err != nil {
		t.Errorf("got %q, %v, want %q", all, err, want)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]error{
		http.StatusNotFound:           ErrTunnelDown,
		http.StatusConflict:           errStale,
		http.StatusBadGateway:         &RefusedError{},
		http.StatusServiceUnavailable: &RefusedError{},
		http.StatusGatewayTimeout:     &RefusedError{},
		http.StatusForbidden:          &RefusedError{},
	} {
		a := newAcceptor(t)
		a.answer = says(status, "because of this")
		a.start(t)
		_, err := Connect(bounded(t), a.dir, "edge", 22222, 1)
		if refused, ok := errors.AsType[*RefusedError](err); ok {
			if _, wanted := errors.AsType[*RefusedError](want); !wanted || refused.Status != status {
				t.Errorf("%d: got %v", status, err)
			}
		} else if !errors.Is(err, want) {
			t.Errorf("%d: got %v, want %v", status, err, want)
		}
		if status != http.StatusConflict && !strings.Contains(err.Error(), "because of this") {
			t.Errorf("%d: it does not say why: %v", status, err)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing": "", "half": "HTTP/1.1 20", "no HTTP": "SSH-2.0-OpenSSH\r\n",
		"endless": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20),
	} {
		a := newAcceptor(t)
		a.answer = func(_ *http.Request, conn net.Conn) { _, _ = io.WriteString(conn, answer) }
		a.start(t)
		if _, err := Connect(bounded(t), a.dir, "edge", 22222, 1); !errors.Is(err, ErrAcceptorDown) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A dial that finds its tunnel replaced waits for the directory and tries the
// new one; it never lands on a generation that it did not find.
func TestStaleGeneration(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	a.answer = func(request *http.Request, conn net.Conn) {
		if request.Header.Get("Tunnel-Generation") == "1" {
			a.events <- upsert(up("edge", 22222, 2))
			says(http.StatusConflict, "stale")(request, conn)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	}
	a.start(t)
	d := follow(t, a)
	a.events <- snapshot(up("edge", 22222, 1))
	conn, tunnel, err := d.Dial(bounded(t), "edge", 22222)
	if err != nil || tunnel.Generation != 2 {
		t.Fatalf("got %+v, %v", tunnel, err)
	}
	_ = conn.Close()
}

// A directory that never catches up ends the dial with an error of ours.
func TestAlwaysStale(t *testing.T) {
	t.Parallel()
	a := newAcceptor(t)
	a.answer = says(http.StatusConflict, "stale")
	a.start(t)
	d := follow(t, a)
	a.events <- snapshot(up("edge", 22222, 1))
	if _, _, err := d.Dial(bounded(t), "edge", 22222); !errors.Is(err, ErrTunnelDown) {
		t.Errorf("got %v", err)
	}
}

func TestCancelledDial(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{"no answer": "", "half a refusal": "HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nno"} {
		a := newAcceptor(t)
		ctx, cancel := context.WithCancel(t.Context())
		a.answer = func(_ *http.Request, conn net.Conn) {
			_, _ = io.WriteString(conn, answer)
			cancel()
			_, _ = io.Copy(io.Discard, conn) // until the client gives up
		}
		a.start(t)
		if _, err := Connect(ctx, a.dir, "edge", 22222, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A file or a link that was planted in the sockets' place is not used.
func TestPlantedSockets(t *testing.T) {
	t.Parallel()
	real := newAcceptor(t)
	real.answer = says(http.StatusOK, "")
	real.start(t)
	for name, plant := range map[string]func(path, target string) error{
		"link": func(path, target string) error { return os.Symlink(target, path) },
		"file": func(path, _ string) error { return os.WriteFile(path, nil, 0o600) },
		"none": func(string, string) error { return nil },
	} {
		a := newAcceptor(t)
		for _, socket := range []string{"control.sock", "dial.sock"} {
			if err := plant(filepath.Join(a.dir, socket), filepath.Join(real.dir, socket)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Connect(bounded(t), a.dir, "edge", 22222, 0); !errors.Is(err, ErrAcceptorDown) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := New(a.dir, nil).watch(bounded(t)); err == nil {
			t.Errorf("%s: it was watched", name)
		}
	}
	if real.watched() != 0 {
		t.Error("a link was followed")
	}
}

// Whatever a peer answers, reading it ends, and what follows a grant is kept
// byte for byte.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"))
	f.Add([]byte("HTTP/1.1 502 \r\nTransfer-Encoding: chunked\r\n\r\nzz"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		client, server := net.Pipe()
		go func() {
			defer func() { _ = server.Close() }()
			if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
				_, _ = server.Write(answer)
			}
		}()
		defer func() { _ = client.Close() }()
		reader := bufio.NewReader(client)
		response, err := roundTrip(client, reader, "edge:22222", 1)
		if err != nil {
			return
		}
		if response.StatusCode != http.StatusOK {
			if refusal(response) == nil {
				t.Error("a refusal that is none")
			}
			return
		}
		rest, err := io.ReadAll(reader)
		if err != nil || !bytes.HasSuffix(answer, rest) {
			t.Errorf("got %q, %v, no end of %q", rest, err, answer)
		}
	})
}
