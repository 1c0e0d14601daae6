package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Ports above are handed out by the kernel to any outgoing connection.
const firstEphemeralPort = 32768

var (
	portsMu   sync.Mutex // guards portsUsed
	portsUsed = map[int]bool{}
)

// freePort returns a port that nothing listens on, for a program that cannot
// pick its own. It is not handed out twice.
func freePort(t *testing.T) int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for range 100 {
		port := 20000 + rand.IntN(firstEphemeralPort-20000)
		if portsUsed[port] {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		portsUsed[port] = true
		return port
	}
	t.Fatal("no free port found below 32768")
	return 0
}

// listeningTCP returns the local addresses, as /proc writes them, of the TCP
// sockets that the process itself holds open and listens on.
func listeningTCP(t *testing.T, pid int) []string {
	t.Helper()
	const stateListen = "0A"
	inodes := socketInodes(t, pid)
	var addresses []string
	for _, table := range []string{"tcp", "tcp6"} {
		rows := strings.Split(read(t, fmt.Sprintf("/proc/%d/net/%s", pid, table)), "\n")
		for _, row := range rows[1:] {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			f := strings.Fields(row)
			if len(f) >= 10 && f[3] == stateListen && inodes[f[9]] {
				addresses = append(addresses, f[1])
			}
		}
	}
	return addresses
}

func socketInodes(t *testing.T, pid int) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]bool{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // closed since
		}
		if inode, found := strings.CutPrefix(target, "socket:["); found {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes
}
