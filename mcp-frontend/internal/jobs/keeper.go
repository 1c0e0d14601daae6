package jobs

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshpool"
	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/proto/audit"
)

// Config is what a Keeper needs. No func may be nil; all are called
// concurrently.
type Config struct {
	Book *Book
	// Acquire connects to a device, if need be.
	Acquire func(ctx context.Context, device string) (*sshpool.Lease, error)
	// Quote returns how a script is put to a login shell.
	Quote func(shell string) func(posix string) string
	// Record keeps an audit record.
	Record func(audit.Record) (seq uint64, err error)
	Log    *slog.Logger
}

// Keeper follows the jobs: it sends those that wait for their turn, and learns
// how they end also if nobody asks.
type Keeper struct {
	cfg  Config
	ctx  context.Context // ends with Run; what it holds runs under it
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex // guards all below
	closed  bool
	waiting map[string]Send               // by job, of the queued ones
	held    map[string]context.CancelFunc // by job, of the attached ones
	polls   map[string]*poll              // by device
}

// Send sends a queued job to its device. again says that nothing was sent and
// that it may be tried later; any other error has ended the job.
type Send func(ctx context.Context, id string) (again bool, err error)

// poll is when a device is asked next about its jobs.
type poll struct {
	busy     bool
	next     time.Time
	failures int
}

// Intervals between the questions that nobody has asked for.
const (
	pollInterval = 10 * time.Second
	maxPollPause = 2 * time.Minute
	tick         = time.Second
	// maxWaiting is how long a queued job waits for a device that cannot be
	// reached.
	maxWaiting = time.Hour
)

// NewKeeper returns a keeper, which does nothing by itself until Run.
func NewKeeper(cfg Config) (*Keeper, error) {
	if cfg.Book == nil || cfg.Acquire == nil || cfg.Quote == nil || cfg.Record == nil || cfg.Log == nil {
		return nil, errors.New("jobs: a part of the configuration is nil")
	}
	k := &Keeper{
		cfg: cfg, waiting: make(map[string]Send), held: make(map[string]context.CancelFunc), polls: make(map[string]*poll),
	}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k, nil
}

// Run follows the jobs until ctx ends. It then stops the jobs that the gateway
// holds, and waits for them; those on devices go on.
func (k *Keeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			k.close()
			return nil
		case <-ticker.C:
			k.round()
		}
	}
}

func (k *Keeper) close() {
	k.mu.Lock()
	k.closed = true
	waiting := k.waiting
	k.waiting = make(map[string]Send)
	k.mu.Unlock()
	k.stop()
	k.work.Wait()
	for id := range waiting {
		k.end(id, Stopped, "the gateway was stopped before the job was sent: it has not run")
	}
}

// begin runs f in the background, unless the gateway is stopping.
func (k *Keeper) begin(f func(ctx context.Context)) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false
	}
	k.work.Go(func() { f(k.ctx) })
	return true
}

// round looks after every device that has jobs.
func (k *Keeper) round() {
	all, err := k.cfg.Book.All()
	if err != nil {
		k.cfg.Log.Error("the jobs cannot be read", "error", err)
		return
	}
	byDevice := make(map[string][]Job)
	for _, j := range all {
		switch {
		case j.Expired(time.Now()):
			byDevice[j.Device] = append(byDevice[j.Device], j)
		case j.State.Over():
		case j.Owner != "" && !j.Detached:
			k.orphan(j)
			if j.State == Queued {
				byDevice[j.Device] = append(byDevice[j.Device], j)
			}
		default:
			byDevice[j.Device] = append(byDevice[j.Device], j)
		}
	}
	for device, jobs := range byDevice {
		k.visit(device, jobs)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for device, p := range k.polls {
		if _, ok := byDevice[device]; !ok && !p.busy {
			delete(k.polls, device)
		}
	}
}

// visit asks a device about its jobs, if it is time to.
func (k *Keeper) visit(device string, jobs []Job) {
	k.mu.Lock()
	p := k.polls[device]
	if p == nil {
		p = &poll{next: time.Now()}
		k.polls[device] = p
	}
	due := !p.busy && !time.Now().Before(p.next)
	p.busy = p.busy || due
	k.mu.Unlock()
	if !due {
		return
	}
	started := k.begin(func(ctx context.Context) {
		err := k.follow(ctx, device, jobs)
		k.mu.Lock()
		defer k.mu.Unlock()
		p.busy = false
		p.failures++
		pause := min(pollInterval<<min(p.failures-1, 8), maxPollPause)
		if e, ok := errors.AsType[*sshpool.Error](err); err == nil || ok && (e.Code == sshpool.TunnelDown || e.Code == sshpool.AcceptorDown) {
			p.failures, pause = 0, pollInterval // asking that costs nothing, and its return is to be noticed
		}
		p.next = time.Now().Add(pause)
	})
	if !started {
		k.mu.Lock()
		p.busy = false
		k.mu.Unlock()
	}
}

// hurry lets the next round look after a device: a job of it has ended, and
// another may have its turn.
func (k *Keeper) hurry(device string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.polls[device]; p != nil {
		p.next = time.Now()
	}
}

// follow learns what has become of a device's jobs, and sends what waits.
func (k *Keeper) follow(ctx context.Context, device string, jobs []Job) error {
	for _, j := range jobs {
		if j.Expired(time.Now()) {
			k.forget(ctx, j)
		}
	}
	for _, j := range jobs {
		if j.State == Running {
			if _, _, err := k.Look(ctx, j.ID, [2]int64{}, 0); err != nil {
				return err
			}
		}
	}
	return k.sendWaiting(ctx, device)
}

// forget removes an old job, also from its device if that can be asked. One
// that cannot removes it by itself when it starts another, some days later.
func (k *Keeper) forget(ctx context.Context, j Job) {
	if j.Detached {
		_, _ = k.ask(ctx, j, "forget", [2]int64{}, 0) // see above
	}
	if err := k.cfg.Book.Remove(j.ID); err != nil {
		k.cfg.Log.Error("an old job could not be forgotten", "job_id", j.ID, "error", err)
	}
}

// Get returns a job as it was known last; ErrUnknown if there is none.
func (k *Keeper) Get(id string) (Job, error) { return k.cfg.Book.Get(id) }

// All returns every job as it was known last, the oldest first.
func (k *Keeper) All() ([]Job, error) { return k.cfg.Book.All() }

// Owner names this process, for the jobs that it holds.
func (k *Keeper) Owner() string { return k.cfg.Book.Owner() }
