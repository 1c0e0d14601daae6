package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Each script under testdata/refusals is one thing that a device's key must
// not be able to do, tried with OpenSSH's own client by a device named
// intruder that has port 22300 to itself, while another device's tunnel is up.
func TestRefusals(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	intruder := newKey(t)
	g.acceptor.reload(t, g.grant(), grant("intruder", intruder, 22300))
	g.openTunnel(t)
	c := g.frontend.stdio(t)
	eventually(t, soon, "the other device works", func() error { return errorOf(c.works(t, tunnelDevice)) })
	eventually(t, soon, "the intruder may log in", func() error { return loginError(t, g.acceptor, intruder) })

	config := writeSSHConfig(t, t.TempDir(), g.acceptor, intruder,
		"HostName 127.0.0.1", fmt.Sprintf("Port %d", g.acceptor.port), "User agent", "LogLevel INFO")
	ports := map[string]int{"PORT": g.acceptor.port, "SSHD": g.behind.port}
	for _, name := range []string{"LISTEN_L", "LISTEN_D", "LISTEN_U"} { // for ssh clients that listen
		ports[name] = freePort(t)
	}

	commands := maps.Clone(scriptCommands)
	commands["other-tunnel-works"] = func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) > 0 {
			ts.Fatalf("usage: other-tunnel-works")
		}
		run, err := c.try(t.Context(), tunnelDevice, "echo it works")
		ts.Check(err)
		// A connection made anew would hide a tunnel that broke and came back.
		if run.Error != nil || run.Stdout != "it works\n" || run.Connect != "reused" {
			ts.Fatalf("error %+v, stdout %q, connect %q", run.Error, run.Stdout, run.Connect)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "refusals"),
		RequireExplicitExec: true,
		Cmds:                commands,
		Setup: func(env *testscript.Env) error {
			withPrograms(env)
			env.Setenv("CONFIG", config)
			env.Setenv("KNOWN_HOSTS", filepath.Join(filepath.Dir(config), "known_hosts"))
			env.Setenv("RUNDIR", g.acceptor.runDir)
			env.Setenv("OTHER_KEY", g.deviceKey.public)
			for name, port := range ports {
				env.Setenv(name, fmt.Sprint(port))
			}
			return nil
		},
	})
}
