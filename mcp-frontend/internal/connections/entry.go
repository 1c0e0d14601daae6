package connections

import (
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// entry is a device together with its place in the file.
type entry struct {
	index  int
	at     *node
	device Device
}

// fields is an entry as the file has it. The schema has checked it already and
// its defaults are filled in, so this only gives types to the values.
type fields struct {
	Name            string        `json:"name"`
	Mode            Mode          `json:"mode"`
	User            string        `json:"user"`
	Host            string        `json:"host"`
	Port            uint16        `json:"port"`
	IDFile          string        `json:"id_file"`
	Description     string        `json:"description"`
	Tags            []string      `json:"tags"`
	KnownHosts      string        `json:"known_hosts"`
	CertificateFile string        `json:"certificate_file"`
	Jump            string        `json:"jump"`
	LoginShell      string        `json:"login_shell"`
	ConnectTimeoutS int64         `json:"connect_timeout_s"`
	CommandTimeoutS int64         `json:"command_timeout_s"`
	KeepaliveS      int64         `json:"keepalive_s"`
	MaxSessions     int           `json:"max_sessions"`
	Retry           retryFields   `json:"retry"`
	Policy          *policyFields `json:"policy"`
}

type retryFields struct {
	MaxAttempts      int   `json:"max_attempts"`
	InitialBackoffMs int64 `json:"initial_backoff_ms"`
	MaxBackoffMs     int64 `json:"max_backoff_ms"`
	CooldownS        int64 `json:"cooldown_s"`
}

type policyFields struct {
	Allow          *[]string `json:"allow"`
	Deny           *[]string `json:"deny"`
	Approve        *[]string `json:"approve"`
	ApproveBy      string    `json:"approve_by"`
	ReadOnly       *[]string `json:"read_only"`
	Shell          bool      `json:"shell"`
	Sudo           bool      `json:"sudo"`
	ReadPaths      *[]string `json:"read_paths"`
	WritePaths     *[]string `json:"write_paths"`
	MaxTimeoutS    int64     `json:"max_timeout_s"`
	MaxOutputBytes int64     `json:"max_output_bytes"`
}

// decode returns the entries that the schema found no fault with.
func (d *document) decode(schema *jsonschema.Schema, broken map[int]bool) []entry {
	list, ok := d.value.([]any)
	if !ok {
		return nil
	}
	folder := filepath.Dir(d.path)
	entries := make([]entry, 0, len(list))
	for i, item := range list {
		object, ok := item.(map[string]any)
		if !ok || broken[i] {
			continue
		}
		at := d.root.items[i]
		var from fields
		if err := convert(withDefaults(resolve(schema.Items2020), object), &from); err != nil {
			d.report(at.start, "entry %d: %v", i+1, err)
			continue
		}
		entries = append(entries, entry{index: i, at: at, device: from.device(folder)})
	}
	return entries
}

// convert goes through JSON text once more. That is exact: the schema admits
// only known names, and only numbers that a float64 holds without loss.
func convert(object map[string]any, to *fields) error {
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

func (f *fields) device(folder string) Device {
	return Device{
		Name:            f.Name,
		Mode:            f.Mode,
		User:            f.User,
		Host:            f.Host,
		Port:            f.Port,
		IDFile:          under(folder, f.IDFile),
		CertificateFile: under(folder, f.CertificateFile),
		KnownHosts:      under(folder, f.KnownHosts),
		Description:     f.Description,
		Tags:            f.Tags,
		Jump:            f.Jump,
		LoginShell:      f.LoginShell,
		ConnectTimeout:  seconds(f.ConnectTimeoutS),
		CommandTimeout:  seconds(f.CommandTimeoutS),
		Keepalive:       seconds(f.KeepaliveS),
		MaxSessions:     f.MaxSessions,
		Retry: Retry{
			MaxAttempts:    f.Retry.MaxAttempts,
			InitialBackoff: milliseconds(f.Retry.InitialBackoffMs),
			MaxBackoff:     milliseconds(f.Retry.MaxBackoffMs),
			Cooldown:       seconds(f.Retry.CooldownS),
		},
		Policy: f.Policy.policy(),
	}
}

func (f *policyFields) policy() *Policy {
	if f == nil {
		return nil
	}
	return &Policy{
		Allow:          list(f.Allow),
		Deny:           list(f.Deny),
		Approve:        list(f.Approve),
		ReadOnly:       list(f.ReadOnly),
		ReadPaths:      list(f.ReadPaths),
		WritePaths:     list(f.WritePaths),
		ApproveBy:      f.ApproveBy,
		Shell:          f.Shell,
		Sudo:           f.Sudo,
		MaxTimeout:     seconds(f.MaxTimeoutS),
		MaxOutputBytes: f.MaxOutputBytes,
	}
}

func list(items *[]string) List {
	if items == nil {
		return List{}
	}
	return List{Present: true, Items: *items}
}

func under(folder, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}

func seconds(n int64) time.Duration      { return time.Duration(n) * time.Second }
func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// entryName is the name of the entry at index, if it has one, valid or not.
func entryName(value any, index int) (string, bool) {
	list, ok := value.([]any)
	if !ok || index >= len(list) {
		return "", false
	}
	object, ok := list[index].(map[string]any)
	if !ok {
		return "", false
	}
	name, ok := object["name"].(string)
	return name, ok
}
