package jobs

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t *testing.T, dir string, log *bytes.Buffer) *Book {
	t.Helper()
	b, err := Open(dir, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func added(t *testing.T, b *Book, change func(*Job)) Job {
	t.Helper()
	j := New("edge")
	j.Text = "true"
	if change != nil {
		change(&j)
	}
	if err := b.Add(j, nil); err != nil {
		t.Fatal(err)
	}
	return j
}

// What is written by one process is read by the next, and nobody else can read
// it. A damaged file is set aside, and costs nothing but its job.
func TestBook(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "jobs")
	var log bytes.Buffer
	b := open(t, dir, &log)
	kept, damaged, foreign := added(t, b, nil), added(t, b, nil), added(t, b, nil)
	b.Close()
	for id, text := range map[string]string{damaged.ID: `{"id":`, foreign.ID: `{"id":"` + kept.ID + `"}`} {
		if err := os.WriteFile(filepath.Join(dir, id+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, kept.ID+".json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}

	b = open(t, dir, &log)
	defer b.Close()
	for range 2 {
		all, err := b.All()
		if err != nil || len(all) != 1 || all[0].ID != kept.ID || all[0].Place != kept.Place {
			t.Fatalf("got %+v, %v", all, err)
		}
	}
	if got := strings.Count(log.String(), "set aside"); got != 2 {
		t.Errorf("logged %d times:\n%s", got, &log)
	}
	for _, id := range []string{damaged.ID, "", "../" + kept.ID, strings.ToLower(kept.ID)} {
		if _, err := b.Get(id); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: got %v", id, err)
		}
	}
}

// What ended longest ago makes room; what has not ended stays.
func TestBookIsBounded(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir(), new(bytes.Buffer))
	defer b.Close()
	over := added(t, b, func(j *Job) { j.end(Exited, "") })
	for range MaxKept - 1 {
		added(t, b, nil)
	}
	added(t, b, nil)
	if _, err := b.Get(over.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("the ended job is still there: %v", err)
	}
	if err := b.Add(New("edge"), nil); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
}

// Two processes change one job, and no change is lost; one sees that the other
// has ended.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := open(t, dir, new(bytes.Buffer)), open(t, dir, new(bytes.Buffer))
	defer second.Close()
	j := added(t, first, nil)
	var wg sync.WaitGroup
	for _, b := range []*Book{first, second} {
		wg.Go(func() {
			for range 20 {
				if _, err := b.Update(j.ID, func(j *Job) error { j.StdoutBytes++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, err := second.Get(j.ID); err != nil || got.StdoutBytes != 40 {
		t.Errorf("got %d, %v", got.StdoutBytes, err)
	}
	if second.Dead(first.Owner()) || second.Dead(second.Owner()) {
		t.Error("a living process counts as dead")
	}
	first.Close()
	if !second.Dead(first.Owner()) {
		t.Error("a process that has ended counts as living")
	}
}

// A process that was killed leaves its mark unlocked.
func TestKilledOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	killed := New("").ID
	if err := os.WriteFile(filepath.Join(dir, "owner-"+killed), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, new(bytes.Buffer))
	defer b.Close()
	if !b.Dead(killed) {
		t.Error("it counts as living")
	}
	if _, err := os.Stat(filepath.Join(dir, "owner-"+killed)); !os.IsNotExist(err) {
		t.Errorf("its mark is still there: %v", err)
	}
}

// What an answer means for a job.
func TestApply(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		seen     bool
		look     Look
		state    State
		executed string
	}{
		"running":               {look: Look{State: "running"}, state: Running, executed: "yes"},
		"exited":                {look: Look{State: "ended"}, state: Exited, executed: "yes"},
		"stopped":               {look: Look{State: "ended", Stop: "asked"}, state: Stopped, executed: "yes"},
		"too long":              {look: Look{State: "ended", Stop: "max_runtime"}, state: Stopped, executed: "yes"},
		"killed and not seen":   {seen: true, look: Look{State: "dead", Stop: "asked"}, state: Stopped, executed: "yes"},
		"rebooted":              {look: Look{State: "dead", Began: true}, state: Lost, executed: "yes"},
		"died before it began":  {look: Look{State: "dead"}, state: Lost, executed: "maybe"},
		"its directory is gone": {seen: true, look: Look{State: "gone"}, state: Lost, executed: "yes"},
		"it never came":         {look: Look{State: "void"}, state: Stopped, executed: "no"},
		"it is starting":        {look: Look{State: "begun"}, state: Running, executed: "maybe"},
	} {
		j := New("edge")
		j.State, j.StartedAt, j.Seen = Running, &now, c.seen
		j.apply(c.look)
		if j.State != c.state || j.Executed() != c.executed || j.State.Over() != (j.EndedAt != nil) {
			t.Errorf("%s: got %s, executed %s; want %+v", name, j.State, j.Executed(), c)
		}
	}
}
