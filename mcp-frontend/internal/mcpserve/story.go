package mcpserve

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
)

// Why a conversation ended.
const (
	endedByClient = "the client ended it"
	endedByRead   = "reading from the client failed"
	endedByWrite  = "the client stopped reading"
	endedByStop   = "the gateway stopped"
)

// story is what is told of one conversation: its beginning, unless it only
// pings as health checks do, and then its end.
type story struct {
	start    time.Time
	requests atomic.Int64

	begin sync.Once
	ended func(Ending) // set by begin; nil if nobody wants to know
}

// tellBegin tells of the conversation's beginning at its first request that is
// not ping. It returns once that is told, to whichever request.
func (c *conn) tellBegin(r *request, line []byte) {
	if c.cfg.Began == nil || r.method == string(mcp.MethodPing) {
		return
	}
	c.story.begin.Do(func() {
		who := c.session.greeted()
		if who.info.Name == "" {
			who.info = introduced(line)
		}
		c.story.ended = c.cfg.Began(c.session.caller(who))
	})
}

// end tells of the conversation's end. All its requests have ended before.
func (s *story) end(reason string) {
	if s.ended != nil {
		s.ended(Ending{Reason: reason, Requests: s.requests.Load(), Duration: time.Since(s.start)})
	}
}

// introduced is who a request of protocol 2026-07-28 or newer says its client
// is; empty if it says nothing that can be read.
func introduced(line []byte) mcp.Implementation {
	var m struct {
		Params struct {
			Meta struct {
				ClientInfo json.RawMessage `json:"io.modelcontextprotocol/clientInfo"`
			} `json:"_meta"`
		} `json:"params"`
	}
	var info mcp.Implementation
	if json.Unmarshal(line, &m) != nil || json.Unmarshal(m.Params.Meta.ClientInfo, &info) != nil {
		return mcp.Implementation{}
	}
	return info
}
