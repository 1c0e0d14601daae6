package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// deviceInfo is what ssh_device_info returns.
type deviceInfo struct {
	Device  string `json:"device"`
	State   string `json:"state"`
	OS      string `json:"os"`
	Kernel  string `json:"kernel"`
	Arch    string `json:"arch"`
	User    struct{ Name string }
	HostKey struct {
		Fingerprint string `json:"fingerprint"`
	} `json:"host_key"`
	Policy   []string   `json:"policy"`
	ProbedAt string     `json:"probed_at"`
	Cached   bool       `json:"cached"`
	Error    *toolError `json:"error"`
}

func (c *client) info(t *testing.T, device string, refresh bool) deviceInfo {
	t.Helper()
	return decode[deviceInfo](t, c.callTool(t, "ssh_device_info", args{"device": device, "refresh": refresh}))
}

// diagnosis is what ssh_diagnose returns.
type diagnosis struct {
	Device string `json:"device"`
	OK     bool   `json:"ok"`
	Stages []struct {
		Stage  string  `json:"stage"`
		Status string  `json:"status"`
		MS     float64 `json:"ms"`
		Code   string  `json:"code"`
	} `json:"stages"`
	FirstFailure string `json:"first_failure"`
	Hint         string `json:"hint"`
	FixBy        string `json:"fix_by"`
}

func (c *client) diagnose(t *testing.T, device string) diagnosis {
	t.Helper()
	return decode[diagnosis](t, c.callTool(t, "ssh_diagnose", args{"device": device}))
}

// fails fails the test unless the stage is the first failure, with this code;
// without a stage, unless all is well.
func (d diagnosis) fails(t *testing.T, stage, code string) {
	t.Helper()
	if d.OK != (stage == "") || d.FirstFailure != stage || d.Hint == "" || len(d.Stages) != 8 || stage != "" && d.FixBy == "" {
		t.Errorf("got %+v; want %s at the stage %q", d, code, stage)
	}
	for _, s := range d.Stages {
		if s.Stage == stage && (s.Status != "failed" || s.Code != code) {
			t.Errorf("got %+v; want %s", s, code)
		}
	}
}

// What a device is, through its tunnel; and, as one part of the way after the
// other fails, which one it is.
func TestDeviceInfoAndDiagnose(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.frontend.addDirect(t, "locked", g.direct, logins[0], newKey(t))
	c := g.frontend.stdio(t)
	c.diagnose(t, directDevice).fails(t, "", "")
	c.diagnose(t, "locked").fails(t, "auth", "AUTH_FAILED")
	eventually(t, soon, "the acceptor is known", func() error {
		if state := c.devices(t)[tunnelDevice].State; state != "down" {
			return fmt.Errorf("the device is %s", state)
		}
		return nil
	})
	c.diagnose(t, tunnelDevice).fails(t, "tunnel", "TUNNEL_DOWN")
	if info := c.info(t, tunnelDevice, false); info.Error == nil || info.Error.Code != "TUNNEL_DOWN" || len(info.Policy) == 0 || info.State != "down" {
		t.Errorf("of a device that is away: %+v", info)
	}

	g.openTunnel(t)
	eventually(t, soon, "the device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	c.diagnose(t, tunnelDevice).fails(t, "", "")
	info := c.info(t, tunnelDevice, false)
	if info.Error != nil || info.OS != strings.TrimSpace(string(output(t, "uname", "-s"))) || info.Kernel != strings.TrimSpace(string(output(t, "uname", "-r"))) ||
		info.User.Name != string(logins[0]) || info.HostKey.Fingerprint != g.behind.hostKey.fingerprint || info.Cached || info.ProbedAt == "" || info.State != "up" {
		t.Errorf("got %+v", info)
	}
	if again := c.info(t, tunnelDevice, false); !again.Cached || again.ProbedAt != info.ProbedAt {
		t.Errorf("the second answer: %+v", again)
	}
	if fresh := c.info(t, tunnelDevice, true); fresh.Cached || fresh.Kernel != info.Kernel {
		t.Errorf("refresh: %+v", fresh)
	}
	if direct := c.info(t, directDevice, false); direct.Error != nil || direct.Kernel != info.Kernel || direct.HostKey.Fingerprint != g.direct.hostKey.fingerprint {
		t.Errorf("of the direct device: %+v", direct)
	}
	if again := c.mustWork(t, tunnelDevice); again.Connect != "reused" {
		t.Errorf("afterwards: connect %q, want reused", again.Connect)
	}

	g.acceptor.stop(t, syscall.SIGTERM)
	eventually(t, soon, "the acceptor is seen to be gone", func() error {
		if state := c.devices(t)[tunnelDevice].State; state != "unknown" {
			return fmt.Errorf("the device is %s", state)
		}
		return nil
	})
	c.diagnose(t, tunnelDevice).fails(t, "acceptor", "ACCEPTOR_DOWN")
	c.diagnose(t, directDevice).fails(t, "", "")
}

// What fails is seen by the agent and by the operator alike.
func TestFailuresAreVisible(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	off := entry{
		"name": "off", "mode": "direct", "user": string(logins[0]), "host": "127.0.0.1", "port": freePort(t),
		"retry": map[string]any{"max_attempts": 2, "initial_backoff_ms": 10, "cooldown_s": 600},
	}
	f.add(t, off, userKey)
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	f.serve(t)
	c := f.attach(t)
	if e := c.run(t, "off", "true").refused(t, "DIAL_FAILED"); e.NextTool == nil || *e.NextTool != "ssh_diagnose" {
		t.Errorf("DIAL_FAILED does not name ssh_diagnose: %+v", e)
	}
	c.run(t, "off", "true").refused(t, "BACKING_OFF")
	c.diagnose(t, "off").fails(t, "dial", "DIAL_FAILED")

	var list struct {
		Devices []struct {
			Name        string
			State       string
			Failures    int
			LastError   string `json:"last_error"`
			RetryAfterS int    `json:"retry_after_s"`
		}
	}
	said := output(t, frontendProgram(), "status", "--json", "--mcp-socket", f.mcpSocket)
	if err := json.Unmarshal(said, &list); err != nil || len(list.Devices) != 2 {
		t.Fatalf("status --json: %v\n%s", err, said)
	}
	for _, d := range list.Devices {
		if d.Name == "off" && (d.State != "backing_off" || d.Failures != 2 || !strings.HasPrefix(d.LastError, "DIAL_FAILED") || d.RetryAfterS < 500 || d.RetryAfterS > 600) {
			t.Errorf("status --json says %+v", d)
		}
	}
	table := runCmd(t, exec.Command(frontendProgram(), "status", "--mcp-socket", f.mcpSocket))
	for _, words := range []string{"off", "backing_off", "tried again in ", "DIAL_FAILED"} {
		if !strings.Contains(table.stdout, words) {
			t.Errorf("status does not say %q:\n%s", words, table.stdout)
		}
	}
}
