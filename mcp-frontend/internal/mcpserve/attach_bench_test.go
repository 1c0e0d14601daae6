package mcpserve_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkAttach compares a call that does nothing through `mcp-frontend
// attach` and a daemon with the same through mcp-go's own stdio server, and
// with the daemon's socket alone. Each server is a process of its own, and they
// take turns within one run: what counts is the ratio of neighbouring rounds.
func BenchmarkAttach(b *testing.B) {
	socket := filepath.Join(b.TempDir(), "s")
	daemon := startPiped(b, roleCommand(roleQuick+socket))
	if _, err := daemon.from.ReadString('\n'); err != nil { // it listens
		b.Fatal(err)
	}
	attach := startPiped(b, exec.Command(buildFrontend(b), "attach", "--mcp-socket", socket))
	mcpGo := startPiped(b, roleCommand(roleMCPGo))
	conn, err := net.Dial("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	direct := piped{to: conn, from: bufio.NewReader(conn)}
	for _, p := range []piped{attach, mcpGo, direct} {
		p.greet(b)
	}

	for _, inFlight := range []int{1, 32} {
		b.Run(strconv.Itoa(inFlight), func(b *testing.B) {
			var attached, unattached, theirs, ratios []float64 // of the rounds
			for b.Loop() {                                     // a round
				p50, theirP50 := attach.round(b, inFlight), mcpGo.round(b, inFlight)
				attached, theirs, ratios = append(attached, p50), append(theirs, theirP50), append(ratios, p50/theirP50)
				unattached = append(unattached, direct.round(b, inFlight))
			}
			b.ReportMetric(0, "ns/op") // a round's time has no meaning
			b.ReportMetric(median(attached), "attach-p50-µs")
			b.ReportMetric(median(unattached), "daemon-p50-µs")
			b.ReportMetric(median(theirs), "mcp-go-p50-µs")
			b.ReportMetric(median(ratios), "attach/mcp-go")
		})
	}
}

// piped is a server on the pipes of its process, or on a socket.
type piped struct {
	to   io.Writer
	from *bufio.Reader
}

// round makes calls, inFlight at a time, and returns how many microseconds the
// median one took.
func (p piped) round(b *testing.B, inFlight int) float64 {
	b.Helper()
	const calls = 300
	sent := make([]time.Time, inFlight) // by id
	send := func(id int) {
		sent[id] = time.Now()
		if _, err := io.WriteString(p.to, call(strconv.Itoa(id), "quick", "")+"\n"); err != nil {
			b.Fatal(err)
		}
	}
	for id := range inFlight {
		send(id)
	}
	took := make([]float64, 0, calls)
	for n := range calls {
		id := answeredID(b, p.from)
		took = append(took, float64(time.Since(sent[id]).Nanoseconds())/1000)
		if n+inFlight < calls {
			send(id)
		}
	}
	return median(took)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (p piped) greet(b *testing.B) {
	b.Helper()
	_, err := io.WriteString(p.to, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"bench","version":"1"},"capabilities":{}}}`+"\n"+
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
	if err != nil {
		b.Fatal(err)
	}
	answeredID(b, p.from)
}

// startPiped starts a process that is killed when the benchmark ends.
func startPiped(b *testing.B, cmd *exec.Cmd) piped {
	b.Helper()
	to, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return piped{to: to, from: bufio.NewReader(from)}
}

// roleCommand is this program in a role.
func roleCommand(role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd
}

func buildFrontend(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "mcp-frontend")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/mcp-frontend").CombinedOutput(); err != nil {
		b.Fatalf("building mcp-frontend: %v\n%s", err, out)
	}
	return path
}
