// Package jobs keeps runs that are detached from the call that started them:
// what is known of each, on disk, and how a device is asked about one.
//
// Where the device has a POSIX shell and a few usual programs, a job belongs
// to the device: a small script (start.sh) starts the command in a process
// group of its own, keeps the beginning of its output and how it ended in a
// directory that only the login user can read, ends it at its longest run
// time, and needs neither the connection nor the gateway for that. Another
// fixed script (look.sh) tells how the job stands. Elsewhere the gateway holds
// the job, and its end is the connection's.
//
// It promises to start a job once, to say of it only what was seen, and to
// find it again after a restart. A start whose answer was lost is settled by
// the device: either the job is there, or its place is taken so that it can
// never begin. What a device answers is bounded and taken for data.
//
// Several gateways may share a directory: each job is a file of its own, and
// changes are made under one lock.
package jobs

import (
	"crypto/rand"
	"errors"
	"time"
)

// State is how a job stands.
type State string

// The states. Unreachable is never kept: it is a running job whose device
// cannot be asked now.
const (
	Queued      State = "queued"
	Running     State = "running"
	Exited      State = "exited"
	Stopped     State = "stopped"
	Lost        State = "lost"
	Unreachable State = "unreachable"
)

// Over says whether the state is final.
func (s State) Over() bool { return s == Exited || s == Stopped || s == Lost }

// The bounds of jobs.
const (
	// MaxRunning is how many jobs run on one device at once; further ones wait.
	MaxRunning = 4
	// MaxQueued is how many jobs may wait for one device.
	MaxQueued = 16
	// MaxKept is how many jobs are remembered in all, and KeptFor how long
	// after their end.
	MaxKept = 256
	KeptFor = 24 * time.Hour
	// MaxOutput is how many bytes of each stream a device keeps at most.
	MaxOutput = 32 << 20
	// DefaultRuntime and MaxRuntime bound how long a job runs.
	DefaultRuntime = time.Hour
	MaxRuntime     = 24 * time.Hour
)

// Job is what is known of one job, as it is kept on disk.
type Job struct {
	ID      string `json:"id"`
	Device  string `json:"device"`
	Name    string `json:"name,omitempty"`
	Command string `json:"command"` // as the agent wrote it
	Text    string `json:"text"`    // as it is sent
	Cwd     string `json:"cwd,omitempty"`
	// Place names the job's directory on the device; it is in no result.
	Place string `json:"place"`
	// Shell is the login shell that the scripts are quoted for.
	Shell string `json:"shell,omitempty"`
	State State  `json:"state"`
	// Detached: the job belongs to the device, and survives a disconnect.
	Detached bool `json:"detached,omitempty"`
	// Seen: the device has said that the job began.
	Seen bool `json:"seen,omitempty"`
	// Owner is the gateway process that holds a queued or attached job, or is
	// sending it just now.
	Owner      string        `json:"owner,omitempty"`
	CreatedAt  time.Time     `json:"created_at"`
	StartedAt  *time.Time    `json:"started_at,omitempty"` // sent
	EndedAt    *time.Time    `json:"ended_at,omitempty"`
	MaxRuntime time.Duration `json:"max_runtime"`
	ExitCode   *int          `json:"exit_code,omitempty"`
	Signal     string        `json:"signal,omitempty"`
	// Reason says why a job was stopped or lost.
	Reason      string `json:"reason,omitempty"`
	StdoutBytes int64  `json:"stdout_bytes"`
	StderrBytes int64  `json:"stderr_bytes"`
	// Limit is how many bytes of each stream are kept.
	Limit     int64 `json:"limit"`
	Truncated bool  `json:"truncated,omitempty"`
	// OutputID is where the output of an attached job is kept.
	OutputID string `json:"output_id,omitempty"`
	// Void: it is certain that the job has never begun, and never will.
	Void bool `json:"void,omitempty"`
}

// New returns a job that has not begun, with handles that nobody can guess.
func New(device string) Job {
	return Job{ID: rand.Text(), Place: rand.Text(), Device: device, State: Queued, Limit: MaxOutput, CreatedAt: time.Now().UTC()}
}

// The errors that callers tell apart.
var (
	// ErrUnknown: no job has this id.
	ErrUnknown = errors.New("no job has this id")
	// ErrFull: there are as many jobs as may be.
	ErrFull = errors.New("too many jobs")
	// ErrUnsupported: the device cannot keep a job by itself.
	ErrUnsupported = errors.New("the device cannot keep a job")
	// ErrUnclear: the answer to a start was lost; the job may run.
	ErrUnclear = errors.New("it is not known whether the job began")
)

// Executed says whether the command has run: no, maybe or yes.
func (j *Job) Executed() string {
	switch {
	case j.Seen:
		return "yes"
	case j.StartedAt == nil || j.Void:
		return "no"
	}
	return "maybe"
}

// end closes a job.
func (j *Job) end(s State, reason string) {
	now := time.Now().UTC()
	j.State, j.Reason, j.EndedAt = s, reason, &now
}
