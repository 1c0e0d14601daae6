package mcptools

import (
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// factsProbe asks for all facts at once. It is POSIX sh and needs no program
// for certain: what a device lacks, it leaves out. Linux tells memory, uptime
// and the first process in /proc, the BSDs and macOS by sysctl and ps.
const factsProbe = `[ ! -w /dev/null ] || exec 2>/dev/null
PATH=$PATH:/bin:/usr/bin:/sbin:/usr/sbin
f() { printf 'gateway-fact %s\n' "$*"; }
f os "$(uname -s)"
f kernel "$(uname -r)"
f arch "$(uname -m)"
f hostname "$(uname -n)"
f user "$(id -u)" "$(id -un)"
f disk "$(df -Pk / | tail -n 1)"
if [ -r /etc/os-release ]; then while IFS== read -r k v; do case $k in PRETTY_NAME) f release "$v";; esac; done </etc/os-release; fi
if [ -r /proc/1/comm ]; then read -r k </proc/1/comm; f init "$k"; else f init "$(ps -p 1 -o comm=)"; fi
if [ -r /proc/meminfo ]; then while read -r k v u; do case $k in MemTotal:|MemAvailable:) f "$k" "$v";; esac; done </proc/meminfo
else for k in hw.memsize hw.physmem64 hw.physmem; do f memory "$(sysctl -n $k)"; done; fi
if [ -r /proc/uptime ]; then read -r k v </proc/uptime; f uptime "$k"; else f booted "$(sysctl -n kern.boottime)"; f now "$(date +%s)"; fi
exit 0`

// facts are what a device says of itself. Each may be missing.
type facts struct {
	OS        string   `json:"os,omitempty"`
	OSRelease string   `json:"os_release,omitempty"`
	Kernel    string   `json:"kernel,omitempty"`
	Arch      string   `json:"arch,omitempty"`
	Hostname  string   `json:"hostname,omitempty"`
	User      *account `json:"user,omitempty"`
	Init      string   `json:"init,omitempty"`
	Disk      *disk    `json:"disk,omitempty"`
	Memory    *memory  `json:"memory,omitempty"`
	UptimeS   *int64   `json:"uptime_s,omitempty"`
}

type account struct {
	Name string `json:"name,omitempty"`
	UID  int64  `json:"uid"`
}

// disk is the file system of /.
type disk struct {
	TotalBytes     int64 `json:"total_bytes"`
	UsedBytes      int64 `json:"used_bytes"`
	AvailableBytes int64 `json:"available_bytes"`
}

type memory struct {
	TotalBytes     int64  `json:"total_bytes"`
	AvailableBytes *int64 `json:"available_bytes,omitempty"`
}

// factsOutput is more than the probe's answer takes.
const factsOutput = 16 << 10

// parseFacts reads the probe's answer. ok is false if it holds no fact at all.
func parseFacts(answer string) (f facts, ok bool) {
	said := make(map[string]string)
	for line := range strings.Lines(answer) {
		_, fact, isFact := strings.Cut(line, "gateway-fact ") // an open line may stand before the first one
		key, value, _ := strings.Cut(strings.TrimSpace(fact), " ")
		if _, twice := said[key]; isFact && !twice && value != "" {
			said[key] = value
		}
	}
	f.OS, f.Kernel, f.Arch, f.Hostname = clean(said["os"]), clean(said["kernel"]), clean(said["arch"]), clean(said["hostname"])
	f.OSRelease = clean(strings.Trim(said["release"], `"'`))
	if said["init"] != "" {
		f.Init = clean(path.Base(strings.TrimPrefix(said["init"], "-")))
	}
	uid, name, _ := strings.Cut(said["user"], " ")
	if n, isUID := number(uid); isUID {
		f.User = &account{Name: clean(name), UID: n}
	}
	f.Disk = parseDisk(said["disk"])
	f.Memory = parseMemory(said)
	f.UptimeS = parseUptime(said)
	return f, len(said) > 0
}

// dfLine is the line of / as POSIX's df -P -k has it: blocks of 1024 bytes.
var dfLine = regexp.MustCompile(`\s(\d{1,13})\s+(\d{1,13})\s+(-?\d{1,13})\s+\d{1,3}%\s+/$`)

func parseDisk(line string) *disk {
	m := dfLine.FindStringSubmatch(line)
	if m == nil {
		return nil
	}
	var kib [3]int64
	for i := range kib {
		kib[i], _ = number(strings.TrimPrefix(m[i+1], "-")) // the pattern has checked it
	}
	if strings.HasPrefix(m[3], "-") {
		kib[2] = 0 // what is kept for root is in use
	}
	return &disk{TotalBytes: kib[0] << 10, UsedBytes: kib[1] << 10, AvailableBytes: kib[2] << 10}
}

func parseMemory(said map[string]string) *memory {
	if kib, ok := number(said["MemTotal:"]); ok {
		m := &memory{TotalBytes: kib << 10}
		if kib, ok := number(said["MemAvailable:"]); ok { // since Linux 3.14
			available := kib << 10
			m.AvailableBytes = &available
		}
		return m
	}
	if total, ok := number(said["memory"]); ok {
		return &memory{TotalBytes: total}
	}
	return nil
}

// bootTime is what sysctl says of kern.boottime: a struct on FreeBSD and
// macOS, seconds on OpenBSD.
var bootTime = regexp.MustCompile(`^(?:\{ sec = )?(\d{1,12})(?:,.*)?$`)

func parseUptime(said map[string]string) *int64 {
	whole, _, _ := strings.Cut(said["uptime"], ".")
	if up, ok := number(whole); ok {
		return &up
	}
	m := bootTime.FindStringSubmatch(said["booted"])
	now, ok := number(said["now"])
	if m == nil || !ok {
		return nil
	}
	booted, _ := number(m[1])
	if up := now - booted; up >= 0 {
		return &up
	}
	return nil
}

// number reads a count, of at most a petabyte in KiB.
func number(text string) (int64, bool) {
	const digits = 18
	if text == "" || len(text) > digits || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n < 1<<52
}

// clean makes text that a device chose safe to show, and bounds it.
func clean(text string) string {
	const limit = 200
	printable := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimSpace(text))
	if runes := []rune(printable); len(runes) > limit {
		printable = string(runes[:limit]) + "..."
	}
	return printable
}
