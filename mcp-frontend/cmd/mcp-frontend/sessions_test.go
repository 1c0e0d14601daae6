package main

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/mcpserve"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// A client that connects in a loop cannot fill the trail: beyond the bound its
// conversations are counted, and the count is recorded with the next one that
// comes a minute later, and at the gateway's end.
func TestFloodOfSessionsIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		s := &sessions{record: func(r audit.Record) (uint64, error) {
			got = append(got, fmt.Sprint(r.Event, " ", r.Count, " ", r.Reason))
			return 0, nil
		}}
		flood := func(n int) {
			for range n {
				if ended := s.start(mcpserve.Caller{Session: "S"}); ended != nil {
					ended(mcpserve.Ending{Reason: "over", Requests: 1})
				}
			}
		}
		flood(maxSessionsPerMinute + 1000)
		if want := 2 * maxSessionsPerMinute; len(got) != want || got[0] != "session_started 0 " || got[want-1] != "session_ended 1 over" {
			t.Fatalf("got %d records, want %d; the first is %q, the last %q", len(got), want, got[0], got[len(got)-1])
		}
		got = nil
		<-time.NewTimer(time.Minute).C
		flood(1)
		const counted = " more than are recorded one by one within a minute"
		if diff := cmp.Diff([]string{"sessions_started 1000" + counted, "session_started 0 ", "session_ended 1 over"}, got); diff != "" {
			t.Errorf("a minute later (-want +got):\n%s", diff)
		}
		flood(maxSessionsPerMinute + 4)
		got = nil
		s.flush()
		s.flush()
		if diff := cmp.Diff([]string{"sessions_started 5" + counted}, got); diff != "" {
			t.Errorf("at the end (-want +got):\n%s", diff)
		}
	})
}
