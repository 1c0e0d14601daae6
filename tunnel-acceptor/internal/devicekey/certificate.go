package devicekey

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// anyPrincipal, alone in principals=, lets a certificate claim any name that no
// line of the file has given away.
const anyPrincipal = "*"

// noTouchRequired is both a line's option and a certificate's extension.
const noTouchRequired = "no-touch-required"

// authorizeCertificate is Authorize for certificates. Only a certificate that a
// listed authority really signed is told why it is refused.
func (s *Set) authorizeCertificate(cert *ssh.Certificate, remote netip.Addr, now time.Time) (*Grant, error) {
	lines := s.authorities[wire(cert.SignatureKey)]
	if len(lines) == 0 || !signed(cert) {
		return nil, ErrUnknownKey
	}
	l, device, reason := s.claimedDevice(lines, cert.ValidPrincipals)
	reason = cmp.Or(s.revoked.reason(cert), certificateRefusal(cert, remote, now), reason)
	if reason == "" {
		reason = cmp.Or(l.refusal(remote, now), l.touchRefusal(cert))
	}
	if reason != "" {
		return nil, &Denied{Device: device, Reason: reason}
	}
	return &Grant{
		Device:          device,
		Ports:           slices.Clone(l.ports),
		Fingerprint:     ssh.FingerprintSHA256(cert.Key),
		KeyID:           cert.KeyId,
		Serial:          cert.Serial,
		Certificate:     true,
		Expires:         earlier(l.expires, certificateEnd(cert)),
		Line:            l.number,
		NoTouchRequired: has(cert.Extensions, noTouchRequired),
	}, nil
}

// signed reports whether the key named as the certificate's authority made its
// signature. x/crypto offers that question only together with others, which are
// asked here so that they pass; they are answered in words further down.
func signed(cert *ssh.Certificate) bool {
	principal := ""
	if len(cert.ValidPrincipals) > 0 {
		principal = cert.ValidPrincipals[0]
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: slices.Collect(maps.Keys(cert.CriticalOptions)),
		Clock:                    func() time.Time { return unixTime(cert.ValidAfter) },
	}
	return checker.CheckCert(principal, cert) == nil
}

// claimedDevice finds the one line and the one name that the principals stand for.
func (s *Set) claimedDevice(lines []*line, principals []string) (l *line, device, reason string) {
	// x/crypto and ssh(1) read a certificate without principals as one for everybody.
	if len(principals) == 0 {
		return nil, "", "the certificate has no principals: sign it with -n DEVICE"
	}
	for _, principal := range slices.Compact(slices.Sorted(slices.Values(principals))) {
		for _, candidate := range lines {
			if !candidate.admits(principal) {
				continue
			}
			if l != nil {
				return nil, "", fmt.Sprintf("the certificate's principals %q and %q are both granted here: it must name one device", device, principal)
			}
			l, device = candidate, principal
		}
	}
	if l == nil {
		return nil, "", fmt.Sprintf("none of the certificate's principals is granted here: %.200q", principals)
	}
	if l.principals[0] == anyPrincipal {
		if reason := s.unlistedRefusal(device); reason != "" {
			return nil, "", reason
		}
	}
	return l, device, ""
}

// admits reports whether the cert-authority line grants principal.
func (l *line) admits(principal string) bool {
	return l.principals[0] == anyPrincipal || slices.Contains(l.principals, principal)
}

// unlistedRefusal says why a name that no line lists may not be claimed, or "".
func (s *Set) unlistedRefusal(device string) string {
	if err := checkDeviceName(device); err != nil {
		return fmt.Sprintf("the certificate's principal %.100q cannot be a device's name: %v", device, err)
	}
	// Listed names are compared with one another when the file is read. Nobody
	// compares these, so lower case is what keeps Pump-1 and pump-1 from both being.
	if device != strings.ToLower(device) {
		return fmt.Sprintf("the certificate's principal %q must be in lower case: its cert-authority line has principals=\"*\"", device)
	}
	if listed, ok := s.names[device]; ok && (listed.plain || listed.name != device) {
		return fmt.Sprintf("the certificate's principal %q is the name of a device that is listed by itself", device)
	}
	return ""
}

// touchRefusal says why the certificate's waiver of the touch is refused, or "".
// OpenSSH wants line and certificate to agree (auth-options.c: sshauthopt_merge)
// and x/crypto waives the touch when either says so: taking the certificate
// would let it loosen its line.
func (l *line) touchRefusal(cert *ssh.Certificate) string {
	if has(cert.Extensions, noTouchRequired) && !l.noTouch {
		return "the certificate waives the touch of its security key, but its cert-authority line has no " + noTouchRequired
	}
	return ""
}

// certificateRefusal judges what the certificate says of itself.
func certificateRefusal(cert *ssh.Certificate, remote netip.Addr, now time.Time) string {
	if cert.CertType != ssh.UserCert {
		return "this is a host certificate: sign the key without -h"
	}
	// OpenSSH has refused these since 8.2 (CASignatureAlgorithms); x/crypto still verifies them.
	if cert.Signature.Format == ssh.KeyAlgoRSA {
		return "the certificate is signed with SHA-1: sign it with -t rsa-sha2-512"
	}
	if start := unixTime(cert.ValidAfter); now.Before(start) {
		return "the certificate is not valid before " + start.UTC().Format(time.RFC3339)
	}
	if end := certificateEnd(cert); !end.IsZero() && !now.Before(end) {
		return "the certificate expired at " + end.UTC().Format(time.RFC3339)
	}
	if !has(cert.Extensions, "permit-port-forwarding") {
		return "the certificate lacks permit-port-forwarding"
	}
	for _, name := range slices.Sorted(maps.Keys(cert.CriticalOptions)) {
		switch name {
		case "source-address":
			// An empty list matches nothing (CVE-2026-46595 was a list nobody looked at).
			allowed, err := parseSources(cert.CriticalOptions[name], false)
			if err != nil {
				return "the certificate's source-address is not readable"
			}
			if !allowed.admits(remote) {
				return fmt.Sprintf("the certificate may not be used from %s", remote.Unmap())
			}
		case "force-command":
			return "the certificate has a force-command, and this gateway runs no commands"
		default:
			return fmt.Sprintf("the certificate has the critical option %.100q, which this gateway does not know", name)
		}
	}
	return ""
}

// certificateEnd is zero for a certificate that never expires.
func certificateEnd(cert *ssh.Certificate) time.Time {
	if cert.ValidBefore == ssh.CertTimeInfinity {
		return time.Time{}
	}
	return unixTime(cert.ValidBefore)
}

// farFuture is beyond any real certificate and within what time.Time can order.
const farFuture = 1 << 40

func unixTime(seconds uint64) time.Time {
	return time.Unix(int64(min(seconds, farFuture)), 0)
}

// earlier treats a zero time as never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func has(options map[string]string, name string) bool {
	_, ok := options[name]
	return ok
}
