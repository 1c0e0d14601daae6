package tunnelapi

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a tunnel whose streams end in socketpairs.
type device struct {
	t          *testing.T
	attachment *registry.Attachment
	streams    chan *net.UnixConn // the device's ends
	err        error              // if set, streams are refused with it
}

// attach puts a tunnel up at (name, port).
func attach(t *testing.T, r *registry.Registry, name string, port uint16) *device {
	t.Helper()
	d := &device{t: t, streams: make(chan *net.UnixConn, 8)}
	d.attachment = &registry.Attachment{
		Key: registry.Key{Device: name, Port: port}, ID: registry.NewID(), Loopback: true,
		Open:  d.open,
		Stats: func() registry.Stats { return registry.Stats{} },
	}
	r.Attach(d.attachment)
	return d
}

func (d *device) open(context.Context) (registry.Stream, error) {
	if d.err != nil {
		return nil, d.err
	}
	ours, theirs := socketPair(d.t)
	d.streams <- theirs
	return ours, nil
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: ln.Addr().String(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	b, err = ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return a, b
}

// gateway serves dial.sock over a registry of its own.
type gateway struct {
	t        *testing.T
	registry *registry.Registry
	path     string

	mu      sync.Mutex
	records []audit.Record
	refuse  error // what recording fails with
}

func serveDial(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, registry: registry.New(), path: filepath.Join(t.TempDir(), "dial.sock")}
	ln, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewDial(g.registry, g.record, slog.New(slog.DiscardHandler)).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return g
}

func (g *gateway) record(r audit.Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records = append(g.records, r)
	return g.refuse
}

func (g *gateway) events() (events []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		events = append(events, r.Event)
	}
	return events
}

// connect sends text, which begins with a request, and reads the response's
// head. What follows is in the returned reader.
func (g *gateway) connect(text string) (*net.UnixConn, *bufio.Reader, *http.Response) {
	g.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.path, Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		g.t.Fatal(err)
	}
	r, response := g.readHead(conn)
	return conn, r, response
}

func (g *gateway) readHead(conn net.Conn) (*bufio.Reader, *http.Response) {
	g.t.Helper()
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		g.t.Fatal(err)
	}
	return r, response
}

func connectLine(authority string, headers ...string) string {
	return "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n" + strings.Join(headers, "") + "\r\n"
}

// The status codes of the contract, each with its reason in one line.
func TestDialStatus(t *testing.T) {
	g := serveDial(t)
	attach(t, g.registry, "edge", 22222)
	attach(t, g.registry, "edge", 22222) // generation 2
	for port, err := range map[uint16]error{
		1: fmt.Errorf("%w: connect failed", registry.ErrRefused),
		2: fmt.Errorf("%w within 5s", registry.ErrNoAnswer),
		3: registry.ErrTooManyStreams,
	} {
		attach(t, g.registry, "broken", port).err = err
	}
	for _, test := range []struct {
		request string
		status  int
		body    string
	}{
		{connectLine("127.0.0.1:22222"), 200, ""},
		{connectLine("localhost:22222"), 200, ""},
		{connectLine("[::1]:22222"), 200, ""},
		{connectLine("edge:22222"), 200, ""},
		{connectLine("edge:22222", "Tunnel-Generation: 2\r\n"), 200, ""},
		{connectLine("edge:22222", "Tunnel-Generation: 1\r\n"), 409, "the tunnel has been replaced by a newer generation: asked for 1, now 2"},
		{connectLine("edge:22223"), 404, "no such tunnel is up"},
		{connectLine("nobody:22222"), 404, "no such tunnel is up"},
		{connectLine("10.0.0.1:22222"), 404, "no such tunnel is up"},
		{connectLine("edge"), 400, `bad request: "edge" is not HOST:PORT`},
		{connectLine(":22222"), 400, `bad request: ":22222" is not HOST:PORT`},
		{connectLine("edge:0"), 400, `bad request: port "0"`},
		{connectLine("edge:65536"), 400, `bad request: port "65536"`},
		{connectLine("edge:22222", "Tunnel-Generation: 0\r\n"), 400, `bad request: Tunnel-Generation "0"`},
		{connectLine("edge:22222", "Tunnel-Generation: new\r\n"), 400, `bad request: Tunnel-Generation "new"`},
		{"GET / HTTP/1.1\r\nHost: edge:22222\r\n\r\n", 405, "only CONNECT HOST:PORT is served here"},
		{connectLine("broken:1"), 502, "the device refused the stream: connect failed"},
		{connectLine("broken:2"), 504, "the device did not answer within 5s"},
		{connectLine("broken:3"), 503, "the tunnel has its full number of streams open"},
	} {
		conn, _, response := g.connect(test.request)
		line, _, _ := strings.Cut(test.request, "\r\n")
		if response.StatusCode != test.status {
			t.Errorf("%s: status %d, want %d", line, response.StatusCode, test.status)
		}
		if test.status == 200 {
			if got := response.Header.Get(generationHeader); got != "2" {
				t.Errorf("%s: %s %q, want 2", line, generationHeader, got)
			}
		} else if body, _ := io.ReadAll(response.Body); strings.TrimSuffix(string(body), "\n") != test.body {
			t.Errorf("%s: body %q, want %q", line, body, test.body)
		}
		_ = conn.Close()
	}
	g.registry.Drain()
	if _, _, response := g.connect(connectLine("edge:22222")); response.StatusCode != 503 {
		t.Errorf("while draining: status %d, want 503", response.StatusCode)
	}
}

// What cannot be recorded does not happen.
func TestDialWithoutAuditIsRefused(t *testing.T) {
	g := serveDial(t)
	d := attach(t, g.registry, "edge", 22222)
	g.refuse = errors.New("the disk is full")
	if _, _, response := g.connect(connectLine("edge:22222")); response.StatusCode != 503 {
		t.Errorf("status %d, want 503", response.StatusCode)
	}
	if len(d.streams) != 0 {
		t.Error("a stream was opened")
	}
}

// Bytes sent along with the request are the stream's first, and each side may
// end its direction while the other goes on.
func TestDialHalfClose(t *testing.T) {
	g := serveDial(t)
	d := attach(t, g.registry, "edge", 22222)
	for _, first := range []string{"client", "device"} {
		conn, r, response := g.connect(connectLine("edge:22222") + "early ")
		if response.StatusCode != 200 {
			t.Fatal(response.Status)
		}
		far := <-d.streams
		clientSends := func() {
			_, _ = io.WriteString(conn, "question")
			_ = conn.CloseWrite()
			if got, err := io.ReadAll(far); err != nil || string(got) != "early question" {
				t.Errorf("%s first: the device read %q, %v", first, got, err)
			}
		}
		deviceSends := func() {
			_, _ = io.WriteString(far, "answer")
			_ = far.CloseWrite()
			if got, err := io.ReadAll(r); err != nil || string(got) != "answer" {
				t.Errorf("%s first: the client read %q, %v", first, got, err)
			}
		}
		if first == "client" {
			clientSends()
			deviceSends()
		} else {
			deviceSends()
			clientSends()
		}
	}
	waitFor(t, "two dial_close records", func() bool {
		events := g.events()
		slices.Sort(events)
		return slices.Equal(events, []string{"dial_close", "dial_close", "dial_open", "dial_open"})
	})
}

// A client that has said all it has to say before the reply, like nc -N, still
// gets the whole answer.
func TestDialHalfCloseBeforeTheReply(t *testing.T) {
	g := serveDial(t)
	d := attach(t, g.registry, "edge", 22222)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, connectLine("edge:22222")+"all")
	_ = conn.CloseWrite()
	far := <-d.streams
	if got, err := io.ReadAll(far); err != nil || string(got) != "all" {
		t.Errorf("the device read %q, %v", got, err)
	}
	_, _ = io.WriteString(far, "answer")
	_ = far.Close()
	r, response := g.readHead(conn)
	if response.StatusCode != 200 {
		t.Fatal(response.Status)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "answer" {
		t.Errorf("the client read %q, %v", got, err)
	}
}

// 16 MiB each way at once arrive unchanged.
func TestDialLargeTransfer(t *testing.T) {
	const size = 16 << 20
	g := serveDial(t)
	d := attach(t, g.registry, "edge", 22222)
	conn, r, _ := g.connect(connectLine("edge:22222"))
	far := <-d.streams
	var group sync.WaitGroup
	for _, end := range []struct {
		name string
		w    *net.UnixConn
		r    io.Reader
		seed byte
	}{{"to the device", conn, far, 1}, {"from the device", far, r, 2}} {
		sum := make(chan [32]byte, 1)
		group.Go(func() {
			defer func() { _ = end.w.CloseWrite() }()
			h := sha256.New()
			if _, err := io.CopyN(io.MultiWriter(end.w, h), rand.NewChaCha8([32]byte{end.seed}), size); err != nil {
				t.Errorf("%s: %v", end.name, err)
			}
			sum <- [32]byte(h.Sum(nil))
		})
		group.Go(func() {
			h := sha256.New()
			n, err := io.Copy(h, end.r)
			if want := <-sum; n != size || err != nil || [32]byte(h.Sum(nil)) != want {
				t.Errorf("%s: %d bytes, %v, or the checksum differs", end.name, n, err)
			}
		})
	}
	group.Wait()
	waitFor(t, "the dial_close record", func() bool { return len(g.events()) == 2 })
	if got := g.records[1].Bytes; got != 2*size {
		t.Errorf("recorded %d bytes, want %d", got, 2*size)
	}
	if got := g.records[0].PeerUID; got == nil || *got != uint32(os.Getuid()) {
		t.Errorf("recorded peer uid %v, want ours", got)
	}
}

// A device that vanishes in the middle ends the stream for its client.
func TestDialDeviceVanishes(t *testing.T) {
	g := serveDial(t)
	d := attach(t, g.registry, "edge", 22222)
	conn, r, _ := g.connect(connectLine("edge:22222"))
	_ = (<-d.streams).Close()
	if got, err := io.ReadAll(r); len(got) != 0 || err != nil {
		t.Errorf("the client read %q, %v; want the end", got, err)
	}
	_, _ = conn.Write([]byte("x"))
	waitFor(t, "the dial_close record", func() bool { return len(g.events()) == 2 })
}

// The end of the process ends its streams, whatever half of them is closed.
func TestServeEndsStreams(t *testing.T) {
	g := serveDial(t)
	d := attach(t, g.registry, "edge", 22222)
	for range 2 {
		conn, _, _ := g.connect(connectLine("edge:22222"))
		far := <-d.streams
		_ = conn.CloseWrite()
		if _, err := io.ReadAll(far); err != nil {
			t.Error(err)
		}
		g.connect(connectLine("edge:22222"))
		<-d.streams
	}
} // the fixture's cleanup waits for Serve

// One stream's panic ends that stream alone.
func TestDialPanic(t *testing.T) {
	g := serveDial(t)
	attach(t, g.registry, "edge", 1).attachment.Open = func(context.Context) (registry.Stream, error) { panic("injected") }
	d := attach(t, g.registry, "edge", 2)
	conn, r, _ := g.connect(connectLine("edge:2"))
	defer conn.Close()
	broken, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	_, _ = io.WriteString(broken, connectLine("edge:1"))
	_ = broken.CloseWrite()
	_, _ = io.ReadAll(broken)
	far := <-d.streams
	_, _ = io.WriteString(far, "still here")
	_ = far.Close()
	if got, _ := io.ReadAll(r); string(got) != "still here" {
		t.Errorf("the other stream read %q", got)
	}
}

func waitFor(t *testing.T, what string, true func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !true() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}
