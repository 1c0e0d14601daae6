package sshpool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// Fifty calls at once make one connection, and take turns on it.
func TestCallersShareOneConnection(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, entry{"max_sessions": 3}, s.Known("edge"))
	var (
		mu            sync.Mutex
		now, most, of int
		fresh         int
		callers       sync.WaitGroup
	)
	ctx := bounded(t)
	for range 50 {
		callers.Go(func() {
			lease, err := p.Acquire(ctx, "edge")
			if err != nil {
				t.Error(err)
				return
			}
			defer lease.Release()
			mu.Lock()
			now, of = now+1, of+1
			most = max(most, now)
			if !lease.Reused {
				fresh++
			}
			mu.Unlock()
			works(t, lease)
			mu.Lock()
			now--
			mu.Unlock()
		})
	}
	callers.Wait()
	if s.Accepted() != 1 || fresh != 1 || of != 50 || most > 3 {
		t.Errorf("%d connections, %d leases say that they are new, %d in all, at most %d at once; want 1, 1, 50, 3", s.Accepted(), fresh, of, most)
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newConn(nil, nil, "", 1)
		c.over = true // there is no device to ask: a channel is free at once
		if ok, err := c.acquire(t.Context(), 1); !ok || err != nil {
			t.Fatal(ok, err)
		}
		served := make(chan int)
		const callers = 5
		for i := range callers {
			go func() {
				if ok, err := c.acquire(t.Context(), 1); !ok || err != nil {
					t.Error(ok, err)
				}
				served <- i
				c.release(1)
			}()
			synctest.Wait() // it stands in the queue before the next one comes
		}
		c.release(1)
		for want := range callers {
			if got := <-served; got != want {
				t.Errorf("got caller %d, want %d", got, want)
			}
		}
	})
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, entry{"max_sessions": 1}, s.Known("edge"))
	holder := acquire(t, p, "edge")
	for want, giveUp := range map[Code]func() (context.Context, context.CancelFunc){
		Busy: func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 10*time.Millisecond)
		},
		Cancelled: func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		},
	} {
		ctx, cancel := giveUp()
		_, err := p.Acquire(ctx, "edge")
		cancel()
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != want || !e.Retriable {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	holder.Release()
	acquire(t, p, "edge").Release() // who gave up holds nothing
}

// A connection that was killed is not used again.
func TestConnectionKilled(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, nil, s.Known("edge"))
	lease := acquire(t, p, "edge")
	conn := lease.conn
	s.Cut()
	<-conn.ended
	lease.Release()
	if p.Status()[0].Connected {
		t.Error("the status still says connected")
	}
	next := acquire(t, p, "edge")
	defer next.Release()
	works(t, next)
	if next.Reused || s.Accepted() != 2 {
		t.Errorf("reused %v after %d connections", next.Reused, s.Accepted())
	}
}

// A device that lets us in and ends the connection is not dialled for ever.
func TestConnectionEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, nil, s.Known("edge"))
	l, err := p.link("edge")
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := l.connected(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	c.retire() // as if it had gone
	l.mu.Lock()
	l.conn = c
	l.mu.Unlock()
	<-c.ended
	if c, _, err := l.connected(bounded(t)); err != nil || c.lost() {
		t.Errorf("got a connection that is lost: %v", err)
	}
}

// A device whose entry changes keeps what runs, and takes nothing new on the
// old connection.
func TestDeviceChanges(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, nil, s.Known("edge"))
	running := acquire(t, p, "edge")
	p.SetDevices(deviceSet(t, direct(t, "edge", s, entry{"max_sessions": 2})))
	works(t, running)
	next := acquire(t, p, "edge")
	defer next.Release()
	if next.Reused || next.Client == running.Client || next.Device.MaxSessions != 2 {
		t.Errorf("the old connection was taken: %+v", next)
	}
	running.Release()
	<-running.conn.ended // it closes with its last lease

	p.SetDevices(deviceSet(t))
	works(t, next)
	e := mustFail(t, p, "edge", DeviceNotFound)
	contains(t, e.Hint, "ssh_list_devices")
}

// A device that changes while it is dialled leaves no connection behind.
func TestDeviceChangesDuringDial(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	seen, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy := sshdtest.NewProxy(t, sshdtest.Address(s.Host, s.Port), sshdtest.See{ToServer: func([]byte) bool {
		once.Do(func() {
			close(seen)
			<-goOn
		})
		return true
	}})
	old := direct(t, "edge", s, entry{"port": proxy.Port})
	p := newPool(t, Config{Devices: deviceSet(t, old), KnownHosts: knownHosts(t, s.Known("edge"))})
	leases := make(chan *Lease)
	ctx := bounded(t)
	go func() {
		lease, err := p.Acquire(ctx, "edge")
		if err != nil {
			t.Error(err)
		}
		leases <- lease
	}()
	<-seen
	p.mu.Lock()
	before := p.links["edge"]
	p.mu.Unlock()
	p.SetDevices(deviceSet(t, direct(t, "edge", s, nil)))
	close(goOn)
	lease := <-leases
	if lease == nil {
		t.FailNow()
	}
	defer lease.Release()
	if lease.Device.Port != s.Port {
		t.Errorf("the lease is of the old entry: %+v", lease.Device)
	}
	if before.status().Connected {
		t.Error("the old entry keeps a connection that nobody will close")
	}
}

func TestUserKeys(t *testing.T) {
	t.Parallel()
	wrong := sshdtest.NewKey(t, "ed25519")
	open := sshdtest.NewKey(t, "ed25519")
	if err := os.Chmod(open.Path, 0o640); err != nil {
		t.Fatal(err)
	}
	noKey := filepath.Join(t.TempDir(), "text")
	sshdtest.Write(t, noKey, "no key\n", 0o600)
	ca := sshdtest.NewKey(t, "ed25519")
	certified := sshdtest.NewKey(t, "ed25519")
	cert := ca.Sign(t, certified, "-n", sshdtest.Plain(t))
	caFile := filepath.Join(t.TempDir(), "ca")
	sshdtest.Write(t, caFile, ca.Public+"\n", 0o644)
	s := sshdtest.Start(t, sshdtest.Config{Lines: []string{"TrustedUserCAKeys " + caFile}})
	other := sshdtest.NewKey(t, "ed25519").Sign(t, wrong, "-n", sshdtest.Plain(t))
	for name, c := range map[string]struct {
		more entry
		want Code
		says []string
	}{
		"right":                      {nil, "", nil},
		"certificate":                {entry{"id_file": certified.Path, "certificate_file": cert}, "", nil},
		"wrong":                      {entry{"id_file": wrong.Path}, AuthFailed, []string{wrong.Public, "authorized_keys", "edge"}},
		"another authority":          {entry{"id_file": wrong.Path, "certificate_file": other}, AuthFailed, []string{wrong.Public, "TrustedUserCAKeys"}},
		"others may read it":         {entry{"id_file": open.Path}, KeyUnusable, []string{"chmod 600 " + open.Path, "0640"}},
		"missing":                    {entry{"id_file": "nowhere"}, KeyUnusable, []string{"no such file"}},
		"no key":                     {entry{"id_file": noKey}, KeyUnusable, []string{"no private key that can be read"}},
		"a folder":                   {entry{"id_file": filepath.Dir(noKey)}, KeyUnusable, []string{"is not a file"}},
		"certificate of another key": {entry{"id_file": wrong.Path, "certificate_file": cert}, KeyUnusable, []string{"different public key"}},
		"no certificate":             {entry{"certificate_file": s.UserKey.Path + ".pub"}, KeyUnusable, []string{"not a certificate"}},
		"no such user":               {entry{"user": "nobody-here"}, AuthFailed, []string{"nobody-here"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := onePool(t, s, c.more, s.Known("edge"))
			if c.want == "" {
				lease := acquire(t, p, "edge")
				defer lease.Release()
				works(t, lease)
				return
			}
			e := mustFail(t, p, "edge", c.want)
			contains(t, e.Error()+" "+e.Hint, c.says...)
			if status := p.Status()[0]; (status.Unusable != nil) != (c.want == KeyUnusable) {
				t.Errorf("the status says unusable: %v", status.Unusable)
			}
		})
	}
}

func TestJumpHost(t *testing.T) {
	t.Parallel()
	inner := sshdtest.Start(t, sshdtest.Config{})
	outer := sshdtest.Start(t, sshdtest.Config{})
	devices := deviceSet(t, direct(t, "outer", outer, entry{"max_sessions": 1}), direct(t, "inner", inner, entry{"jump": "outer"}))
	p := newPool(t, Config{Devices: devices, KnownHosts: knownHosts(t, outer.Known("outer"), inner.Known("inner"))})
	lease := acquire(t, p, "inner")
	works(t, lease)
	if outer.Accepted() != 1 || inner.Accepted() != 1 {
		t.Errorf("%d connections to outer, %d to inner", outer.Accepted(), inner.Accepted())
	}
	acquire(t, p, "outer").Release() // a stream takes none of its channels: sshd does not count it
	inner.Cut()
	<-lease.conn.ended
	lease.Release()
	outer.Cut()
	again := acquire(t, p, "inner")
	defer again.Release()
	works(t, again)
}

func TestKeepaliveFindsSilence(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	proxy := sshdtest.NewProxy(t, sshdtest.Address(s.Host, s.Port), sshdtest.See{})
	p := onePool(t, s, entry{"port": proxy.Port, "keepalive_s": 1}, s.Known("edge"))
	lease := acquire(t, p, "edge")
	defer lease.Release()
	proxy.Swallow(true)
	began := time.Now()
	select {
	case <-lease.conn.ended:
	case <-bounded(t).Done():
		t.Fatal("the connection is still there")
	}
	if took := time.Since(began); took > aliveCount*time.Second+500*time.Millisecond {
		t.Errorf("it took %v to find out", took)
	}
	proxy.Swallow(false)
	next := acquire(t, p, "edge")
	defer next.Release()
	works(t, next)
}

// Close ends everything: goleak looks at what is left after all tests.
func TestClose(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	p := onePool(t, s, nil, s.Known("edge"))
	lease := acquire(t, p, "edge")
	p.Close()
	if !lease.conn.lost() {
		t.Error("a connection outlives the pool")
	}
	lease.Release()
	if _, err := p.Acquire(bounded(t), "edge"); err == nil {
		t.Error("a closed pool gives a lease")
	}
	p.Close()
}
