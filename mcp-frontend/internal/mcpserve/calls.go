package mcpserve

import (
	"encoding/json"
	"errors"
	"sync"
)

var (
	errTooMany = errors.New("too many requests in flight")
	errIDInUse = errors.New("request id in use")
	errClosed  = errors.New("the conversation ends")
)

// calls holds the requests of one connection that are not answered yet, by the
// raw bytes of their ids.
type calls struct {
	max     int
	running sync.WaitGroup // requests whose handler has not ended; added to under mu

	mu     sync.Mutex // guards byID and closed; nothing else is locked under it
	byID   map[string]*request
	closed bool
}

func newCalls(limit int) *calls {
	return &calls{max: limit, byID: make(map[string]*request)}
}

// begin enters r, so that it can be cancelled, and counts it as running.
func (t *calls) begin(r *request) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch _, inUse := t.byID[string(r.id)]; {
	case t.closed:
		return errClosed
	case inUse:
		return errIDInUse
	case len(t.byID) >= t.max && !r.inline:
		return errTooMany
	}
	t.byID[string(r.id)] = r
	t.running.Add(1)
	return nil
}

// cancel cancels the request id, if it is not answered yet.
func (t *calls) cancel(id json.RawMessage) {
	t.mu.Lock()
	r := t.byID[string(id)]
	if r != nil {
		r.cancelled = true
	}
	t.mu.Unlock()
	if r != nil {
		r.cancel(ErrCancelled)
	}
}

// admit decides, as late as possible, whether m may be written. It removes an
// answered request before the client can see the answer: the client may use the
// id, and the place, at once.
func (t *calls) admit(m outgoing) bool {
	if m.req == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[string(m.req.id)] != m.req {
		return false // answered before
	}
	if m.last {
		delete(t.byID, string(m.req.id))
	}
	return !m.req.cancelled
}

// close refuses what would begin from now on.
func (t *calls) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
}

func (t *calls) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}
