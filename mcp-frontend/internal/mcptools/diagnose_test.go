package mcptools

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

func (g *gateway) diagnosed(t *testing.T, device string) diagnosis {
	t.Helper()
	var d diagnosis
	if err := json.Unmarshal(g.call(t, "ssh_diagnose", args{"device": device}).StructuredContent, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d diagnosis) stagesAre(t *testing.T, want string) {
	t.Helper()
	var got []string
	for _, s := range d.Stages {
		got = append(got, strings.TrimSpace(s.Stage+" "+s.Status+" "+s.Code))
		if (s.Status == "failed") != (s.Message != "") || s.Status == "skipped" && s.MS != 0 {
			t.Errorf("%s: got %+v", d.Device, s)
		}
	}
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("%s:\n got %s\nwant %s", d.Device, text, want)
	}
	if d.OK != (d.FirstFailure == "") || d.Hint == "" || !d.OK && d.FixBy == "" {
		t.Errorf("%s: got %+v", d.Device, d)
	}
}

// Each thing that can be wrong with a device is told at its own stage.
func TestDiagnose(t *testing.T) {
	t.Parallel()
	withSFTP := []string{"Subsystem sftp internal-sftp"}
	s := sshdtest.Start(t, sshdtest.Config{Lines: withSFTP})
	other := sshdtest.Start(t, sshdtest.Config{})
	full := sshdtest.Start(t, sshdtest.Config{Lines: []string{"MaxSessions 0"}})
	noShell := sshdtest.Start(t, sshdtest.Config{Lines: append(withSFTP, "ForceCommand echo This account is not available.")})
	filesOnly := sshdtest.Start(t, sshdtest.Config{Lines: append(withSFTP, "ForceCommand internal-sftp")})
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0") // never accepted, so nothing is said
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	var silentPort int
	if _, err := fmt.Sscan(port, &silentPort); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, s.Known("edge,locked,keyless,off,slot,silent,inner")+"\n"+full.Known("full")+"\n"+noShell.Known("no-shell")+"\n"+filesOnly.Known("files-only")+"\n",
		entryOf(t, "edge", s, nil),
		entryOf(t, "keyless", s, args{"id_file": "nowhere"}),
		entryOf(t, "slot", s, args{"mode": "tunnel", "host": "127.0.0.1"}),
		entryOf(t, "off", s, args{"port": 1}),
		entryOf(t, "silent", s, args{"port": silentPort, "connect_timeout_s": 1}),
		entryOf(t, "stranger", s, nil),
		entryOf(t, "changed", s, args{"known_hosts": knownAs(t, other.Known("changed"))}),
		entryOf(t, "garbled", s, args{"known_hosts": knownAs(t, "garbled ssh-ed25519 !!!")}),
		entryOf(t, "locked", s, args{"id_file": sshdtest.NewKey(t, "ed25519").Path}),
		entryOf(t, "full", full, nil),
		entryOf(t, "no-shell", noShell, nil),
		entryOf(t, "files-only", filesOnly, nil),
		entryOf(t, "inner", s, args{"jump": "stranger"}),
	)
	const direct = "config ok, acceptor skipped, tunnel skipped, "
	for _, c := range []struct{ device, stages, fixBy string }{
		{"edge", direct + "dial ok, host_key ok, auth ok, exec ok, sftp ok", ""},
		{"keyless", "config failed KEY_UNUSABLE, acceptor skipped, tunnel skipped, dial skipped, host_key skipped, auth skipped, exec skipped, sftp skipped", byOperator},
		{"slot", "config ok, acceptor failed ACCEPTOR_DOWN, tunnel skipped, dial skipped, host_key skipped, auth skipped, exec skipped, sftp skipped", byOperator},
		{"off", direct + "dial failed DIAL_FAILED, host_key skipped, auth skipped, exec skipped, sftp skipped", byOperator},
		{"silent", direct + "dial ok, host_key failed DIAL_FAILED, auth skipped, exec skipped, sftp skipped", byOperator},
		{"stranger", direct + "dial ok, host_key failed HOST_KEY_UNKNOWN, auth skipped, exec skipped, sftp skipped", byOperator},
		{"changed", direct + "dial ok, host_key failed HOST_KEY_MISMATCH, auth skipped, exec skipped, sftp skipped", byOperator},
		{"garbled", direct + "dial ok, host_key failed HOST_KEY_UNKNOWN, auth skipped, exec skipped, sftp skipped", byOperator},
		{"locked", direct + "dial ok, host_key ok, auth failed AUTH_FAILED, exec skipped, sftp skipped", byOperator},
		{"full", direct + "dial ok, host_key ok, auth ok, exec failed CHANNEL_REFUSED, sftp failed SFTP_UNAVAILABLE", byOperator},
		{"no-shell", direct + "dial ok, host_key ok, auth ok, exec failed UNSUPPORTED_SHELL, sftp failed SFTP_UNAVAILABLE", byOperator},
		{"files-only", direct + "dial ok, host_key ok, auth ok, exec failed UNSUPPORTED_SHELL, sftp ok", byOperator},
		{"inner", direct + "dial failed HOST_KEY_UNKNOWN, host_key skipped, auth skipped, exec skipped, sftp skipped", byOperator},
	} {
		d := g.diagnosed(t, c.device)
		d.stagesAre(t, c.stages)
		if d.FixBy != c.fixBy || d.Device != c.device {
			t.Errorf("%s: got %+v", c.device, d)
		}
		events, records := g.trail.events()
		if !slices.Equal(events, []string{"diagnose_started", "diagnose_finished"}) || (records[1].Outcome == "ok") != d.OK || records[1].Tool != "ssh_diagnose" {
			t.Errorf("%s: recorded %v", c.device, events)
		}
	}
	if d := g.diagnosed(t, "inner"); !strings.Contains(d.Stages[3].Message, "stranger") {
		t.Errorf("the jump host is not named: %+v", d.Stages[3])
	}
	if e := g.call(t, "ssh_diagnose", args{"device": "edg"}).run.Error; e == nil || e.Code != "DEVICE_NOT_FOUND" {
		t.Errorf("got %+v", e)
	}
}

// A diagnosis is made beside what is there: the warm connection goes on, the
// cooldown neither stops it nor grows by it, and ends with its success.
func TestDiagnoseIsBeside(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"Subsystem sftp internal-sftp"}})
	userKey := sshdtest.NewKey(t, "ed25519")
	g := newGateway(t, s.Known("edge,locked")+"\n", entryOf(t, "edge", s, args{"max_sessions": 1}),
		entryOf(t, "locked", s, args{"id_file": userKey.Path, "retry": args{"max_attempts": 1, "cooldown_s": 600}}))
	g.call(t, "ssh_run", args{"device": "edge", "command": "true"})
	if d := g.diagnosed(t, "edge"); !d.OK {
		t.Errorf("got %+v", d)
	}
	if r := g.call(t, "ssh_run", args{"device": "edge", "command": "true"}).run; r.Connect != "reused" || s.Accepted() != 2 {
		t.Errorf("%s after %d connections", r.Connect, s.Accepted())
	}

	code := func() string {
		if e := g.call(t, "ssh_run", args{"device": "locked", "command": "true"}).run.Error; e != nil {
			return e.Code
		}
		return ""
	}
	if got := []string{code(), code()}; !slices.Equal(got, []string{"AUTH_FAILED", "BACKING_OFF"}) {
		t.Fatalf("got %v", got)
	}
	before := g.info(t, args{"device": "locked"})
	if d := g.diagnosed(t, "locked"); d.FirstFailure != "auth" {
		t.Errorf("during the cooldown: %+v", d)
	}
	if after := g.info(t, args{"device": "locked"}); after.Failures != before.Failures || after.RetryAfterS > before.RetryAfterS || after.State != "backing_off" {
		t.Errorf("a diagnosis counts: %+v, then %+v", before, after)
	}
	s.Authorize(t, userKey)
	if d := g.diagnosed(t, "locked"); !d.OK {
		t.Errorf("with the key let in: %+v", d)
	}
	if got := code(); got != "" {
		t.Errorf("after a diagnosis without a fault: %s", got)
	}
}

// An agent in a loop does not hammer the device.
func TestDiagnoseIsBounded(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	g := newGateway(t, s.Known("edge,other")+"\n", entryOf(t, "edge", s, nil), entryOf(t, "other", s, nil))
	for range maxDiagnoses {
		g.diagnosed(t, "edge")
	}
	for range 5 {
		if e := g.call(t, "ssh_diagnose", args{"device": "edge"}).run.Error; e == nil || e.Code != "BUSY" || e.RetryAfterS < 1 || e.RetryAfterS > 30 || !e.Retriable {
			t.Errorf("got %+v", e)
		}
	}
	if s.Accepted() != maxDiagnoses {
		t.Errorf("%d connections", s.Accepted())
	}
	g.diagnosed(t, "other").stagesAre(t, "config ok, acceptor skipped, tunnel skipped, dial ok, host_key ok, auth ok, exec ok, sftp failed SFTP_UNAVAILABLE")
}
