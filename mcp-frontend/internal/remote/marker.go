package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A command can only be stopped for certain if the pid of its shell is known:
// sshd ignores signal requests for root logins, and forgets a command whose
// shell has died. So a POSIX shell is told to say its pid first, on a line of
// stdout that nothing else can say and that is taken out again. As the shell
// leads a process group of its own, the pid names everything that the command
// starts, but for what leaves the group.

// marker is that line, for one run.
type marker struct{ nonce string }

// newMarkerFilter returns a filter; without a marker it passes everything on.
func newMarkerFilter(dst *Capture, marked bool) *markerFilter {
	f := &markerFilter{dst: dst, mark: newMarker(), over: make(chan struct{})}
	if !marked {
		f.passLocked()
	}
	return f
}

func newMarker() marker { return marker{nonce: rand.Text()} }

// before returns text with the marker in front. It needs a POSIX shell.
func (m marker) before(text string) string {
	return "echo " + m.nonce + " $$; " + text
}

// markerLimit is how much a shell's start-up files may print before the
// marker: then it is not waited for any more.
const markerLimit = 64 << 10

// markerFilter takes the marker out of a stream.
type markerFilter struct {
	dst  *Capture
	mark marker
	over chan struct{} // closed when done

	mu   sync.Mutex // guards all below
	held []byte     // not passed on yet, as the marker may be in it
	done bool       // the marker was found, or is not waited for any more
	pid  int        // of the shell; 0 if not found
}

// Write implements io.Writer. It never fails.
func (f *markerFilter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return f.dst.Write(p)
	}
	f.held = append(f.held, p...)
	start := bytes.Index(f.held, []byte(f.mark.nonce))
	end := -1
	if start >= 0 {
		end = bytes.IndexByte(f.held[start:], '\n')
	}
	switch {
	case end >= 0:
		f.pid = parsePID(string(f.held[start+len(f.mark.nonce) : start+end]))
		f.held = append(f.held[:start:start], f.held[start+end+1:]...)
		f.passLocked()
	case len(f.held) > markerLimit:
		f.passLocked()
	}
	return len(p), nil
}

func (f *markerFilter) passLocked() {
	f.done = true
	close(f.over)
	_, _ = f.dst.Write(f.held) // a Capture never fails
	f.held = nil
}

// end passes on what is held when the stream is over.
func (f *markerFilter) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.done {
		f.passLocked()
	}
}

// await returns the shell's pid as soon as the marker has come, 0 if it has not
// within patience, does not come any more, or ctx has ended.
func (f *markerFilter) await(ctx context.Context, patience time.Duration) int {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.over:
	case <-timer.C:
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pid
}

func parsePID(text string) int {
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || pid <= 1 {
		return 0 // 1 would signal everything
	}
	return pid
}

// killGroup is the command that signals a process group. No "--": busybox
// does not know it. Its message is read, so it must be English.
func killGroup(signal string, group int) string {
	return fmt.Sprintf("LC_ALL=C kill -%s -%d", signal, group)
}
