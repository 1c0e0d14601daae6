package files

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// rounds is how often each way is measured, in turns.
const rounds = 5

// BenchmarkTransfer compares an upload and a download, on a connection that is
// there (as the pool has it) and on a new one, with OpenSSH's scp and sftp. It
// prints the medians in seconds and the ratio of the warm one to the better tool.
func BenchmarkTransfer(b *testing.B) {
	login := sshdtest.Plain(b)
	for _, link := range []struct {
		name  string
		size  int
		delay time.Duration // of a round trip
	}{{"64MiB", 64 << 20, 0}, {"16MiB at 50ms", 16 << 20, 50 * time.Millisecond}} {
		b.Run(link.name, func(b *testing.B) {
			s := sftpd(b)
			c := &contest{server: s, login: login, d: nil, dir: directory(b, login), address: delayed(b, sshdtest.Address(s.Host, s.Port), link.delay/2)}
			c.d, c.local = transfers(b)
			sshdtest.Write(b, c.local+"/file", string(random(link.size)), 0o644)
			sshdtest.Write(b, c.dir+"/source", sshdtest.Read(b, c.local+"/file"), 0o644)
			for b.Loop() {
				for _, up := range []bool{true, false} {
					c.compare(b, up)
				}
			}
		})
	}
}

type contest struct {
	server     *sshdtest.Server
	login      string
	d          *Dir
	local, dir string
	address    string
}

func (c *contest) compare(b *testing.B, up bool) {
	b.Helper()
	nc := c.dial(b)
	warm := c.server.ClientOver(b, nc, c.login)
	ways := map[string]func(){
		"warm": func() { c.ours(b, up, warm) },
		"cold": func() {
			client := c.server.ClientOver(b, c.dial(b), c.login)
			c.ours(b, up, client)
			_ = client.Close()
		},
		"scp":  func() { c.tool(b, up, "scp") },
		"sftp": func() { c.tool(b, up, "sftp") },
	}
	took := map[string][]float64{}
	for range rounds {
		for name, way := range ways {
			_ = os.Remove(c.dir + "/new")
			_ = os.Remove(c.local + "/new")
			began := time.Now()
			way()
			took[name] = append(took[name], time.Since(began).Seconds())
		}
	}
	median := func(name string) float64 {
		slices.Sort(took[name])
		return took[name][rounds/2]
	}
	direction := "down"
	if up {
		direction = "up"
	}
	for name := range ways {
		b.ReportMetric(median(name), fmt.Sprintf("%s-%s-s", name, direction))
	}
	b.ReportMetric(median("warm")/min(median("scp"), median("sftp")), direction+"-ratio")
	b.ReportMetric(0, "ns/op")
}

func (c *contest) dial(b *testing.B) net.Conn {
	b.Helper()
	nc, err := net.Dial("tcp", c.address)
	if err != nil {
		b.Fatal(err)
	}
	return nc
}

func (c *contest) ours(b *testing.B, up bool, client *ssh.Client) {
	b.Helper()
	var err error
	if up {
		_, err = send(b, client, copying(c.d, c.dir+"/new", "file"))
	} else {
		_, err = fetch(b, client, copying(c.d, c.dir+"/source", "new"))
	}
	if err != nil {
		b.Fatal(err)
	}
}

func (c *contest) tool(b *testing.B, up bool, tool string) {
	b.Helper()
	_, port, err := net.SplitHostPort(c.address)
	if err != nil {
		b.Fatal(err)
	}
	args := []string{
		"-q", "-F", "/dev/null", "-P", port, "-i", c.server.UserKey.Path, "-c", "aes128-gcm@openssh.com", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
	}
	from, to, verb := c.local+"/file", c.dir+"/new", "put"
	if !up {
		from, to, verb = c.dir+"/source", c.local+"/new", "get"
	}
	host := c.login + "@127.0.0.1"
	if tool == "sftp" {
		batch := filepath.Join(b.TempDir(), "batch")
		sshdtest.Write(b, batch, verb+" "+from+" "+to+"\n", 0o600)
		args = append(args, "-b", batch, host)
	} else if up {
		args = append(args, from, host+":"+to)
	} else {
		args = append(args, host+":"+from, to)
	}
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", tool, err, out)
	}
}

// delayed is an address where everything arrives that much later, in both
// directions, however much it is.
func delayed(b *testing.B, address string, delay time.Duration) string {
	b.Helper()
	if delay == 0 {
		return address
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	b.Cleanup(func() {
		cancel()
		_ = ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = client.Close(), server.Close() })
			serving.Go(func() { carry(server, client, delay) })
			serving.Go(func() { carry(client, server, delay) })
		}
	})
	return "127.0.0.1:" + strconv.Itoa(ln.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // of a TCP listener
}

func carry(to, from net.Conn, delay time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	line := make(chan piece, 100_000)
	go func() {
		defer close(line)
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			line <- piece{time.Now().Add(delay), data[:n]}
			if err != nil {
				return
			}
		}
	}()
	for p := range line {
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
	for range line {
	}
}
