package sshpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/connections"
)

// link is one device's connection and the history of connecting to it.
type link struct {
	pool   *Pool
	device connections.Device

	mu      sync.Mutex // guards all below; before a conn's mutex
	retired bool       // another link has its place: it keeps no connection
	conn    *conn      // nil while not connected
	dialing *dialing   // nil while no dial is under way
	// failures counts consecutive failures to connect, lastError is the newest
	// one's text, and the device is left alone until pausedUntil, unless its
	// tunnel is another than failedTunnel by then.
	failures     int
	lastError    *Error // nil after a success
	pausedUntil  time.Time
	failedTunnel string
}

// dialing is a dial that callers wait for together.
type dialing struct {
	done chan struct{} // closed when conn and err are set
	conn *conn
	err  *Error
}

// connected returns the device's connection, dialling if there is none. reused
// is false for the one caller whose dial it was.
func (l *link) connected(ctx context.Context) (c *conn, reused bool, err error) {
	l.mu.Lock()
	if l.conn != nil && l.conn.usable() {
		if !l.replacedLocked() {
			defer l.mu.Unlock()
			return l.conn, true, nil
		}
		l.conn.retire()
		l.conn = nil
	}
	d := l.dialing
	joined := d != nil
	if d == nil {
		if err := l.pausedLocked(); err != nil {
			l.mu.Unlock()
			return nil, false, err
		}
		d = &dialing{done: make(chan struct{})}
		if !l.pool.start(func() { l.dial(d) }) { //nolint:contextcheck // callers share a dial, which outlives any of them
			l.mu.Unlock()
			return nil, false, &Error{Code: Cancelled, Stage: StageDial, Err: errors.New("the gateway is shutting down"), FixBy: "operator"}
		}
		l.dialing = d
	}
	l.mu.Unlock()
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, false, waitError(ctx, "connecting to the device")
	}
	if d.err != nil {
		return nil, false, d.err
	}
	return d.conn, joined, nil
}

// replacedLocked says whether a newer tunnel than the connection's is up.
func (l *link) replacedLocked() bool {
	if l.conn.tunnelID == "" {
		return false
	}
	return l.cameBack(l.conn.tunnelID)
}

// pausedLocked returns BACKING_OFF while the device is left alone.
func (l *link) pausedLocked() error {
	wait := time.Until(l.pausedUntil)
	if wait <= 0 {
		return nil
	}
	if l.cameBack(l.failedTunnel) {
		l.failures, l.pausedUntil = 0, time.Time{} // it has come back: forget the old one's failures
		return nil
	}
	return &Error{
		Code: BackingOff, Stage: l.lastError.Stage, Err: fmt.Errorf("connecting failed repeatedly; last: %w", l.lastError),
		Retriable: true, RetryAfter: wait, FixBy: l.lastError.FixBy,
		Hint: "call again after retry_after_s, or work on another device meanwhile; " + l.lastError.Hint,
	}
}

// dial connects, trying again where that may help, and tells the waiting.
func (l *link) dial(d *dialing) {
	began := time.Now()
	for attempt := 0; ; attempt++ {
		tunnel := l.tunnelNow()
		var replaced bool
		if d.conn, d.err, replaced = l.attempt(tunnel); replaced && attempt < maxRounds {
			continue // through the new one, and what failed on the old one does not count
		}
		pause, again := l.note(d, attempt, tunnel)
		// All attempts of one call together take no longer than one may.
		if !again || time.Since(began)+pause > l.device.ConnectTimeout {
			break
		}
		if l.pool.ctx.Err() != nil || !l.pause(pause, tunnel) {
			break
		}
	}
	l.mu.Lock()
	l.dialing = nil
	if !l.retired {
		l.conn = d.conn
	} else if d.conn != nil {
		d.conn.retire()
	}
	l.mu.Unlock()
	close(d.done)
}

// attempt connects once. A device that comes back with a new tunnel meanwhile
// is not kept waiting until the old one has timed out: then replaced is true.
func (l *link) attempt(tunnel string) (c *conn, failure *Error, replaced bool) {
	ctx, cancel := context.WithCancel(l.pool.ctx)
	defer cancel()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		if tunnel != "" && l.comesBack(ctx, tunnel) { // "": the dial itself takes the first that comes
			cancel()
		}
	}()
	c, failure = l.pool.connect(ctx, l.device)
	cancel()
	<-watching
	return c, failure, failure != nil && l.cameBack(tunnel)
}

// pause waits between two attempts, no longer than until the device has come
// back with a new tunnel. It is false if the pool closes meanwhile.
func (l *link) pause(pause time.Duration, tunnel string) bool {
	ctx, cancel := context.WithTimeout(l.pool.ctx, pause)
	defer cancel()
	l.comesBack(ctx, tunnel)
	return l.pool.ctx.Err() == nil
}

// comeBackInterval is how often a wait looks for a new tunnel.
const comeBackInterval = 50 * time.Millisecond

// comesBack waits for the device's new tunnel until ctx ends.
func (l *link) comesBack(ctx context.Context, tunnel string) bool {
	if l.pool.cfg.TunnelID == nil || l.device.Mode != connections.Tunnel {
		<-ctx.Done()
		return false
	}
	tick := time.NewTicker(comeBackInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			if l.cameBack(tunnel) {
				return true
			}
		}
	}
}

// cameBack says whether another tunnel than this one is up now.
func (l *link) cameBack(tunnel string) bool {
	now := l.tunnelNow()
	return now != "" && now != tunnel
}

// tunnelNow is the id of the tunnel that a dial would find; "" if there is
// none, or the device has none.
func (l *link) tunnelNow() string {
	if l.pool.cfg.TunnelID == nil || l.device.Mode != connections.Tunnel {
		return ""
	}
	return l.pool.cfg.TunnelID(l.device.Host, l.device.Port)
}

// note counts the outcome of one attempt, made when tunnel was up, and says
// whether and when to try again.
func (l *link) note(d *dialing, attempt int, tunnel string) (pause time.Duration, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.err == nil {
		l.reachedLocked()
		return 0, false
	}
	if l.lastError == nil || l.lastError.Code != d.err.Code {
		l.logFailure(d.err) // once, not at every attempt
	}
	l.lastError = d.err
	if !d.err.counts() {
		return 0, false
	}
	l.failures++
	retry := l.device.Retry
	if l.failures >= retry.MaxAttempts {
		l.pausedUntil, l.failedTunnel = time.Now().Add(retry.Cooldown), tunnel
		l.pool.cfg.Log.Warn("leaving the device alone for a while", "device", l.device.Name, "failures", l.failures, "cooldown", retry.Cooldown)
		return 0, false
	}
	backoff := min(retry.InitialBackoff<<min(attempt, 20), retry.MaxBackoff)
	return backoff/2 + rand.N(backoff), d.err.transient()
}

// logFailure tells the operator why the device cannot be reached.
func (l *link) logFailure(e *Error) {
	level := slog.LevelWarn
	if e.Code == HostKeyMismatch {
		level = slog.LevelError
	}
	l.pool.cfg.Log.Log(l.pool.ctx, level, "cannot connect", "device", l.device.Name, "code", e.Code, "stage", e.Stage, "error", e.Err)
}

// reached forgets the failures: the device has just let us in.
func (l *link) reached() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reachedLocked()
}

func (l *link) reachedLocked() { l.failures, l.lastError, l.pausedUntil = 0, nil, time.Time{} }

func (l *link) status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := Status{
		Device:    l.device,
		Connected: l.conn != nil && l.conn.usable(),
		Failures:  l.failures, RetryAfter: max(time.Until(l.pausedUntil), 0),
	}
	if status.RetryAfter > 0 && l.cameBack(l.failedTunnel) {
		status.Failures, status.RetryAfter = 0, 0 // as the next call will find
	}
	if l.lastError != nil {
		status.LastCode, status.LastError = l.lastError.Code, l.lastError.Error()
	}
	return status
}

// retire lets the connection finish what it carries.
func (l *link) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	if l.conn != nil {
		l.conn.retire()
		l.conn = nil
	}
}
