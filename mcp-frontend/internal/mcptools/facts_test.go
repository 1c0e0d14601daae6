package mcptools

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What other systems than Linux answer, as their manuals have it, is read; what
// is not as it should be is left out.
func TestParseFacts(t *testing.T) {
	t.Parallel()
	count := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		answer string
		want   facts
	}{
		"macOS": {
			`gateway-fact os Darwin
gateway-fact arch arm64
gateway-fact user 501 admin
gateway-fact disk /dev/disk3s1s1   971350180  9566168 403171124     3%    /
gateway-fact init /sbin/launchd
gateway-fact memory 17179869184
gateway-fact memory
gateway-fact booted { sec = 1700000000, usec = 123456 } Tue Nov 14 22:13:20 2023
gateway-fact now 1700000060`,
			facts{
				OS: "Darwin", Arch: "arm64", User: &account{"admin", 501}, Init: "launchd",
				Disk:   &disk{971350180 << 10, 9566168 << 10, 403171124 << 10},
				Memory: &memory{TotalBytes: 17179869184}, UptimeS: count(60),
			},
		},
		"OpenBSD": {
			"gateway-fact os OpenBSD\ngateway-fact booted 1700000000\ngateway-fact now 1700086400\ngateway-fact disk /dev/sd0a 1005916 1015916 -10000 101% /",
			facts{OS: "OpenBSD", UptimeS: count(86400), Disk: &disk{1005916 << 10, 1015916 << 10, 0}},
		},
		"after an open line": {"welcome: gateway-fact os Linux\r\n", facts{OS: "Linux"}},
		"the first one counts": {
			"gateway-fact os Linux\ngateway-fact os Other\n", facts{OS: "Linux"},
		},
		"a user without a name": {"gateway-fact user 1000 \n", facts{User: &account{UID: 1000}}},
		"what is no number": {
			"gateway-fact user root root\ngateway-fact MemTotal: -5\ngateway-fact uptime 1e9\ngateway-fact disk / 1 2 3\ngateway-fact booted x\ngateway-fact now 99999999999999999999",
			facts{},
		},
		"a clock that was set back": {"gateway-fact booted 1700000000\ngateway-fact now 3", facts{}},
		"control characters":        {"gateway-fact hostname a\x1b[31m\u202eb\xff\n", facts{Hostname: "a?[31m?b?"}},
		"a long name":               {"gateway-fact release \"" + strings.Repeat("x", 5000) + "\"", facts{OSRelease: strings.Repeat("x", 200) + "..."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := parseFacts(c.answer)
			if diff := cmp.Diff(c.want, got); diff != "" || !ok {
				t.Errorf("ok %v (-want +got):\n%s", ok, diff)
			}
		})
	}
	if _, ok := parseFacts("This account is not available.\n"); ok {
		t.Error("an answer without a fact is taken for one")
	}
}

func FuzzParseFacts(f *testing.F) {
	f.Add("gateway-fact disk /dev/sda1 1 2 3 4% /\ngateway-fact MemTotal: 1\ngateway-fact booted { sec = 1, usec = 2 } x\ngateway-fact now 5")
	f.Fuzz(func(t *testing.T, answer string) {
		got, _ := parseFacts(answer)
		text, err := marshal(got)
		if err != nil || len(text) > 16<<10 {
			t.Errorf("%d bytes, %v", len(text), err)
		}
		for _, n := range []*int64{got.UptimeS} {
			if n != nil && *n < 0 {
				t.Errorf("a time of %d", *n)
			}
		}
	})
}
