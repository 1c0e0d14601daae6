package mcptools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/approvals"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/files"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/jobs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/outputs"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/policy"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/keyfile"
)

// trail is an audit trail in memory that may be told to fail.
type trail struct {
	mu      sync.Mutex // guards all below
	records []audit.Record
	fails   func(audit.Record) bool // nil: never
}

func (tr *trail) append(r audit.Record) (uint64, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.fails != nil && tr.fails(r) {
		return 0, errors.New("no space left on device")
	}
	tr.records = append(tr.records, r)
	return uint64(len(tr.records)), nil
}

// events are the events so far, and forgets them.
func (tr *trail) events() (events []string, records []audit.Record) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, r := range tr.records {
		events = append(events, r.Event)
	}
	records, tr.records = tr.records, nil
	return events, records
}

// logged is what the gateway logs, also in the background.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// gateway is a server with its tools and the trail they leave.
type gateway struct {
	mcp     *server.MCPServer
	waiting *approvals.Store
	trail   *trail
	log     *logged
	lists   map[string]listed

	transfers string // the directory
}

// listed is a tool as tools/list shows it.
type listed struct {
	Name, Title, Description  string
	Annotations               map[string]bool
	InputSchema, OutputSchema json.RawMessage
}

// newGateway has these devices; each is entry{} of connections.json, and may
// have a "policy".
func newGateway(t *testing.T, knownHosts string, entries ...map[string]any) *gateway {
	t.Helper()
	text, err := json.Marshal(append([]map[string]any{}, entries...))
	if err != nil {
		t.Fatal(err)
	}
	set, err := connections.Parse(filepath.Join(t.TempDir(), "connections.json"), text)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	sshdtest.Write(t, known, knownHosts, 0o644)
	g := &gateway{trail: new(trail), log: new(logged)}
	log := slog.New(slog.NewTextHandler(g.log, nil))
	pool, err := sshpool.New(sshpool.Config{Devices: set, KnownHosts: known, LoadKey: keyfile.Load, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := outputs.Open(outputs.Config{Dir: t.TempDir(), MaxStream: 1 << 20, MaxTotal: 4 << 20, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	book, err := jobs.Open(t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(book.Close)
	keeper, err := jobs.NewKeeper(jobs.Config{Book: book, Acquire: pool.Acquire, Quote: QuoteScript, Record: g.trail.append, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var keeping sync.WaitGroup
	keeping.Go(func() { _ = keeper.Run(ctx) })
	t.Cleanup(func() { stop(); keeping.Wait() })
	g.waiting, err = approvals.New(approvals.Config{TTL: time.Minute, Log: log, Record: func(r audit.Record) error {
		_, err := g.trail.append(r)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	g.transfers = t.TempDir()
	transfers, err := files.OpenDir(g.transfers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transfers.Close() })
	g.mcp, err = New("test", Config{
		Pool: pool, Outputs: store, Transfers: transfers, Jobs: keeper, Record: g.trail.append, Log: log,
		Approvals: g.waiting, Operator: func() bool { return true },
		Policy: func(name string) *policy.Policy {
			d, _ := set.Lookup(name)
			var cfg policy.Config
			if p := d.Policy; p != nil {
				cfg = policy.Config{
					Allow: policy.List(p.Allow), Approve: policy.List(p.Approve), ApproveBy: p.ApproveBy, Shell: p.Shell,
					ReadPaths: policy.List(p.ReadPaths), WritePaths: policy.List(p.WritePaths),
				}
			}
			compiled, err := policy.New(cfg)
			if err != nil {
				t.Error(err)
			}
			return compiled
		},
		Limits: func(name string) Limits {
			d, _ := set.Lookup(name)
			l := Limits{DefaultTimeout: d.CommandTimeout}
			if d.Policy != nil {
				l.MaxTimeout, l.MaxOutputBytes = d.Policy.MaxTimeout, d.Policy.MaxOutputBytes
			}
			return l
		},
		Caller: func(context.Context) Caller { return Caller{Session: "s1", ClientName: "tester", ClientVersion: "1"} },
	})
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Tools []listed }
	g.ask(t, "tools/list", nil, &list)
	g.lists = make(map[string]listed)
	for _, tool := range list.Tools {
		g.lists[tool.Name] = tool
	}
	return g
}

// entryOf is an entry that is s, with more fields on top.
func entryOf(t *testing.T, name string, s *sshdtest.Server, more map[string]any) map[string]any {
	t.Helper()
	e := map[string]any{"name": name, "mode": "direct", "user": sshdtest.Plain(t), "host": s.Host, "port": s.Port, "id_file": s.UserKey.Path}
	maps.Copy(e, more)
	return e
}

// ask sends one request and decodes its result.
func (g *gateway) ask(t *testing.T, method string, params, result any) json.RawMessage {
	t.Helper()
	request, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(g.mcp.HandleMessage(t.Context(), request))
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Result json.RawMessage }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Result == nil {
		t.Fatalf("%s: no result in %s", method, text)
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		t.Fatal(err)
	}
	return answer.Result
}

// called is what a tool answered.
type called struct {
	IsError           bool
	Content           []struct{ Type, Text string }
	StructuredContent json.RawMessage
	run               runResult // of its structured content
}

// call calls a tool, and checks what must be true of every answer.
func (g *gateway) call(t *testing.T, tool string, arguments any) called {
	t.Helper()
	var c called
	g.ask(t, "tools/call", map[string]any{"name": tool, "arguments": arguments}, &c)
	if len(c.Content) != 1 || c.Content[0].Type != "text" {
		t.Fatalf("got %+v, want one text", c.Content)
	}
	var inText, structured any // mcp-go writes < and > in its own way
	if err := errors.Join(json.Unmarshal([]byte(c.Content[0].Text), &inText), json.Unmarshal(c.StructuredContent, &structured)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(structured, inText); diff != "" {
		t.Errorf("the text is not the structured content:\n%s", diff)
	}
	if problem := fits(t, g.lists[tool].OutputSchema, c.StructuredContent); problem != "" {
		t.Errorf("%s does not fit its schema: %s\n%s", tool, problem, c.StructuredContent)
	}
	var into any = &c.run
	if tool == "ssh_device_info" { // whose policy is words
		into = &struct{ Error **toolError }{&c.run.Error}
	}
	if err := json.Unmarshal(c.StructuredContent, into); err != nil {
		t.Fatal(err)
	}
	if c.IsError != (c.run.Error != nil) {
		t.Errorf("isError %v with the error %+v", c.IsError, c.run.Error)
	}
	if e := c.run.Error; e != nil && (e.Code == "" || e.Message == "" || e.Stage == "" || e.Hint == "" || e.FixBy != byModel && e.FixBy != byOperator) {
		t.Errorf("the error says too little: %+v", e)
	}
	if g.log.String() != "" {
		t.Errorf("logged: %s", g.log)
	}
	return c
}

func fits(t *testing.T, schema, value json.RawMessage) string {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(instance); err != nil {
		return fmt.Sprint(err)
	}
	return ""
}
