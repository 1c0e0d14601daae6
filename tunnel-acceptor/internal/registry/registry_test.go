package registry

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// attachment is a tunnel that nobody can dial.
func attachment(device string, port uint16) *Attachment {
	return &Attachment{
		Key: Key{device, port}, ID: NewID(), Loopback: true,
		Open:  func(context.Context) (Stream, error) { return nil, ErrRefused },
		Stats: func() Stats { return Stats{OpenStreams: 3} },
	}
}

func find(t *testing.T, r *Registry, device string, port uint16) Target {
	t.Helper()
	target, err := r.Find(device, port, 0)
	if err != nil {
		t.Fatalf("Find(%q, %d): %v", device, port, err)
	}
	return target
}

// A late goodbye of a session that was replaced must not take its successor
// down: the bug class behind every "port is taken" complaint.
func TestDetachHitsOnlyItsOwnTunnel(t *testing.T) {
	r := New()
	first, second := attachment("edge", 22222), attachment("edge", 22222)
	if generation, replaced := r.Attach(first); generation != 1 || replaced != nil {
		t.Fatalf("the first Attach returned %d, %v; want 1, nil", generation, replaced)
	}
	generation, replaced := r.Attach(second)
	if generation != 2 || replaced != first {
		t.Fatalf("the second Attach returned %d, %v; want 2 and the first tunnel", generation, replaced)
	}
	before := r.List()
	r.Detach(first, "late")
	r.SetSuspect(first, true)
	if diff := cmp.Diff(before, r.List()); diff != "" {
		t.Errorf("a replaced tunnel changed the slot (-before +after):\n%s", diff)
	}
	if got := find(t, r, "edge", 22222).ID; got != second.ID {
		t.Errorf("Find returned %s, want the newest tunnel %s", got, second.ID)
	}
	r.Detach(second, "gone")
	r.Detach(second, "gone twice")
	if _, err := r.Find("edge", 22222, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the last Detach, Find: %v, want %v", err, ErrNotFound)
	}
}

func TestGrantedSlotsAreListedWhileDown(t *testing.T) {
	r := New()
	key := Key{"edge", 22222}
	r.SetGranted([]Key{key})
	a := attachment("edge", 22222)
	r.Attach(a)
	r.SetSuspect(a, true)
	want := []Tunnel{{Key: key, ID: a.ID, Generation: 1, State: Suspect, Loopback: true, Stats: Stats{OpenStreams: 3}}}
	times := cmpopts.IgnoreFields(Tunnel{}, "Since", "LastDown")
	if diff := cmp.Diff(want, r.List().Tunnels, times); diff != "" {
		t.Errorf("a silent device's tunnel (-want +got):\n%s", diff)
	}
	r.Detach(a, "it stopped answering")
	want = []Tunnel{{Key: key, Generation: 1, State: Down, Loopback: true, LastDownReason: "it stopped answering", Flaps24h: 1}}
	if diff := cmp.Diff(want, r.List().Tunnels, times); diff != "" {
		t.Errorf("a granted slot that was lost (-want +got):\n%s", diff)
	}
	r.SetGranted(nil)
	if got := r.List().Tunnels; len(got) != 0 {
		t.Errorf("a slot that is neither granted nor held is listed: %v", got)
	}
}

// A certificate may name any number of devices: those that left take no
// memory, and never answer for 127.0.0.1.
func TestUngrantedSlotsDisappear(t *testing.T) {
	r := New()
	a := attachment("pump-1", 22)
	a.Loopback = false
	r.Attach(a)
	if _, err := r.Find("", 22, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("Find of a certified device by the loopback address: %v, want %v", err, ErrNotFound)
	}
	find(t, r, "pump-1", 22)
	r.Detach(a, "gone")
	if got := r.List().Tunnels; len(got) != 0 {
		t.Errorf("it is still listed: %v", got)
	}
}

func TestFind(t *testing.T) {
	r := New()
	r.SetGranted([]Key{{"new-owner", 22222}})
	former, owner := attachment("former-owner", 22222), attachment("new-owner", 22222)
	r.Attach(former)
	if got := find(t, r, "", 22222).Key.Device; got != "former-owner" {
		t.Errorf("127.0.0.1:22222 is %s, want the only device that holds it", got)
	}
	r.Attach(owner)
	r.Attach(attachment("new-owner", 22222))
	if got := find(t, r, "", 22222).Key.Device; got != "new-owner" {
		t.Errorf("127.0.0.1:22222 is %s, want the device that is granted it", got)
	}
	for _, test := range []struct {
		device     string
		port       uint16
		generation uint64
		want       error
	}{
		{"new-owner", 22222, 2, nil},
		{"new-owner", 22222, 1, ErrStaleGeneration},
		{"new-owner", 22222, 3, ErrStaleGeneration},
		{"new-owner", 22223, 0, ErrNotFound},
		{"nobody", 22222, 0, ErrNotFound},
		{"", 22223, 0, ErrNotFound},
	} {
		if _, err := r.Find(test.device, test.port, test.generation); !errors.Is(err, test.want) {
			t.Errorf("Find(%q, %d, %d): %v, want %v", test.device, test.port, test.generation, err, test.want)
		}
	}
	r.Drain()
	if _, err := r.Find("new-owner", 22222, 0); !errors.Is(err, ErrDraining) {
		t.Errorf("Find while draining: %v, want %v", err, ErrDraining)
	}
	for _, tunnel := range r.List().Tunnels {
		if tunnel.State != Draining {
			t.Errorf("while draining, %v is %d", tunnel.Key, tunnel.State)
		}
	}
}
