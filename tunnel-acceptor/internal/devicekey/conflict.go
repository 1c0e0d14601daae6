package devicekey

import "strings"

// claim is a device name and the line that names it.
type claim struct {
	name  string
	line  int
	plain bool // by a key of its own, not as a certificate's principal
}

// index builds the set and reports every pair of lines that leaves open which
// device a key is or whom a port belongs to.
func index(lines []*line, found *problems) *Set {
	s := &Set{
		lines:       lines,
		keys:        map[string]*line{},
		authorities: map[string][]*line{},
		names:       map[string]claim{},
	}
	ports := map[uint16]*line{}
	for _, l := range lines {
		if l.authority {
			s.addAuthority(l, found)
		} else {
			s.addDevice(l, ports, found)
		}
	}
	return s
}

func (s *Set) addDevice(l *line, ports map[uint16]*line, found *problems) {
	key := wire(l.key)
	if other := s.keys[key]; other != nil {
		found.add(l.number, "the key is already on line %d, for %s: one key is one device, on one line", other.number, other.device)
		return
	}
	if authorities := s.authorities[key]; len(authorities) > 0 {
		found.add(l.number, "the key is an authority's, on line %d: a device may not sign certificates", authorities[0].number)
		return
	}
	s.keys[key] = l
	s.addName(claim{l.device, l.number, true}, found)
	for _, port := range l.ports {
		other := ports[port]
		switch {
		case other == nil:
			ports[port] = l
		case other.device != l.device:
			found.add(l.number, "port %d already belongs to %s, on line %d", port, other.device, other.number)
		}
	}
}

func (s *Set) addAuthority(l *line, found *problems) {
	key := wire(l.key)
	if device := s.keys[key]; device != nil {
		found.add(l.number, "the authority's key is the key of device %s, on line %d: a device may not sign certificates", device.device, device.number)
		return
	}
	for _, other := range s.authorities[key] {
		if principal, ok := overlap(l, other); ok {
			found.add(l.number, "the principal %q of this authority is already granted on line %d", principal, other.number)
			return
		}
	}
	s.authorities[key] = append(s.authorities[key], l)
	for _, principal := range l.principals {
		if principal != anyPrincipal {
			s.addName(claim{principal, l.number, false}, found)
		}
	}
}

// addName keeps names unique without regard to case, and what one key stands
// for apart from what an authority may hand out. The same spelling on several
// lines is the rotation of a key or of an authority.
func (s *Set) addName(c claim, found *problems) {
	folded := strings.ToLower(c.name)
	other, taken := s.names[folded]
	switch {
	case !taken:
		s.names[folded] = c
	case other.name != c.name:
		found.add(c.line, "the device name %s differs only in case from %s, on line %d", c.name, other.name, other.line)
	case other.plain && !c.plain:
		found.add(c.line, "the principal %s is a device with a key of its own, on line %d: an authority may not sign for it", c.name, other.line)
	case !other.plain && c.plain:
		found.add(c.line, "the device %s is a certificate's principal, on line %d: it may not have a key of its own", c.name, other.line)
	}
}

// overlap returns a principal that both lines grant.
func overlap(a, b *line) (string, bool) {
	for _, principal := range a.principals {
		if principal == anyPrincipal || b.admits(principal) {
			return principal, true
		}
	}
	return "", false
}
