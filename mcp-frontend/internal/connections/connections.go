// Package connections reads connections.json, the static list of devices.
//
// It promises that a Set holds only what the JSON Schema beside this file
// (connections.schema.json, which is the validator and owns the defaults) and
// the rules between fields and entries allow: names are unique without regard
// to case, a jump leads over direct-mode entries and ends, a tunnel's host is
// something that the acceptor can resolve. A file with one mistake is refused
// whole, and every mistake is reported with its line and column.
//
// It refuses what encoding/json lets pass: unknown fields, fields given twice,
// names in another case, text that is not UTF-8, data after the list. A UTF-8
// byte order mark is skipped.
//
// It opens no file but the one it is asked for: whether a key or certificate
// exists and is any good is found out by those who use it. What a Policy means
// is decided by package policy.
package connections

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// MaxSize is the size in bytes above which a file is refused unread.
const MaxSize = 8 << 20

// Mode is how a device is reached.
type Mode string

// The modes of an entry.
const (
	Direct Mode = "direct" // the gateway dials Host:Port
	Tunnel Mode = "tunnel" // the device has dialled in; Host and Port name its reverse tunnel
)

// Device is one entry, with defaults filled in and paths resolved against the
// folder of connections.json.
type Device struct {
	Name string
	Mode Mode
	User string
	Host string // Tunnel: 127.0.0.1, ::1, localhost, or the acceptor's name of the device
	Port uint16

	IDFile          string
	CertificateFile string // "" if the key is used alone
	KnownHosts      string // "" for the gateway's own file

	Description string
	Tags        []string

	Jump       string // the name of a Direct entry, "" for none
	LoginShell string // posix, fish, csh, powershell, cmd; "" if it is to be probed

	ConnectTimeout time.Duration
	CommandTimeout time.Duration
	Keepalive      time.Duration
	MaxSessions    int // 1 to 10: sshd rejects the channel that exceeds its MaxSessions, 10 unless raised

	Retry  Retry
	Policy *Policy // nil if the entry has none
}

// Login is who logs in where, and on which way: what was learnt of a login
// stays true as long as this does.
func (d Device) Login() string {
	return fmt.Sprintf("%s %s %s@%s:%d %s", d.Name, d.Mode, d.User, d.Host, d.Port, d.Jump)
}

// Retry is how connecting to a device is retried; commands never are.
type Retry struct {
	MaxAttempts    int
	InitialBackoff time.Duration
	MaxBackoff     time.Duration // at least InitialBackoff
	Cooldown       time.Duration
}

// Policy is what an entry says about the use of its device. It is only
// carried here: package policy decides what it means.
type Policy struct {
	Allow, Deny, Approve, ReadOnly List // command patterns
	ReadPaths, WritePaths          List // absolute paths on the device

	ApproveBy   string // any, operator or client
	Shell, Sudo bool

	MaxTimeout     time.Duration // 0 if absent
	MaxOutputBytes int64         // 0 if absent
}

// List is a list that may be absent. An absent list restricts nothing and an
// empty one grants nothing, so the two are told apart by a field of their own:
// nil and empty slices are too easily turned into each other.
type List struct {
	Present bool
	Items   []string
}

// Set is the devices of one file. It does not change, so it may be used from
// any number of goroutines; what its methods return is the caller's own.
type Set struct {
	devices []Device
	byName  map[string]int
}

// Empty returns the set without devices, which a missing default file stands for.
func Empty() *Set {
	return newSet(nil)
}

// Load reads the file at path. The error is Problems if the file was read but
// does not hold a valid list; errors.Is finds fs.ErrNotExist if there is none.
func Load(path string) (*Set, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, readError(path, err)
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, readError(path, err)
	}
	return Parse(path, data)
}

// readError names the file once: an *fs.PathError would do so again.
func readError(path string, err error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		err = wrapped.Err
	}
	return fmt.Errorf("reading %s: %w", path, err)
}

// Parse reads data as the content of the file at path, which is named in
// messages and whose folder is the base of relative paths; nothing is opened.
// An error about the content is of type Problems and holds all there are.
func Parse(path string, data []byte) (*Set, error) {
	schema, err := compileSchema()
	if err != nil {
		return nil, fmt.Errorf("compiling the schema of connections.json: %w", err)
	}
	doc := &document{path: path, text: data}
	var devices []Device
	if doc.parse() {
		broken := doc.validate(schema)
		entries := doc.decode(schema, broken)
		doc.checkRules(entries)
		devices = make([]Device, 0, len(entries))
		for _, entry := range entries {
			devices = append(devices, entry.device)
		}
	}
	if problems := doc.problems(); len(problems) > 0 {
		return nil, problems
	}
	return newSet(devices), nil
}

func newSet(devices []Device) *Set {
	set := &Set{devices: devices, byName: make(map[string]int, len(devices))}
	for i, device := range devices {
		set.byName[device.Name] = i
	}
	return set
}

// Devices returns all devices in the file's order.
func (s *Set) Devices() []Device {
	devices := make([]Device, 0, len(s.devices))
	for _, device := range s.devices {
		devices = append(devices, device.clone())
	}
	return devices
}

// Lookup returns the device of exactly that name.
func (s *Set) Lookup(name string) (Device, bool) {
	i, ok := s.byName[name]
	if !ok {
		return Device{}, false
	}
	return s.devices[i].clone(), true
}

// Nearest returns at most three names that someone who wrote name may have
// meant, the likeliest first: equal but for case, then by edit distance.
func (s *Set) Nearest(name string) []string {
	names := make([]string, 0, len(s.devices))
	for _, device := range s.devices {
		names = append(names, device.Name)
	}
	return nearest(name, names, 3)
}

// clone keeps a Set immutable although its devices hold slices and a pointer.
func (d Device) clone() Device {
	d.Tags = slices.Clone(d.Tags)
	if d.Policy != nil {
		policy := *d.Policy
		for _, list := range []*List{
			&policy.Allow, &policy.Deny, &policy.Approve, &policy.ReadOnly, &policy.ReadPaths, &policy.WritePaths,
		} {
			list.Items = slices.Clone(list.Items)
		}
		d.Policy = &policy
	}
	return d
}
