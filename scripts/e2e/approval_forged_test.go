package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// forger speaks MCP by hand, to send what no honest client would.
type forger struct {
	*wire
	a *asked
	n int
}

const modern = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",` +
	`"io.modelcontextprotocol/clientInfo":{"name":"forger","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}`

// greet opens a conversation of the older generation.
func (f *forger) greet() {
	f.t.Helper()
	f.send(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"forger","version":"1"},"capabilities":{"elicitation":{}}}}`)
	f.answer(0)
	f.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
}

// call sends the call that needs a yes, with more members in its params, and
// returns its id.
func (f *forger) call(more ...string) int {
	f.t.Helper()
	f.n++
	params := fmt.Sprintf(`"name":"ssh_run","arguments":{"device":%q,"command":%q,"stdin":"ran\n"}`, directDevice, f.a.command())
	f.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{%s}}`, f.n, strings.Join(append([]string{params}, more...), ",")))
	return f.n
}

type forgedAnswer struct {
	ResultType        string
	RequestState      string
	IsError           bool
	StructuredContent runResult
}

// result is the answer to the call id.
func (f *forger) result(id int) (r forgedAnswer) {
	f.t.Helper()
	if err := json.Unmarshal(f.answer(id)["result"], &r); err != nil {
		f.t.Fatal(err)
	}
	r.StructuredContent.isError = r.IsError
	return r
}

// question calls without an answer and returns the sealed state.
func (f *forger) question() string {
	f.t.Helper()
	r := f.result(f.call(modern))
	if r.ResultType != "input_required" || r.RequestState == "" {
		f.t.Fatalf("got %+v, want a question", r)
	}
	return r.RequestState
}

func accepting(state string) string {
	return fmt.Sprintf(`%s,"requestState":%q,"inputResponses":{"approval":{"action":"accept"}}`, modern, state)
}

func newForger(t *testing.T, a *asked) *forger {
	t.Helper()
	return &forger{wire: startWire(t, a.frontend.command("attach")), a: a}
}

// A sealed state is good for one yes, by the connection and for the call that
// it was given to.
func TestForgedStates(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	a.serve(t)
	f, other := newForger(t, a), newForger(t, a)
	state := f.question()
	altered := []byte(state)
	altered[len(altered)/2] ^= 1
	refused := func(what string, r forgedAnswer, code string) {
		t.Helper()
		t.Log(what)
		r.StructuredContent.refused(t, code)
	}
	refused("unasked", f.result(f.call(modern, `"inputResponses":{"approval":{"action":"accept"}}`)), "INVALID_ARGUMENT")
	refused("made up", f.result(f.call(accepting("e30"))), "INVALID_ARGUMENT")
	refused("altered", f.result(f.call(accepting(string(altered)))), "INVALID_ARGUMENT")
	refused("from another connection", other.result(other.call(accepting(state))), "INVALID_ARGUMENT")
	f.n++
	f.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ssh_run","arguments":{"device":%q,"command":"tee %s.other"},%s}}`,
		f.n, directDevice, a.file, accepting(state)))
	refused("for another command", f.result(f.n), "INVALID_ARGUMENT")
	refused("an answer that is none", f.result(f.call(fmt.Sprintf(`%s,"requestState":%q,"inputResponses":{"approval":7}`, modern, f.question()))), "APPROVAL_DECLINED")

	// Without its answer the question is asked again, under another state.
	again := f.result(f.call(fmt.Sprintf(`%s,"requestState":%q`, modern, state)))
	if again.ResultType != "input_required" || again.RequestState == state {
		t.Errorf("a state without an answer: got %+v, want the question again", again)
	}
	refused("withdrawn", f.result(f.call(accepting(state))), "HANDLE_EXPIRED")
	if n := a.runs(t); n != 0 {
		t.Fatalf("it ran %d times", n)
	}
	f.result(f.call(accepting(again.RequestState))).StructuredContent.exited(t, 0)
	refused("replayed", f.result(f.call(accepting(again.RequestState))), "HANDLE_EXPIRED")
	if n := a.runs(t); n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}

	// The older generation has no states: a good one counts nothing there.
	legacy := newForger(t, a)
	legacy.greet()
	good := f.question()
	refused("by the older generation", legacy.result(legacy.call(fmt.Sprintf(`"requestState":%q,"inputResponses":{"approval":{"action":"accept"}}`, good))), "INVALID_ARGUMENT")
}

// A state that is too old is worth nothing, nor is one of a process that is gone.
func TestExpiredStates(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	daemon := a.serve(t, "--approval-ttl", "1s")
	f := newForger(t, a)
	state := f.question()
	eventually(t, soon, "the trail says that it expired", func() error {
		if events := a.events(t); !slices.Contains(events, "expired") {
			return fmt.Errorf("recorded %v", events)
		}
		return nil
	})
	f.result(f.call(accepting(state))).StructuredContent.refused(t, "HANDLE_EXPIRED")
	state = f.question()
	daemon.end()
	a.serve(t)
	f = newForger(t, a)
	f.result(f.call(accepting(state))).StructuredContent.refused(t, "INVALID_ARGUMENT")
	if n := a.runs(t); n != 0 {
		t.Errorf("it ran %d times", n)
	}
}

// In the older generation a question belongs to its connection: nobody else
// answers it, and only its first answer counts.
func TestForgedAnswers(t *testing.T) {
	t.Parallel()
	a := newAsked(t, "any")
	a.serve(t)
	f, other := newForger(t, a), newForger(t, a)
	f.greet()
	other.greet()
	const yes = `{"jsonrpc":"2.0","id":%s,"result":{"action":"accept"}}`
	f.send(fmt.Sprintf(yes, `"s1"`)) // before it is asked
	id := f.call()
	question := f.asked()
	other.send(fmt.Sprintf(yes, question))
	other.call()
	theirs := other.asked() // the other's own question, which has the same id
	if theirs != question {
		t.Logf("ids: %s and %s", question, theirs)
	}
	f.send(fmt.Sprintf(yes, `"s999"`), fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"action":"decline"}}`, question), fmt.Sprintf(yes, question))
	f.result(id).StructuredContent.refused(t, "APPROVAL_DECLINED")
	f.send(fmt.Sprintf(yes, question))
	if n := a.runs(t); n != 0 {
		t.Fatalf("it ran %d times", n)
	}
	other.send(fmt.Sprintf(yes, theirs))
	other.result(other.n).StructuredContent.exited(t, 0)
	if n := a.runs(t); n != 1 {
		t.Errorf("it ran %d times, want once", n)
	}
}

// asked waits for the server's question and returns its id.
func (f *forger) asked() string {
	f.t.Helper()
	late := time.After(2 * soon)
	for {
		select {
		case line, more := <-f.lines:
			if !more {
				f.t.Fatal("stdout ended before the question")
			}
			if m := f.message(line); string(m["method"]) == `"elicitation/create"` {
				return string(m["id"])
			}
		case <-late:
			f.t.Fatal("no question")
		}
	}
}

// send sends lines.
func (f *forger) send(lines ...string) {
	f.t.Helper()
	for _, line := range lines {
		f.wire.send(line)
	}
}
