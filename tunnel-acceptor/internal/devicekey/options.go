package devicekey

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// option is one item before the key: a flag, or name="value".
type option struct {
	name  string // in lower case: OpenSSH compares without regard to case
	value string // without quotes
	flag  bool
}

// optionName is what may be quoted in an error; anything else could be a secret
// or a megabyte.
var optionName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// splitOptions reads options up to the first blank outside quotes, as OpenSSH
// does (sshkey.c: sshkey_advance_past_options), and returns what follows them.
func splitOptions(text string) (options []option, rest string, err error) {
	quoted, start := false, 0
	var items []string
	end := len(text)
scan:
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && strings.HasPrefix(text[i+1:], `"`):
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			items = append(items, text[start:i])
			start = i + 1
		case (c == ' ' || c == '\t') && !quoted:
			end = i
			break scan
		}
	}
	if quoted {
		return nil, "", errors.New("a quote is not closed")
	}
	rest = strings.TrimLeft(text[end:], " \t")
	if rest == "" {
		return nil, "", errors.New(`no key: a line is options, key type, key and device name, with blanks only between them`)
	}
	for _, item := range append(items, text[start:end]) {
		parsed, err := parseOption(item)
		if err != nil {
			return nil, "", err
		}
		options = append(options, parsed)
	}
	return options, rest, nil
}

func parseOption(item string) (option, error) {
	name, value, hasValue := strings.Cut(item, "=")
	name = strings.ToLower(name)
	if !optionName.MatchString(name) {
		return option{}, errors.New("unreadable option: options are separated by single commas, without blanks")
	}
	if !hasValue {
		return option{name: name, flag: true}, nil
	}
	inner, ok := strings.CutPrefix(value, `"`)
	inner, closed := strings.CutSuffix(inner, `"`)
	unescaped := strings.ReplaceAll(inner, `\"`, "")
	if !ok || !closed || strings.Contains(unescaped, `"`) {
		return option{}, fmt.Errorf(`option %s: the value must stand in double quotes: %s="…"`, name, name)
	}
	return option{name: name, value: strings.ReplaceAll(inner, `\"`, `"`)}, nil
}

// takesValue tells the options apart that are written name="value".
var takesValue = map[string]bool{"permitlisten": true, "from": true, "expiry-time": true, "principals": true}

// apply sets the line from its options and returns everything wrong with them.
// Nothing is granted by the absence of an option: restrict and permitlisten must
// be there.
func (l *line) apply(options []option) (wrong []error) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	seen := map[string]bool{}
	for _, o := range options {
		if err := l.applyOne(o); err != nil {
			bad("%w", err)
		} else if o.name != "permitlisten" && takesValue[o.name] && seen[o.name] {
			bad("%s is given twice", o.name)
		}
		seen[o.name] = true
	}
	slices.Sort(l.ports)
	l.ports = slices.Compact(l.ports)

	if !seen["restrict"] {
		bad("restrict is missing: every line begins with it")
	}
	if !seen["permitlisten"] {
		bad(`permitlisten is missing: name the reverse port, such as permitlisten="22222"`)
	}
	if l.authority && !seen["principals"] {
		bad(`principals is missing: name the devices that this authority may sign for, or "*" for any`)
	}
	if !l.authority && seen["principals"] {
		bad("principals belongs on a cert-authority line; here the comment is the device's name")
	}
	return wrong
}

func (l *line) applyOne(o option) (err error) {
	if takesValue[o.name] && o.flag {
		return fmt.Errorf(`%s needs a value: %s="…"`, o.name, o.name)
	}
	switch o.name {
	case "permitlisten":
		var port uint16
		if port, err = parsePermitListen(o.value); err == nil {
			l.ports = append(l.ports, port)
		}
		return err
	case "from":
		if l.from, err = parseSources(o.value, true); err != nil {
			return fmt.Errorf("from: %w", err)
		}
		return nil
	case "expiry-time":
		l.expires, err = parseExpiry(o.value)
		return err
	case "principals":
		l.principals, err = parsePrincipals(o.value)
		return err
	}
	if !o.flag {
		if o.name == "environment" || o.name == "command" || o.name == "permitopen" || o.name == "tunnel" {
			return notAllowed(o.name)
		}
		return fmt.Errorf("option %s is unknown or takes no value", o.name)
	}
	switch o.name {
	case "cert-authority":
		l.authority = true
	case noTouchRequired:
		l.noTouch = true
	case "restrict", "port-forwarding", "no-agent-forwarding", "no-x11-forwarding", "no-pty", "no-user-rc", "no-verify-required":
		// What they grant is only what permitlisten names; what they refuse is refused anyway.
	case "no-port-forwarding":
		return errors.New("no-port-forwarding contradicts permitlisten: to lock a device out, comment its line out")
	case "verify-required":
		return errors.New("verify-required cannot be enforced here: the SSH library does not show whether the PIN was asked for; remove it")
	default:
		return notAllowed(o.name)
	}
	return nil
}

func notAllowed(name string) error {
	return fmt.Errorf("option %s is not allowed: a device holds reverse ports and nothing else "+
		"(allowed: restrict, port-forwarding, permitlisten, from, expiry-time, cert-authority, principals, no-touch-required, no-*)", name)
}

// parsePermitListen reads PORT or LABEL:PORT. The label is what the device may
// write before the port of -R; it never is an address that is listened on.
func parsePermitListen(text string) (uint16, error) {
	label, port := "", text
	if colon := strings.LastIndexByte(text, ':'); colon >= 0 {
		label, port = text[:colon], text[colon+1:]
	}
	switch label {
	case "", "*", "localhost", "127.0.0.1", "[::1]":
	case "::1":
		return 0, fmt.Errorf(`permitlisten %q: write [::1]:%s`, text, port)
	default:
		return 0, fmt.Errorf(`permitlisten %.100q: the address before the port must be localhost, 127.0.0.1, [::1], "*" or left out: tunnels listen on no other`, text)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return 0, fmt.Errorf("permitlisten %.100q: the port must be one number from 1 to 65535", text)
	}
	return uint16(number), nil
}

// parseExpiry reads OpenSSH's time (misc.c: parse_absolute_time); without Z it
// is in the gateway's time zone.
func parseExpiry(text string) (time.Time, error) {
	const format = "20060102150405"
	digits, utc := strings.CutSuffix(text, "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	if n := len(digits); n == len("YYYYMMDD") || n == len("YYYYMMDDHHMM") || n == len(format) {
		if expires, err := time.ParseInLocation(format[:n], digits, zone); err == nil {
			return expires, nil
		}
	}
	return time.Time{}, fmt.Errorf("expiry-time %.100q: write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z at the end for UTC", text)
}

// parsePrincipals reads device names, compared byte by byte, or "*". Unlike a
// pattern, a name says exactly which certificates get in.
func parsePrincipals(text string) ([]string, error) {
	names := strings.Split(text, ",")
	if text == anyPrincipal {
		return names, nil
	}
	for _, name := range names {
		if name == anyPrincipal {
			return nil, errors.New(`principals: "*" stands alone`)
		}
		if err := checkDeviceName(name); err != nil {
			return nil, fmt.Errorf("principals: %.100q is not a device name: %w", name, err)
		}
	}
	return names, nil
}
