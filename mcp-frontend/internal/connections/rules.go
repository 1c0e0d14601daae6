package connections

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// maxJumps bounds a chain of jumps: longer ones are mistakes, and each hop
// costs an SSH handshake inside another.
const maxJumps = 4

var (
	deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	hostName   = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.|$))+$`)
	// No top-level domain is a number: such a name is a mistyped address.
	numericEnd = regexp.MustCompile(`(^|\.)[0-9]+\.?$`)
)

// checkRules reports what a schema cannot express: rules between fields and
// between entries.
func (d *document) checkRules(entries []entry) {
	names := d.checkNames()
	byName := make(map[string]*entry, len(names)) // nil: an entry with other mistakes
	for _, name := range names {
		byName[name] = nil
	}
	for i := range entries {
		byName[entries[i].device.Name] = &entries[i]
	}
	for _, e := range entries {
		if e.device.Mode == Tunnel {
			d.checkTunnelHost(e)
		} else {
			d.checkDirectHost(e)
		}
		if e.device.Jump != "" {
			d.checkJump(e, names, byName)
		}
		if retry := e.device.Retry; retry.MaxBackoff < retry.InitialBackoff {
			d.report(e.at.fields["retry"].start, "device %q: retry.max_backoff_ms (%d) is below retry.initial_backoff_ms (%d)",
				e.device.Name, retry.MaxBackoff.Milliseconds(), retry.InitialBackoff.Milliseconds())
		}
	}
}

// checkNames goes over all entries, also those with other mistakes, and
// returns their names.
func (d *document) checkNames() []string {
	list, ok := d.value.([]any)
	if !ok {
		return nil
	}
	names := make([]string, 0, len(list))
	first := make(map[string]int, len(list)) // name in lower case -> offset
	for i := range list {
		name, ok := entryName(d.value, i)
		if !ok {
			continue
		}
		names = append(names, name)
		at := d.root.items[i].fields["name"].start
		// known_hosts is searched for the device's name first. An address
		// there would match a line that was written for some other host.
		if _, err := netip.ParseAddr(name); err == nil || strings.EqualFold(name, "localhost") {
			d.report(at, "device %q: a name must not be an address or localhost: that is what \"host\" is for", name)
		}
		folded := strings.ToLower(name)
		if offset, taken := first[folded]; taken {
			d.report(at, "device %q: the name is already taken in line %d (case does not matter)", name, d.line(offset))
			continue
		}
		first[folded] = at
	}
	return names
}

// checkTunnelHost accepts what the acceptor resolves: its device names, which
// are never addresses, and three spellings of the loopback address.
func (d *document) checkTunnelHost(e entry) {
	host := e.device.Host
	if slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, host) {
		return
	}
	_, err := netip.ParseAddr(host)
	if err == nil || strings.EqualFold(host, "localhost") || !deviceName.MatchString(host) {
		d.report(e.at.fields["host"].start,
			"device %q: host %q is not reachable through the acceptor: in tunnel mode write 127.0.0.1, or the name that the acceptor knows the device by",
			e.device.Name, host)
	}
}

func (d *document) checkDirectHost(e entry) {
	host, at := e.device.Host, e.at.fields["host"].start
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && (addr.IsUnspecified() || addr.IsMulticast()):
		d.report(at, "device %q: host %q is not the address of one device", e.device.Name, host)
	case err == nil:
	case strings.Contains(host, ":"):
		d.report(at, "device %q: host %q is not an IP address; if it ends in a port, write that as \"port\"", e.device.Name, host)
	case !hostName.MatchString(host) || numericEnd.MatchString(host):
		d.report(at, "device %q: host %q is neither a host name nor an IP address", e.device.Name, host)
	}
}

// checkJump follows the chain of jumps as far as it is valid; what is wrong
// further on is reported for the entry it is wrong in.
func (d *document) checkJump(e entry, names []string, byName map[string]*entry) {
	name, jump, at := e.device.Name, e.device.Jump, e.at.fields["jump"].start
	next, exists := byName[jump]
	switch {
	case e.device.Mode == Tunnel:
		d.report(at, "device %q: jump is for direct mode only: a tunnel already leads to the device", name)
		return
	case jump == name:
		d.report(at, "device %q: jump names the device itself", name)
		return
	case !exists:
		hint := ""
		if near := nearest(jump, names, 1); len(near) > 0 && near[0] != name {
			hint = fmt.Sprintf("; did you mean %q?", near[0])
		}
		d.report(at, "device %q: jump: there is no entry %q%s", name, jump, hint)
		return
	case next != nil && next.device.Mode != Direct:
		d.report(at, "device %q: jump: %q is in tunnel mode; a jump must be a direct-mode entry", name, jump)
		return
	}
	chain, earliest := []string{name}, e.index
	for ; next != nil && next.device.Mode == Direct; next = byName[next.device.Jump] {
		chain = append(chain, next.device.Name)
		if next.device.Name == name {
			// One circle is one mistake: its first entry reports it.
			if earliest == e.index {
				d.report(at, "device %q: jumps in a circle: %s", name, strings.Join(chain, " -> "))
			}
			return
		}
		if len(chain) > maxJumps+1 {
			d.report(at, "device %q: more than %d jumps, or a circle: %s", name, maxJumps, strings.Join(chain, " -> "))
			return
		}
		earliest = min(earliest, next.index)
	}
}
