package deploy

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// An operator installs the units by the README's commands on a machine with
// systemd. Both programs do their whole work under all restrictions, for their
// own users alone, and come back when they die.
func TestUnitsRun(t *testing.T) {
	t.Parallel()
	requireSystemd(t)
	m := boot(t)
	m.must(t, "cd /src\n"+installCommands(t))
	healthy := func() string {
		for _, check := range []string{
			as("tunnel-acceptor", "tunnel-acceptor healthcheck --run-dir /run/tunnel-acceptor"),
			as("mcp-frontend", "mcp-frontend healthcheck --mcp-socket /run/mcp-frontend/mcp.sock"),
		} {
			if said, err := m.try(t, check); err != nil {
				return fmt.Sprintf("%s: %v %s", check, err, said)
			}
		}
		return ""
	}
	eventually(t, healthy)

	confined(t, m)
	socketsAreGuarded(t, m)
	runsThroughTunnel(t, m)

	// The acceptor dies; systemd starts it again, and the frontend goes on.
	frontend := m.must(t, "systemctl show -p MainPID --value mcp-frontend")
	acceptor := m.must(t, "systemctl show -p MainPID --value tunnel-acceptor")
	m.must(t, "kill -KILL "+acceptor)
	eventually(t, func() string {
		if now := m.must(t, "systemctl show -p MainPID --value tunnel-acceptor"); now == acceptor || now == "0" {
			return "systemd has not started the acceptor again"
		}
		return healthy()
	})
	if now := m.must(t, "systemctl show -p MainPID --value mcp-frontend"); now != frontend {
		t.Error("the frontend was restarted with the acceptor")
	}

	// Without any network, the frontend reaches the device through the tunnel.
	m.must(t, `mkdir /etc/systemd/system/mcp-frontend.service.d
		install -m 0644 /src/compose/systemd/tunnel-only.conf /etc/systemd/system/mcp-frontend.service.d/
		systemctl daemon-reload
		systemctl restart mcp-frontend`)
	links := m.must(t, `nsenter --target "$(systemctl show -p MainPID --value mcp-frontend)" --net ip -brief link`)
	if !strings.HasPrefix(links, "lo") || strings.Contains(links, "\n") {
		t.Errorf("with tunnel-only.conf, the frontend has the links %s", links)
	}
	openTunnel(t, m)
	mustRun(t, m)

	m.must(t, "systemctl stop tunnel-acceptor mcp-frontend")
	for _, program := range programs {
		if got := m.must(t, "systemctl show -p Result,ExecMainStatus "+program); !strings.Contains(got, "Result=success") || !strings.Contains(got, "ExecMainStatus=0") {
			t.Errorf("%s, stopped: %s", program, got)
		}
	}
}

// confined reads back from the kernel what the units ask for.
func confined(t *testing.T, m *machine) {
	t.Helper()
	uids := map[string]string{"tunnel-acceptor": "65532", "mcp-frontend": "65533"}
	for _, program := range programs {
		pid := m.must(t, "systemctl show -p MainPID --value "+program)
		status := m.must(t, "cat /proc/"+pid+"/status")
		none := "0000000000000000"
		for _, want := range []string{
			"Uid:\t" + strings.Repeat(uids[program]+"\t", 3) + uids[program] + "\n",
			"CapEff:\t" + none, "CapPrm:\t" + none, "CapBnd:\t" + none, "CapAmb:\t" + none, "NoNewPrivs:\t1", "Seccomp:\t2",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("%s runs without %q:\n%s", program, want, status)
			}
		}
		for _, path := range []string{"/etc/mcp-ssh-gateway/x", "/usr/local/bin/x", "/var/x"} {
			said, err := m.try(t, "nsenter --target "+pid+" --mount touch "+path)
			if err == nil || !strings.Contains(said, "Read-only file system") {
				t.Errorf("%s could write %s: %v %s", program, path, err, said)
			}
		}
		if said, err := m.try(t, "nsenter --target "+pid+" --mount ls -A /home /root"); err == nil && strings.TrimSpace(strings.NewReplacer("/home:", "", "/root:", "").Replace(said)) != "" {
			t.Errorf("%s sees homes: %s", program, said)
		}
	}
}

func socketsAreGuarded(t *testing.T, m *machine) {
	t.Helper()
	want := `700 mcp-frontend:mcp-frontend /var/lib/mcp-frontend
600 mcp-frontend:mcp-frontend /var/lib/mcp-frontend/keys/gateway.key
700 tunnel-acceptor:tunnel-acceptor /var/lib/tunnel-acceptor
600 tunnel-acceptor:tunnel-acceptor /var/lib/tunnel-acceptor/data/acceptor/ssh_host_ed25519_key
750 tunnel-acceptor:tunnel-acceptor /run/tunnel-acceptor
660 tunnel-acceptor:tunnel-acceptor /run/tunnel-acceptor/control.sock
660 tunnel-acceptor:tunnel-acceptor /run/tunnel-acceptor/dial.sock
700 mcp-frontend:mcp-frontend /run/mcp-frontend
600 mcp-frontend:mcp-frontend /run/mcp-frontend/mcp.sock`
	var paths []string
	for line := range strings.Lines(want) {
		paths = append(paths, strings.Fields(line)[2])
	}
	if got := m.must(t, "stat -L -c '%a %U:%G %n' "+strings.Join(paths, " ")); got != want {
		t.Errorf("modes and owners:\n%s\nwant:\n%s", got, want)
	}

	list := "tunnel-acceptor list --run-dir /run/tunnel-acceptor"
	if said, err := m.try(t, as("mcp-frontend", list)); err != nil {
		t.Errorf("mcp-frontend, asking the acceptor: %v %s", err, said)
	}
	if said, err := m.try(t, "setpriv --reuid=nobody --regid=nogroup --clear-groups "+list); err == nil || !strings.Contains(said, "permission denied") {
		t.Errorf("another user, asking the acceptor: %v %s", err, said)
	}
	if said, err := m.try(t, "setpriv --reuid=nobody --regid=tunnel-acceptor --clear-groups "+list); err == nil || !strings.Contains(said, "--allow-uid") {
		t.Errorf("another user of its group, asking the acceptor: %v %s", err, said)
	}
}

// runsThroughTunnel adds a device by the operator's steps: the files, the
// reloads, the tunnel, the device's trust and ours, a command.
func runsThroughTunnel(t *testing.T, m *machine) {
	t.Helper()
	private, public := key(t)
	text, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	m.must(t, "mkdir -p -m 0700 /root/.ssh /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/device_host")
	m.file(t, "/root/.ssh/gateway", string(text))
	m.must(t, "chmod 600 /root/.ssh/gateway")
	gateway := m.must(t, as("mcp-frontend", "mcp-frontend keys public gateway --keys-dir /var/lib/mcp-frontend/keys"))
	m.file(t, "/root/.ssh/device_authorized_keys", `restrict,from="127.0.0.1,::1" `+gateway+"\n")
	m.must(t, `journalctl --no-pager -u tunnel-acceptor | sed -n 's/.*msg="host key".* public_key="\(.*\)"/[127.0.0.1]:2222 \1/p' >/root/.ssh/known_hosts`)
	m.must(t, "$(command -v sshd) -f /dev/null -h /root/.ssh/device_host -o ListenAddress=127.0.0.1:22 -o PidFile=none -o UsePAM=no "+
		"-o StrictModes=no -o PermitRootLogin=yes -o AuthorizedKeysFile=/root/.ssh/device_authorized_keys")

	// The acceptor reads a saved change by itself; the reload shows that the signal arrives too.
	m.file(t, "/etc/mcp-ssh-gateway/authorized_keys", `restrict,port-forwarding,permitlisten="22222" `+public+" edge-vm-2\n")
	m.file(t, "/etc/mcp-ssh-gateway/connections.json",
		`[{"name": "edge-vm-2", "mode": "tunnel", "user": "root", "host": "127.0.0.1", "port": 22222, "id_file": "/var/lib/mcp-frontend/keys/gateway.key"}]`)
	m.must(t, "systemctl reload tunnel-acceptor mcp-frontend")
	eventually(t, func() string {
		if said := m.must(t, as("mcp-frontend", "mcp-frontend status --mcp-socket /run/mcp-frontend/mcp.sock")); !strings.Contains(said, "edge-vm-2") {
			return "after systemctl reload, the frontend does not know the device: " + said
		}
		if said := m.must(t, "journalctl --no-pager -u tunnel-acceptor"); !strings.Contains(said, "reloaded the authorized keys") {
			return "after systemctl reload, the acceptor has not read its keys: " + said
		}
		return ""
	})
	openTunnel(t, m)
	trust := as("mcp-frontend", `env MCP_FRONTEND_CONNECTIONS=/etc/mcp-ssh-gateway/connections.json mcp-frontend trust edge-vm-2 --acceptor-dir /run/tunnel-acceptor`)
	m.must(t, trust+` --fingerprint "$(ssh-keygen -lf /root/.ssh/device_host.pub | cut -d ' ' -f 2)" >>/etc/mcp-ssh-gateway/known_hosts`)
	mustRun(t, m)
}

func openTunnel(t *testing.T, m *machine) {
	t.Helper()
	// With -f, ssh returns when the forward is granted; what it leaves behind must hold none of our pipes.
	m.must(t, "ssh -f -N -R 22222:localhost:22 agent@127.0.0.1 -p 2222 -i /root/.ssh/gateway -o IdentitiesOnly=yes "+
		"-o ExitOnForwardFailure=yes -o BatchMode=yes </dev/null >/dev/null 2>/root/.ssh/log || { cat /root/.ssh/log; exit 1; }")
}

func mustRun(t *testing.T, m *machine) {
	t.Helper()
	eventually(t, func() string {
		result := m.callTool(t, "ssh_run", map[string]any{"device": "edge-vm-2", "command": "cat /proc/sys/kernel/ostype"})
		if !strings.Contains(result, `"stdout":"Linux\n"`) || !strings.Contains(result, `"exit_code":0`) {
			return "ssh_run: " + result
		}
		return ""
	})
}
