package e2e

import (
	"testing"
	"time"
)

// soon bounds what should happen at once but is no promise of the contract.
// It is generous because the machine that runs this may be busy.
const soon = 10 * time.Second

// eventually polls until met returns nil, and fails the test with met's last
// error when that takes longer than within.
func eventually(t *testing.T, within time.Duration, what string, met func() error) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := met()
		if err == nil {
			return
		}
		if time.Since(start) > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		<-tick.C
	}
}
