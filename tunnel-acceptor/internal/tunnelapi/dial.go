package tunnelapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/localsocket"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// generationHeader fences a dial: it must not land on a later session.
const generationHeader = "Tunnel-Generation"

// Dial serves dial.sock: CONNECT 127.0.0.1:PORT or CONNECT DEVICE:PORT opens a
// byte stream through the tunnel that is up there now (RFC 9110 section 9.3.6).
type Dial struct {
	registry *registry.Registry
	record   func(audit.Record) error
	log      *slog.Logger
	streams  sync.WaitGroup
}

// NewDial returns a server over r. record keeps each dial before it happens;
// one that cannot be recorded is refused.
func NewDial(r *registry.Registry, record func(audit.Record) error, log *slog.Logger) *Dial {
	return &Dial{registry: r, record: record, log: log}
}

// Serve serves ln until ctx ends, then closes what is open. The caller lets
// streams finish before that. It returns when all have ended; nil if ctx told
// it to stop.
func (d *Dial) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		// ctx and not the request's, which ends when the client half-closes.
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(ctx, w, r) }),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			uid, err := localsocket.PeerUID(conn)
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peerKey{}, uid)
		},
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	err := server.Serve(ln)
	d.streams.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

type peerKey struct{}

// serve answers one dial.
func (d *Dial) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	d.streams.Add(1)
	defer d.streams.Done()
	defer func() {
		if p := recover(); p != nil { // here and not in net/http, which would print it past the log
			d.log.Error("panic, closing one stream", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	record := audit.Record{Event: "dial_denied"}
	if uid, ok := r.Context().Value(peerKey{}).(uint32); ok {
		record.PeerUID = &uid
	}
	target, err := d.find(r)
	if err != nil {
		d.refuse(w, r, record, err)
		return
	}
	stream, err := d.open(ctx, &record, target)
	if err != nil {
		d.refuse(w, r, record, err)
		return
	}
	began := time.Now()
	in, out := d.join(ctx, w, stream, target.Generation)
	d.closed(record, began, in+out)
}

// open records the dial, naming its target in record, and then opens it.
func (d *Dial) open(ctx context.Context, record *audit.Record, target registry.Target) (registry.Stream, error) {
	record.Device, record.Port, record.TunnelID, record.Generation = target.Key.Device, target.Key.Port, target.ID, target.Generation
	opening := *record
	opening.Event = "dial_open"
	if err := d.record(opening); err != nil {
		return nil, fmt.Errorf("the dial could not be recorded: %w", err)
	}
	return target.Open(ctx)
}

// closed records the end of a dial that was opened.
func (d *Dial) closed(record audit.Record, began time.Time, carried int64) {
	record.Event, record.Bytes, record.DurationMS = "dial_close", carried, time.Since(began).Milliseconds()
	_ = d.record(record)
}

// find resolves the request's authority to a tunnel.
func (d *Dial) find(r *http.Request) (registry.Target, error) {
	if r.Method != http.MethodConnect {
		return registry.Target{}, errNotConnect
	}
	host, portText, err := net.SplitHostPort(r.Host)
	if err != nil || host == "" {
		return registry.Target{}, fmt.Errorf("%w: %q is not HOST:PORT", errBadRequest, r.Host)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return registry.Target{}, fmt.Errorf("%w: port %q", errBadRequest, portText)
	}
	var generation uint64
	if text := r.Header.Get(generationHeader); text != "" {
		generation, err = strconv.ParseUint(text, 10, 64)
		if err != nil || generation == 0 {
			return registry.Target{}, fmt.Errorf("%w: %s %q", errBadRequest, generationHeader, text)
		}
	}
	if isLoopback(host) {
		host = ""
	}
	return d.registry.Find(host, uint16(port), generation)
}

// isLoopback says whether host is the virtual address of the reverse ports.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

var (
	errNotConnect = errors.New("only CONNECT HOST:PORT is served here")
	errBadRequest = errors.New("bad request")
)

// statusOf maps a refusal to the status codes of the contract.
func statusOf(err error) int {
	switch {
	case errors.Is(err, errNotConnect):
		return http.StatusMethodNotAllowed
	case errors.Is(err, errBadRequest):
		return http.StatusBadRequest
	case errors.Is(err, registry.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, registry.ErrStaleGeneration):
		return http.StatusConflict
	case errors.Is(err, registry.ErrRefused):
		return http.StatusBadGateway
	case errors.Is(err, registry.ErrNoAnswer):
		return http.StatusGatewayTimeout
	default: // draining, too many streams, no audit
		return http.StatusServiceUnavailable
	}
}

func (d *Dial) refuse(w http.ResponseWriter, r *http.Request, record audit.Record, err error) {
	record.Reason = fmt.Sprintf("CONNECT %q: %v", r.Host, err)
	_ = d.record(record)
	w.Header().Set("Connection", "close")
	if errors.Is(err, errNotConnect) {
		w.Header().Set("Allow", http.MethodConnect)
	}
	http.Error(w, err.Error(), statusOf(err))
}

// join answers the dial and carries bytes both ways until both have ended.
func (d *Dial) join(ctx context.Context, w http.ResponseWriter, stream registry.Stream, generation uint64) (in, out int64) {
	defer func() { _ = stream.Close() }()
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		panic(fmt.Sprintf("%T cannot be taken over", w))
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		d.log.Warn("taking over a dialled connection failed", "error", err)
		return 0, 0
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Time{}) // that of the request's header
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s: %d\r\n\r\n", generationHeader, generation); err != nil {
		return 0, 0
	}
	client, ok := conn.(*net.UnixConn)
	if !ok {
		panic(fmt.Sprintf("%T is not a unix socket", conn))
	}
	return splice(ctx, client, unread(buffered.Reader), stream)
}

// unread returns what the HTTP server has read past the request.
func unread(r *bufio.Reader) []byte {
	data, err := r.Peek(r.Buffered())
	if err != nil {
		return nil
	}
	return data
}
