package containers

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// One port is published. From this machine, which has a leg in every network
// of the engine, the same one is all that can be reached. The kernel's own list
// of what listens in either container agrees, and has nothing for the frontend.
func (p *pair) testReachable(t *testing.T) {
	bindings := map[string][]struct{ HostIP, HostPort string }{"2222/tcp": {{p.bind, p.port}}}
	for service, want := range map[string]map[string][]struct{ HostIP, HostPort string }{acceptor: bindings, frontend: {}} {
		if diff := cmp.Diff(want, p.inspect(t, service).HostConfig.PortBindings); diff != "" {
			t.Errorf("published ports of %s (-want +got):\n%s", service, diff)
		}
	}
	if got := openPorts(t, p.inspect(t, acceptor).address(t)); !slices.Equal(got, []int{2222}) {
		t.Errorf("open TCP ports of the acceptor: got %v, want 2222", got)
	}
	anyAddress := strings.Repeat("0", 32) + ":08AE" // [::]:2222
	for service, want := range map[string][]string{acceptor: {"net/tcp6 " + anyAddress}, frontend: nil} {
		if diff := cmp.Diff(want, p.listening(t, service)); diff != "" {
			t.Errorf("%s listens on (-want +got):\n%s", service, diff)
		}
	}
}

// openPorts tries every TCP port.
func openPorts(t *testing.T, address string) []int {
	t.Helper()
	ip, err := netip.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{Timeout: soon}
	const workers = 64
	found := make([][]int, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for port := 1 + w; port <= 65535; port += workers {
				conn, err := dialer.DialContext(t.Context(), "tcp", netip.AddrPortFrom(ip, uint16(port)).String())
				if err == nil {
					found[w] = append(found[w], port)
					_ = conn.Close()
				}
			}
		})
	}
	wg.Wait()
	return slices.Sorted(slices.Values(slices.Concat(found...)))
}

// listening are the local addresses, in the kernel's hexadecimal, on which the
// service listens (TCP) or receives (UDP).
func (p *pair) listening(t *testing.T, service string) []string {
	t.Helper()
	var local []string
	for _, file := range []string{"net/tcp", "net/tcp6", "net/udp", "net/udp6"} {
		for _, line := range strings.Split(strings.TrimSpace(p.procFile(t, service, file)), "\n")[1:] {
			fields := strings.Fields(line)
			nameServer := strings.HasPrefix(fields[1], "0B00007F:") // the engine's, on 127.0.0.11 of each container
			if !nameServer && (fields[3] == "0A" || strings.HasPrefix(file, "net/udp")) {
				local = append(local, file+" "+fields[1])
			}
		}
	}
	return local
}

// The acceptor calls nobody: neither a device in the frontend's network, nor
// the outside. Both can be reached from where the frontend is, so that the
// test would see a difference.
func (p *pair) testNoWayOut(t *testing.T, d *devices) {
	targets := []string{inspect(t, d.direct).address(t) + "/22", outside(t) + "/443"}
	for service, tt := range map[string]struct {
		seconds int
		want    string
	}{
		frontend: {10, "reached"},
		acceptor: {2, "not reached"},
	} {
		probe := fmt.Sprintf(`for t in %s; do { timeout %d bash -c ": </dev/tcp/$t" 2>/dev/null && echo "$t reached" || echo "$t not reached"; } & done; wait`,
			strings.Join(targets, " "), tt.seconds)
		got, err := d.in(t, []string{"--network", "container:" + p.id(t, service)}, probe)
		if err != nil {
			t.Error(err)
		}
		for _, target := range targets {
			if want := target + " " + tt.want; !slices.Contains(strings.Split(got, "\n"), want) {
				t.Errorf("from where %s is: got %q, want %q", service, got, want)
			}
		}
	}
}

// outside is an address beyond this machine: of the module proxy, which the
// images' build needs anyway.
func outside(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", "proxy.golang.org")
	if err != nil {
		t.Fatalf("finding an address outside: %v", err)
	}
	return addresses[0].Unmap().String()
}
