package sshpool

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/semaphore"
)

// aliveCount intervals of silence mean that a device is gone.
const aliveCount = 3

// idleTimeout is how long a connection that nobody uses is kept.
const idleTimeout = 10 * time.Minute

// conn is one SSH connection to a device.
type conn struct {
	client   *ssh.Client
	net      *meter
	tunnelID string
	hostKey  ssh.PublicKey       // that was verified
	channels *semaphore.Weighted // first come, first served
	spare    chan struct{}       // the one channel beside them, for stopping runs
	ended    chan struct{}       // closed when the connection has ended

	settling sync.WaitGroup // the goroutine of settle

	mu       sync.Mutex // guards all below
	leases   int
	released time.Time // when the last lease was given back, or the connection made
	retired  bool      // takes no more leases, and closes with the last one
	closed   []func()  // what becomes free once the device has forgotten closed channels
	asking   bool      // settle's goroutine runs
	over     bool      // it may not be started any more
}

func newConn(client *ssh.Client, m *meter, tunnelID string, maxSessions int) *conn {
	return &conn{
		client: client, net: m, tunnelID: tunnelID,
		channels: semaphore.NewWeighted(int64(maxSessions)), spare: make(chan struct{}, 1), ended: make(chan struct{}),
		released: time.Now(),
	}
}

// acquire waits for a free channel. ok is false if the connection was lost or
// retired meanwhile: the caller takes another.
func (c *conn) acquire(ctx context.Context, channels int64) (ok bool, err error) {
	if err := c.channels.Acquire(ctx, channels); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired || c.lost() {
		c.channels.Release(channels)
		return false, nil
	}
	c.leases++
	return true, nil
}

// release gives a lease back whose channels have closed.
func (c *conn) release(channels int64) {
	if channels > 0 {
		c.settle(func() { c.channels.Release(channels) })
	}
	c.mu.Lock()
	c.leases--
	c.released = time.Now()
	idle := c.retired && c.leases == 0
	c.mu.Unlock()
	if idle {
		_ = c.client.Close()
	}
}

// settle calls free once the device no longer counts a channel that has just
// been closed. sshd forgets closed channels between two batches of packets: of
// one that is closed and one that is opened in the same batch it counts both,
// and refuses the second beyond its MaxSessions. An answer to what was sent
// after the close proves that the batch is over.
func (c *conn) settle(free func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		free()
		return
	}
	c.closed = append(c.closed, free)
	if !c.asking {
		c.asking = true
		c.settling.Go(c.settleAll)
	}
}

// settleAll settles what there is, all that has come together by one request.
func (c *conn) settleAll() {
	for {
		c.mu.Lock()
		closed := c.closed
		c.closed = nil
		c.asking = len(closed) > 0
		c.mu.Unlock()
		if len(closed) == 0 {
			return
		}
		// It waits for the answer, as long as the connection lives.
		_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil)
		for _, free := range closed {
			free()
		}
	}
}

// retire closes the connection as soon as nobody uses it.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	idle := c.leases == 0
	c.mu.Unlock()
	if idle {
		_ = c.client.Close()
	}
}

// retireIdle retires the connection if nobody has used it for so long.
func (c *conn) retireIdle(timeout time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leases > 0 || time.Since(c.released) < timeout {
		return false
	}
	c.retired = true // before it closes: who asks now connects anew
	return true
}

// usable says whether the connection may be given to another caller.
func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.retired && !c.lost()
}

func (c *conn) lost() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// watch closes the connection when the device is silent for too long, or when
// nobody has used it for idle, and marks its end. It returns then, or when ctx
// ends, and says why.
func (c *conn) watch(ctx context.Context, interval, idle time.Duration) (why string) {
	waited := make(chan struct{})
	go func() { // ends with the connection, and is waited for below
		_ = c.client.Wait()
		close(waited)
	}()
	defer func() {
		_ = c.client.Close()
		<-waited
		close(c.ended)
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		c.settling.Wait()
	}()
	var asking sync.WaitGroup
	defer asking.Wait()
	defer func() { _ = c.client.Close() }()
	var asked atomic.Bool
	every := min(interval, idle) / 4
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-waited:
			return "it was closed"
		case <-ctx.Done():
			return "the gateway stops"
		case <-tick.C:
		}
		silent := c.net.silentFor()
		if silent+every > interval*aliveCount { // the next look would be too late
			return "the device was silent"
		}
		if c.retireIdle(idle) {
			return "nobody used it"
		}
		// SendRequest waits for the answer, as long as the connection lives.
		if silent >= interval*3/4 && asked.CompareAndSwap(false, true) {
			asking.Go(func() {
				_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil)
				asked.Store(false)
			})
		}
	}
}

// meter notes when the device was heard last, and when it is over.
type meter struct {
	net.Conn
	lastRead atomic.Int64 // Unix nanoseconds
	over     atomic.Bool  // set before the SSH library learns of it
}

func newMeter(nc net.Conn) *meter {
	m := &meter{Conn: nc}
	m.lastRead.Store(time.Now().UnixNano())
	return m
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if n > 0 {
		m.lastRead.Store(time.Now().UnixNano())
	}
	if err != nil {
		m.over.Store(true)
	}
	return n, err
}

func (m *meter) Close() error {
	m.over.Store(true) // the library closes what it can no longer read, such as after a disconnect message
	return m.Conn.Close()
}

func (m *meter) silentFor() time.Duration { return time.Since(time.Unix(0, m.lastRead.Load())) }
