package tunnelapi

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/registry"
)

// Whatever a peer asks for, it reaches the one tunnel that is up by one of its
// names, or nothing, and the refusal is one line.
func FuzzConnect(f *testing.F) {
	for _, authority := range []string{
		"edge:22222", "127.0.0.1:22222", "[::1]:22222", "localhost:22222", "edge:0", "edge:65536", ":22222", "edge", "[edge]:22222", "a:b:22222", "edge:22222/x",
	} {
		f.Add(connectLine(authority))
		f.Add(connectLine(authority, "Tunnel-Generation: 1\r\n"))
	}
	f.Add(connectLine("edge:22222", "Tunnel-Generation: 99999999999999999999\r\n"))
	f.Add("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	f.Add("CONNECT edge:22222 HTTP/1.1\r\nHost: other:1\r\n\r\n")
	r := registry.New()
	r.Attach(&registry.Attachment{
		Key: registry.Key{Device: "edge", Port: 22222}, ID: "only", Loopback: true,
		Stats: func() registry.Stats { return registry.Stats{} },
	})
	d := NewDial(r, nil, nil)
	f.Fuzz(func(t *testing.T, text string) {
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		target, err := d.find(request)
		if err == nil {
			if target.ID != "only" || request.Method != http.MethodConnect || !strings.HasSuffix(request.Host, "22222") {
				t.Errorf("%q of %q reached %+v", request.Method, request.Host, target)
			}
			return
		}
		if strings.ContainsAny(err.Error(), "\r\n\x1b") {
			t.Errorf("the refusal is %q", err)
		}
		if code := statusOf(err); code == http.StatusServiceUnavailable || errors.Is(err, registry.ErrDraining) {
			t.Errorf("%v is answered with %d", err, code)
		}
	})
}
