package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dial.sock speaks HTTP CONNECT, so any tool that knows proxies can use it.
func TestDialSocket(t *testing.T) {
	t.Parallel()
	deviceKey, nowhereKey := newKey(t), newKey(t)
	server := startSSHD(t, newKey(t))
	a := startAcceptor(t, grant(tunnelDevice, deviceKey, tunnelPort), grant("nowhere", nowhereKey, 22223))
	openTunnel(t, a, deviceKey, toSSHD("22222", server))
	openTunnel(t, a, nowhereKey, fmt.Sprintf("22223:localhost:%d", freePort(t)))
	for device, port := range map[string]int{tunnelDevice: tunnelPort, "nowhere": 22223} {
		eventually(t, soon, device+" is up", func() error { return a.up(t, device, port) })
	}

	for _, target := range []string{"127.0.0.1:22222", tunnelDevice + ":22222"} {
		t.Run(target, func(t *testing.T) {
			status, stream := dialCONNECT(t, a, target, "")
			if status != http.StatusOK {
				t.Fatalf("got %d", status)
			}
			banner, err := bufio.NewReader(stream).ReadString('\n')
			if err != nil || !strings.HasPrefix(banner, "SSH-2.0-OpenSSH") {
				t.Errorf("got %q, %v; want the device's SSH banner", banner, err)
			}
		})
	}

	for name, test := range map[string]struct {
		target, header string
		status         int
	}{
		"no such port":     {"127.0.0.1:22999", "", http.StatusNotFound},
		"no such device":   {"nobody:22222", "", http.StatusNotFound},
		"port of another":  {"nowhere:22222", "", http.StatusNotFound},
		"a real address":   {fmt.Sprintf("127.0.0.1:%d", server.port), "", http.StatusNotFound},
		"stale generation": {"127.0.0.1:22222", "Tunnel-Generation: 999999\r\n", http.StatusConflict},
		"device refuses":   {"127.0.0.1:22223", "", http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := dialCONNECT(t, a, test.target, test.header)
			if status != test.status {
				t.Fatalf("got %d, want %d", status, test.status)
			}
			why, err := io.ReadAll(body)
			if err != nil || strings.Count(strings.TrimSpace(string(why)), "\n") != 0 || len(why) == 0 {
				t.Errorf("the body is not one line: %q, %v", why, err)
			}
		})
	}
}

// dialCONNECT returns the answer's status and what follows it: the device's
// bytes after 200, the body after anything else.
func dialCONNECT(t *testing.T, a *acceptor, target, header string) (int, io.Reader) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(a.runDir, "dial.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, target, header); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode == http.StatusOK {
		return response.StatusCode, reader
	}
	return response.StatusCode, response.Body
}
