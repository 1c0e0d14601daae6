package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// Two calls for the same transfer do not get in each other's way, a source
// that changes is not taken for one that did not, and what does not move ends.
func TestTransferAmiss(t *testing.T) {
	t.Parallel()
	s := sftpd(t)
	login := sshdtest.Plain(t)
	d, local := transfers(t)
	dir := directory(t, login)
	content := random(8 << 20)
	sshdtest.Write(t, local+"/source", string(content), 0o600)

	j, err := d.journal("upload", "edge", dir+"/busy", "source")
	if err != nil {
		t.Fatal(err)
	}
	_, err = send(t, s.Client(t, login), copying(d, dir+"/busy", "source"))
	mustFail(t, err, Busy)
	j.close()

	changing := copying(d, dir+"/changing", "source")
	changing.Moved = func(int64, int64) {
		now := time.Now()
		_ = os.Chtimes(local+"/source", now, now)
	}
	_, err = send(t, s.Client(t, login), changing)
	if e := mustFail(t, err, Precondition); !e.Gateway {
		t.Errorf("got %+v", e)
	}

	client, proxy := through(t, s, login, sshdtest.See{})
	stalling := copying(d, dir+"/stalling", "source")
	stalling.Stall = 500 * time.Millisecond
	stalling.Moved = func(done, _ int64) {
		if done > 1<<20 {
			proxy.Swallow(true)
		}
	}
	ctx := t.Context()
	session, err := Open(ctx, client, func() {})
	if err != nil {
		t.Fatal(err)
	}
	_, err = session.Upload(stalling)
	mustFail(t, err, TimedOut)
	session.Close()
	proxy.Cut()

	client = s.Client(t, login)
	ctx, cancel := context.WithCancel(t.Context())
	cancelling := copying(d, dir+"/cancelling", "source")
	cancelling.Moved = func(done, _ int64) {
		if done > 1<<20 {
			cancel()
		}
	}
	session, err = Open(ctx, client, func() {})
	if err != nil {
		t.Fatal(err)
	}
	_, err = session.Upload(cancelling)
	if e := mustFail(t, err, Cancelled); e.Kept == 0 {
		t.Errorf("got %+v", e)
	}
	session.Close()
	sum := sha256.Sum256(content)
	cancelling.Moved = nil
	again := copying(d, dir+"/cancelling", "source")
	sent, err := send(t, client, again)
	if err != nil || sent.SHA256 != hex.EncodeToString(sum[:]) || sent.Resumed == 0 || !bytes.Equal([]byte(sshdtest.Read(t, dir+"/cancelling")), content) {
		t.Errorf("got %+v, %v", sent, err)
	}
	if got := names(t, dir); slices.ContainsFunc(got, func(n string) bool { return strings.Contains(n, "changing") }) {
		t.Errorf("left behind: %v", got)
	}
}
