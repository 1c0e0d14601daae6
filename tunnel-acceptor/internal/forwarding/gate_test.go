package forwarding

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testGate() *gate {
	return newGate(Config{MaxStartups: 3, MaxStartupsPerSource: 2, MaxConnections: 100, MaxTunnels: 8})
}

// from is a connection that arrives at g.
func from(g *gate, address string) *conn {
	c := &conn{remote: netip.AddrPortFrom(netip.MustParseAddr(address), 1), closed: make(chan struct{})}
	if evicted := g.arrive(c); evicted != nil {
		close(evicted.closed)
	}
	return c
}

// entering asks for a place and says whether it has one at once.
func entering(g *gate, c *conn) bool {
	go g.enter(c)
	synctest.Wait()
	return placed(g, c)
}

func placed(g *gate, c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return c.place
}

// end ends every connection, so that nobody waits any more.
func end(g *gate, conns ...*conn) {
	for _, c := range conns {
		close(c.closed)
		g.depart(c, "", 0)
	}
	synctest.Wait()
}

// Places are few, in all and per source, and given to those who waited
// longest.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate()
		a1, a2, a3 := from(g, "192.0.2.1"), from(g, "192.0.2.1"), from(g, "192.0.2.1")
		b1, c1 := from(g, "192.0.2.2"), from(g, "192.0.2.3")
		for i, step := range []struct {
			c    *conn
			want bool
		}{{a1, true}, {a2, true}, {a3, false}, {b1, true}, {c1, false}} {
			if got := entering(g, step.c); got != step.want {
				t.Errorf("connection %d has a place: %v, want %v", i, got, step.want)
			}
		}
		g.yield(a1)
		if placed(g, a3) == placed(g, c1) || !placed(g, a3) {
			t.Error("a free place went to another than the one who waited longest")
		}
		if err := g.admit(b1, "b"); err != nil {
			t.Fatal(err)
		}
		if !placed(g, c1) {
			t.Error("a login did not free its place")
		}
		end(g, a1, a2, a3, c1)
		g.depart(b1, "b", 0)
		if g.taken != 0 || g.pending != 0 || g.loggedIn != 0 || len(g.sources) != 0 || len(g.devices) != 0 || len(g.waiting) != 0 {
			t.Errorf("when all have left, the gate still holds %+v", g)
		}
	})
}

// A source with a live session may be a fleet that comes back behind one
// address: it gets more places than others, and leaves some to them.
func TestPlacesOfASourceWithALiveSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Config{MaxStartups: 10, MaxStartupsPerSource: 2, MaxConnections: 10, MaxTunnels: 1})
		live := from(g, "192.0.2.1")
		entering(g, live)
		if err := g.admit(live, "live"); err != nil {
			t.Fatal(err)
		}
		fleet := make([]*conn, 10)
		placed := 0
		for i := range fleet {
			fleet[i] = from(g, "192.0.2.1")
			if entering(g, fleet[i]) {
				placed++
			}
		}
		if placed != 5 {
			t.Errorf("the fleet has %d of 10 places, want half of them", placed)
		}
		stranger := from(g, "192.0.2.2")
		if !entering(g, stranger) {
			t.Error("nothing is left for another source")
		}
		end(g, append(fleet, stranger)...)
		g.depart(live, "live", 0)
	})
}

// Failures add up until the source is held back; time, or a live session, ends
// that. One failure alone does nothing.
func TestPenalties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate()
		fail := func() {
			c := from(g, "192.0.2.1")
			g.depart(c, "", penaltyAuthFailed)
		}
		fail()
		fail()
		c := from(g, "192.0.2.1")
		if !entering(g, c) {
			t.Error("two failures hold the source back")
		}
		end(g, c)
		fail() // 15 s
		c = from(g, "192.0.2.1")
		other := from(g, "192.0.2.9")
		if entering(g, c) || !entering(g, other) {
			t.Error("three failures do not hold the source back, or another one too")
		}
		<-time.After(14 * time.Second)
		synctest.Wait()
		if placed(g, c) {
			t.Error("the penalty was over before its time")
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if !placed(g, c) {
			t.Error("the penalty did not end")
		}
		end(g, c, other)
		for range 1000 {
			fail()
		}
		c = from(g, "192.0.2.1")
		if entering(g, c) {
			t.Error("a thousand failures do not hold the source back")
		}
		device := from(g, "192.0.2.1")
		if err := g.admit(device, "edge"); err != nil {
			t.Fatal(err)
		}
		if !placed(g, c) {
			t.Error("a live session does not spare its source")
		}
		for range 1000 {
			fail()
		}
		if again := from(g, "192.0.2.1"); !entering(g, again) {
			t.Error("failures hold back a source with a live session")
		} else {
			end(g, again)
		}
		g.depart(device, "edge", 0)
		g.depart(c, "", penaltyGrace) // it has a place, so it is to blame
		if src := g.sources[netip.MustParsePrefix("192.0.2.1/32")]; src == nil || time.Until(src.penalized) > penaltyMax {
			t.Errorf("the penalty: %+v", src)
		}
		<-time.After(penaltyMax + time.Second)
		g.sweep(time.Now())
		if len(g.sources) != 0 {
			t.Errorf("%d sources are remembered", len(g.sources))
		}
		g.wake.Stop()
	})
}

// Whoever waited its turn in vain is not to blame.
func TestWaitingIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate()
		busy := []*conn{from(g, "192.0.2.1"), from(g, "192.0.2.1")}
		for _, c := range busy {
			entering(g, c)
		}
		for range 10 {
			c := from(g, "192.0.2.1")
			entering(g, c)
			close(c.closed)
			g.depart(c, "", penaltyGrace)
		}
		if src := g.sources[netip.MustParsePrefix("192.0.2.1/32")]; !src.penalized.IsZero() {
			t.Errorf("the penalty: %+v", src)
		}
		end(g, busy...)
	})
}

// One IPv6 customer has a /64 at least, and is one source.
func TestSourceOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := sourceOf(netip.MustParseAddr(address).Unmap()); got.String() != want {
			t.Errorf("%s is of the source %s, want %s", address, got, want)
		}
	}
}

// When the connections before their login are too many, the source that has
// most of them pays.
func TestTooManyPending(t *testing.T) {
	g := newGate(Config{MaxStartups: 100, MaxStartupsPerSource: 20, MaxConnections: 10, MaxTunnels: 8})
	good := from(g, "192.0.2.1")
	var flood []*conn
	for range maxPending + 50 {
		flood = append(flood, from(g, "192.0.2.66"))
	}
	for i, c := range flood {
		select {
		case <-c.closed:
			if i > 50 {
				t.Fatalf("connection %d was closed", i)
			}
		default:
			if i < 51 {
				t.Fatalf("connection %d was not closed", i)
			}
		}
		g.depart(c, "", 0)
	}
	select {
	case <-good.closed:
		t.Error("the good device was closed")
	default:
	}
	g.depart(good, "", 0)
	if g.pending != 0 || len(g.sources) != 0 {
		t.Errorf("when all have left, %d connections and %d sources remain", g.pending, len(g.sources))
	}
}

// 500 connections that say nothing, and others that say a little, do not keep
// a good device out; all are gone when the grace time is over.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	const silent, slow, grace = 500, 40, 3 * time.Second
	key := newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(cfg *Config, d *delays) {
		cfg.LoginGrace, cfg.MaxStartups, cfg.MaxStartupsPerSource = grace, 10, 5
		d.silentStartup = 200 * time.Millisecond
	})
	before := heap()
	began := time.Now()
	var ends sync.WaitGroup
	for i := range silent + slow {
		nc, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if i >= silent {
			_, _ = io.WriteString(nc, "SSH-2.0-slow\r\n")
		}
		ends.Go(func() {
			_, _ = io.Copy(io.Discard, nc)
			if took := time.Since(began); took > grace+2*time.Second {
				t.Errorf("connection %d was closed after %v", i, took)
			}
		})
	}
	a.waitFor("all to arrive", func() bool { pending, _ := a.server.Counts(); return pending == silent+slow })
	t.Logf("memory per silent connection, its test's end included: %d KiB", (heap()-before)/(silent+slow)>>10)
	loginBegan := time.Now()
	a.hold(key, 22222)
	if took := time.Since(loginBegan); took > 2500*time.Millisecond {
		t.Errorf("the good device waited %v", took)
	} else {
		t.Logf("the good device waited %v", took)
	}
	a.checkEcho("edge", 22222)
	ends.Wait()
	a.waitFor("all to leave", func() bool { pending, _ := a.server.Counts(); return pending == 0 })
	a.checkEcho("edge", 22222)
	a.stop()
	var refused int64
	records := a.named("login_refused")
	for _, e := range records {
		refused += e.Count
	}
	if refused != silent+slow || len(records) > 3 {
		t.Errorf("%d refusals in %d records, want %d in few", refused, len(records), silent+slow)
	}
}

// A source that keeps failing is held back, and the records say how often.
func TestFailuresHoldTheirSourceBack(t *testing.T) {
	t.Parallel()
	key, stranger := newKey(t), newKey(t)
	a := start(t, line("edge", key.PublicKey(), "", 22222), func(cfg *Config, _ *delays) { cfg.LoginGrace = time.Second })
	for range 4 {
		if _, err := a.login(stranger); err == nil {
			t.Fatal("a stranger logged in")
		}
	}
	a.waitFor("four goodbyes", func() bool { pending, _ := a.server.Counts(); return pending == 0 })
	began := time.Now()
	if _, err := a.login(key); err == nil || time.Since(began) < 900*time.Millisecond {
		t.Errorf("the next login: %v after %v; want it to wait until its grace time is over", err, time.Since(began))
	}
	a.stop()
	counts := make(map[string]int64)
	for _, e := range a.named("login_refused") {
		counts[e.Reason] += e.Count
	}
	if counts[notProved] != 4 || counts[graceExceeded] != 1 || len(counts) != 2 {
		t.Errorf("recorded %v", counts)
	}
}
