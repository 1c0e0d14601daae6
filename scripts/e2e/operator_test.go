package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// waiting is what `mcp-frontend approvals --json` lists.
type waiting struct {
	Approvals []struct {
		ID, Device, Tool, Command, Rule string
		StdinBytes                      int    `json:"stdin_bytes"`
		ClientName                      string `json:"client_name"`
		PeerUID                         *int   `json:"peer_uid"`
	}
}

func (a *asked) waiting(t *testing.T) (w waiting) {
	t.Helper()
	done := runCmd(t, a.frontend.command("approvals", "--json"))
	if err := json.Unmarshal([]byte(done.stdout), &w); err != nil || done.code != 0 || w.Approvals == nil {
		t.Fatalf("approvals --json: exit code %d, %v: %s%s", done.code, err, done.stdout, done.stderr)
	}
	return w
}

// decides runs approve or deny, which must end with the code.
func (a *asked) decides(t *testing.T, code int, command string, args ...string) finished {
	t.Helper()
	done := runCmd(t, a.frontend.command(command, args...))
	if done.code != code || (code == 0) == (done.stdout == "") {
		t.Errorf("%s %v: exit code %d, stdout %q, stderr %q; want %d", command, args, done.code, done.stdout, done.stderr, code)
	}
	noStackTrace(t, done.stderr)
	return done
}

// A client that cannot ask is told an id. The operator sees what it stands for,
// says yes or no, and a yes is used once, by that client, for that call.
func TestApprovalByOperator(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	a.serve(t)
	c, other := a.attach(t), a.attach(t)
	if done := a.decides(t, 0, "approvals"); !strings.Contains(done.stdout, "nothing waits") {
		t.Errorf("before: %q", done.stdout)
	}
	e := a.asks(t, c).refused(t, "APPROVAL_REQUIRED")
	id := e.ApprovalID
	if !strings.Contains(e.Hint, "mcp-frontend approve "+id) || !strings.Contains(e.Hint, "approval_id") || e.FixBy != "operator" {
		t.Errorf("the hint does not help: %+v", e)
	}
	if again := a.asks(t, c).refused(t, "APPROVAL_REQUIRED"); again.ApprovalID != id {
		t.Errorf("the same call again has the id %s, want %s", again.ApprovalID, id)
	}
	a.asks(t, c, args{"approval_id": id}).refused(t, "APPROVAL_REQUIRED") // nobody has decided

	w := a.waiting(t)
	if len(w.Approvals) != 1 {
		t.Fatalf("waiting: got %+v, want one", w)
	}
	one := w.Approvals[0]
	if one.ID != id || one.Device != directDevice || one.Tool != "ssh_run" || one.Command != "'tee' '-a' '"+a.file+"'" || one.Rule != `approve: "tee **"` ||
		one.StdinBytes != 4 || one.ClientName != "e2e" || one.PeerUID == nil || *one.PeerUID != os.Getuid() {
		t.Errorf("waiting: got %+v", one)
	}
	table := a.decides(t, 0, "approvals").stdout
	for _, fact := range []string{id, directDevice, one.Command, "4 bytes", "unverified", "tee **"} {
		if !strings.Contains(table, fact) {
			t.Errorf("the operator is not told %q:\n%s", fact, table)
		}
	}

	a.decides(t, 1, "approve", "zzzz-zzzz")
	a.decides(t, 2, "approve")
	a.decides(t, 0, "approve", strings.ToUpper(strings.ReplaceAll(id, "-", "")))
	a.decides(t, 1, "approve", id)

	a.asks(t, other, args{"approval_id": id}).refused(t, "HANDLE_EXPIRED")
	c.run(t, directDevice, a.command(), args{"stdin": "no\n", "approval_id": id}).refused(t, "INVALID_ARGUMENT")
	c.run(t, directDevice, a.command()+".other", args{"stdin": "ran\n", "approval_id": id}).refused(t, "INVALID_ARGUMENT")
	a.asks(t, c, args{"approval_id": id, "cwd": "/tmp"}).refused(t, "POLICY_DENIED") // `cd` is not under allow
	if n := a.runs(t); n != 0 {
		t.Fatalf("it ran %d times before its use", n)
	}
	a.asks(t, c, args{"approval_id": id}).exited(t, 0)
	a.asks(t, c, args{"approval_id": id}).refused(t, "HANDLE_EXPIRED")
	if n := a.runs(t); n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}
	want := []string{
		"requested", "run_denied", "run_denied", "run_denied", "granted", "refused", "run_denied", "refused", "run_denied", "refused", "run_denied",
		"redeemed", "run_started", "run_finished", "refused", "run_denied",
	}
	if got := a.events(t); !slices.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
	for _, r := range readAudit(t, a.auditLog) {
		if r.Event == "run_started" && (r.ApprovalID != id || r.DecidedBy != fmt.Sprint("operator uid ", os.Getuid())) {
			t.Errorf("run_started does not say who said yes: %+v", r)
		}
	}
}

// A no reaches the agent with its reason, also after a yes, and is not asked for again.
func TestApprovalDenied(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	a.serve(t)
	c := a.attach(t)
	id := a.asks(t, c).refused(t, "APPROVAL_REQUIRED").ApprovalID
	a.decides(t, 0, "approve", id)
	a.decides(t, 0, "deny", id, "--reason", "not at night")
	a.decides(t, 1, "approve", id)
	for _, more := range []args{{"approval_id": id}, {}} {
		if e := a.asks(t, c, more).refused(t, "APPROVAL_DECLINED"); !strings.Contains(e.Message, "not at night") {
			t.Errorf("got %q, want the reason", e.Message)
		}
	}
	if w := a.waiting(t); len(w.Approvals) != 0 || a.runs(t) != 0 {
		t.Errorf("waiting: %+v, ran %d times", w, a.runs(t))
	}
}

// A client that was restarted uses what its predecessor asked for.
func TestApprovalAfterClientRestart(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	a.serve(t)
	c := a.attach(t)
	id := a.asks(t, c).refused(t, "APPROVAL_REQUIRED").ApprovalID
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	a.decides(t, 0, "approve", id)
	c = a.attach(t)
	eventually(t, soon, "the daemon knows that the first has ended", func() error {
		return errorOf(a.asks(t, c, args{"approval_id": id}).Error)
	})
	if n := a.runs(t); n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}
}

// A hostile agent can neither flood the operator nor speak to the terminal.
func TestApprovalFlood(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	a.serve(t)
	c := a.attach(t)
	limited := 0
	for n := range 20 {
		run := c.run(t, directDevice, fmt.Sprintf("tee 'x%d\n\tASKED BY the operator\u00a0'", n))
		if run.Error == nil {
			t.Fatalf("it ran: %+v", run)
		}
		if run.Error.Code == "LIMIT_EXCEEDED" {
			limited++
		}
	}
	if w := a.waiting(t); len(w.Approvals) != 8 || limited != 12 {
		t.Errorf("%d wait and %d were refused, want 8 and 12", len(w.Approvals), limited)
	}
	table := a.decides(t, 0, "approvals").stdout
	if strings.ContainsAny(table, "\t\u00a0") || !strings.Contains(table, `\x0a\x09ASKED BY`) {
		t.Errorf("the list is not safe to show:\n%q", table)
	}
	if e := c.run(t, directDevice, "tee "+strings.Repeat("x", 5000)).refused(t, "LIMIT_EXCEEDED"); !strings.Contains(e.Message, "4096") {
		t.Errorf("a command that nobody would read: got %+v", e)
	}
}

// The socket is its operator's alone: of the daemon's uid, or of the one named.
func TestOperatorSocketOwner(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Log("not root: nobody else to connect as")
		return
	}
	a := newAsked(t, "any")
	a.serve(t)
	if got := perm(t, a.operatorSocket()); got != 0o600 {
		t.Errorf("mode: got %o, want 600", got)
	}
	if err := os.Chmod(a.operatorSocket(), 0o666); err != nil { // as a careless operator would
		t.Fatal(err)
	}
	id := a.asks(t, a.attach(t)).refused(t, "APPROVAL_REQUIRED").ApprovalID
	for _, command := range [][]string{{"approvals"}, {"approve", id}} {
		done := runCmd(t, asForeignUser(t, frontendProgram(), append(command, "--operator-socket", a.operatorSocket())...))
		if done.code != 1 || strings.Contains(done.stdout, id) {
			t.Errorf("%v by another user: exit code %d, stdout %q", command, done.code, done.stdout)
		}
	}

	// Giving it to another uid takes root; a named socket that is in use refuses the start.
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	serve := []string{"serve", "--connections", readableByOthers(t, a.connections), "--acceptor-dir", "", "--keys-dir", dir, "--state-dir", dir, "--audit-log", dir + "/audit", "--mcp-socket", dir + "/mcp.sock", "--transfer-dir", dir}
	for flags, want := range map[string]string{
		"--operator-uid 0 --operator-socket " + dir + "/o.sock": "takes root",
		"--operator-socket " + a.operatorSocket():               a.operatorSocket(),
	} {
		done := runCmd(t, asForeignUser(t, frontendProgram(), append(serve, strings.Fields(flags)...)...))
		if done.code != 1 || !strings.Contains(done.stderr, want) {
			t.Errorf("%s: exit code %d, stderr %q; want 1 and %q", flags, done.code, done.stderr, want)
		}
	}

	foreign, err := user.Lookup(string(logins[0]))
	if err != nil {
		t.Fatal(err)
	}
	b := newAsked(t, "any")
	b.serve(t, "--operator-uid", foreign.Uid)
	if got := perm(t, b.operatorSocket()); got != 0o600 {
		t.Errorf("mode: got %o, want 600", got)
	}
	id = b.asks(t, b.attach(t)).refused(t, "APPROVAL_REQUIRED").ApprovalID
	b.decides(t, 1, "approve", id) // root may connect, and is not the operator
	done := runCmd(t, asForeignUser(t, frontendProgram(), "approve", id, "--operator-socket", b.operatorSocket()))
	if done.code != 0 {
		t.Errorf("the operator: exit code %d: %s", done.code, done.stderr)
	}
}

// The default socket may be another daemon's: then nobody can say yes, and the
// rest works.
func TestOperatorSocketTaken(t *testing.T) {
	t.Parallel()
	a, b := newAsked(t, "any"), newAsked(t, "any")
	for _, f := range []*asked{a, b} {
		serve := f.frontend.command("serve")
		serve.Args = slices.DeleteFunc(serve.Args, func(arg string) bool { return arg == "--operator-socket" || arg == f.operatorSocket() })
		serve.Dir = filepath.Dir(a.mcpSocket)
		startCmd(t, serve).waitReady(t)
	}
	if e := a.asks(t, a.attach(t)).refused(t, "APPROVAL_REQUIRED"); e.ApprovalID == "" {
		t.Errorf("the first: got %+v, want an id", e)
	}
	c := b.attach(t)
	if e := b.asks(t, c).refused(t, "APPROVAL_REQUIRED"); e.ApprovalID != "" {
		t.Errorf("the second: got %+v, want no id", e)
	}
	c.mustWork(t, directDevice)
}

// A client's yes is for its call: if the device is out of reach, it is gone with it.
func TestApprovalOfUnreachable(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"client", "operator"} {
		a := newAsked(t, by)
		port := a.entries[0]["port"]
		a.entries[0]["port"] = 1
		a.entries[0]["retry"] = args{"max_attempts": 1, "cooldown_s": 1}
		a.write(t)
		daemon := a.serve(t)
		yes := &human{result: mcp.ElicitResult{Action: "accept"}}
		c := connectWith(t, a.frontend.command("attach"), newestProtocol, yes.options())
		more := args{}
		if by == "operator" {
			more["approval_id"] = a.asks(t, c).refused(t, "APPROVAL_REQUIRED").ApprovalID
			a.decides(t, 0, "approve", fmt.Sprint(more["approval_id"]))
		}
		a.asks(t, c, more).refused(t, "DIAL_FAILED")
		a.entries[0]["port"] = port
		a.write(t)
		daemon.signal(t, syscall.SIGHUP)
		daemon.waitFor(t, "reloaded connections.json")
		asked := yes.asked.Load()
		a.asks(t, c, more).exited(t, 0)
		if by == "client" && yes.asked.Load() != asked+1 {
			t.Errorf("the client's user was not asked again")
		}
		if n := a.runs(t); n != 1 {
			t.Errorf("%s: it ran %d times, want once", by, n)
		}
	}
}
