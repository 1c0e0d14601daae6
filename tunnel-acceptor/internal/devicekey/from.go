package devicekey

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// sources is the list of addresses in from= or in a certificate's
// source-address. A nil *sources admits every address.
type sources struct {
	text   string
	allow  []netip.Prefix
	except []netip.Prefix // wins over allow, whatever the order (OpenSSH addrmatch.c: addr_match_list)
}

// parseSources reads a comma-separated list of addresses and networks; with
// negation an item may begin with "!". Host names and wildcards are refused:
// looking them up would let whoever answers DNS decide who comes in.
func parseSources(text string, negation bool) (*sources, error) {
	s := &sources{text: text}
	for item := range strings.SplitSeq(text, ",") {
		address, negated := strings.CutPrefix(item, "!")
		prefix, err := parsePrefix(address)
		switch {
		case err != nil:
			return nil, err
		case !negated:
			s.allow = append(s.allow, prefix)
		case negation:
			s.except = append(s.except, prefix)
		default:
			return nil, fmt.Errorf("%q: exceptions are not allowed here", item)
		}
	}
	if len(s.allow) == 0 {
		return nil, errors.New(`only exceptions, so no address can match: add what is allowed, such as "0.0.0.0/0,::/0"`)
	}
	return s, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is neither an IP address nor a CIDR network (host names and wildcards are not looked up)", text)
		}
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	// OpenSSH refuses these too (addr.c: addr_pton_cidr): one of the two halves is a slip.
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its mask: write %s", text, prefix.Masked())
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix, nil
}

// admits reports whether remote is in the list. An address that is not known,
// as on a unix socket, is in no list.
func (s *sources) admits(remote netip.Addr) bool {
	if s == nil {
		return true
	}
	// A dual-stack socket reports IPv4 clients as ::ffff:a.b.c.d, link-local ones with a zone.
	remote = remote.Unmap().WithZone("")
	return contains(s.allow, remote) && !contains(s.except, remote)
}

func contains(prefixes []netip.Prefix, address netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

func (s *sources) String() string {
	if s == nil {
		return ""
	}
	return s.text
}
