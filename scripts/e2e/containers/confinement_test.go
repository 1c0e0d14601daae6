package containers

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Both run as compose.yaml says: read back from the engine, and from the kernel
// for every process of the container, an attached client's too.
func (p *pair) testConfinement(t *testing.T, clientCommand []string) {
	p.mustAttach(t, clientCommand)
	for service, uid := range map[string]string{acceptor: "65532", frontend: "65533"} {
		c := p.inspect(t, service)
		h := c.HostConfig
		if c.Config.User != uid+":65532" || !h.ReadonlyRootfs || h.Privileged || h.IpcMode != "none" || h.PidsLimit <= 0 || h.Memory <= 0 ||
			len(h.CapAdd) > 0 || !slices.Equal(h.CapDrop, []string{"ALL"}) || !slices.Equal(h.SecurityOpt, []string{"no-new-privileges:true"}) {
			t.Errorf("%s runs with other settings than compose.yaml's: user %s, %+v", service, c.Config.User, h)
		}

		pids := strings.Fields(docker(t, "top", p.id(t, service), "-eo", "pid"))[1:]
		if want := map[string]int{acceptor: 1, frontend: 2}[service]; len(pids) != want {
			t.Errorf("%s has %d processes, want %d", service, len(pids), want)
		}
		for _, pid := range pids {
			testStatus(t, service, read(t, "/proc/"+pid+"/status"), uid)
		}
		root, _, _ := strings.Cut(p.procFile(t, service, "mountinfo"), "\n")
		if fields := strings.Fields(root); fields[4] != "/" || !slices.Contains(strings.Split(fields[5], ","), "ro") {
			t.Errorf("%s: its root is mounted %q, want ro", service, root)
		}
	}
	for _, mount := range p.inspect(t, frontend).Mounts {
		if mount.Destination == "/run/gw" && mount.RW {
			t.Error("the frontend can write where the acceptor's sockets are")
		}
	}
}

// testStatus checks a /proc/PID/status.
func testStatus(t *testing.T, service, status, uid string) {
	t.Helper()
	none := strings.Repeat("0", 16)
	for name, want := range map[string]string{
		"Uid": strings.Repeat(uid+" ", 4), "Gid": strings.Repeat("65532 ", 4), "Groups": "65532 ",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		_, rest, found := strings.Cut(status, "\n"+name+":")
		value, _, _ := strings.Cut(rest, "\n")
		if got := strings.Join(strings.Fields(value), " "); !found || got != strings.TrimSpace(want) {
			t.Errorf("%s: /proc/PID/status has %s %q, want %q", service, name, got, want)
		}
	}
}

// The first start made the keys, for their owners alone.
func (p *pair) testKeyFiles(t *testing.T) {
	for service, want := range map[string]string{
		acceptor: "-rw------- 65532/65532 acceptor/ssh_host_ed25519_key",
		frontend: "-rw------- 65533/65532 keys/gateway.key",
	} {
		folder := map[string]string{acceptor: "/data/acceptor", frontend: "/data/keys"}[service]
		line := fmt.Sprintf("docker cp %s:%s - | tar -tv --numeric-owner | awk '{print $1, $2, $6}'", p.id(t, service), folder)
		listing := must(t, exec.CommandContext(t.Context(), "sh", "-c", line))
		if !slices.Contains(strings.Split(listing, "\n"), want) {
			t.Errorf("%s has no %q in %s:\n%s", service, want, folder, listing)
		}
	}
}
