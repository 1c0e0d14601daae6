package main

import (
	"bytes"
	"strings"
	"testing"
)

// The table tells an operator of each device what is wrong with it, also where
// its tunnel is up.
func TestStatusTable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := statusTable(&out, []byte(`{"devices": [
		{"name": "fine", "mode": "tunnel", "state": "up", "failures": 0, "last_error": "", "retry_after_s": 0, "tunnel": {"since": "2026-01-02T03:04:05Z"}},
		{"name": "locked", "mode": "tunnel", "state": "up", "failures": 2, "last_error": "AUTH_FAILED: no", "retry_after_s": 0, "tunnel": {"since": "2026-01-02T03:04:05Z"}},
		{"name": "resting", "mode": "direct", "state": "backing_off", "failures": 3, "last_error": "DIAL_FAILED: refused\u001b[2J", "retry_after_s": 17},
		{"name": "away", "mode": "tunnel", "state": "down", "failures": 0, "last_error": "TUNNEL_DOWN: x", "retry_after_s": 0, "tunnel": {"last_down": "2026-01-02T03:04:05Z", "last_down_reason": "keepalive"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	for i, wants := range [][]string{
		{"DEVICE", "MODE", "STATE", "FAILURES", "ABOUT"},
		{"fine", "tunnel", "up", "0", "tunnel up since"},
		{"locked", "up", "2", "AUTH_FAILED: no; tunnel up since"},
		{"resting", "direct", "backing_off", "3", "tried again in 17 s; DIAL_FAILED: refused?[2J"},
		{"away", "down", "0", "tunnel lost at", "keepalive"},
	} {
		for _, want := range wants {
			if !strings.Contains(lines[i], want) {
				t.Errorf("no %q in: %s", want, lines[i])
			}
		}
	}
}
