package devicekey_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/tunnel-acceptor/internal/devicekey"
)

const notAllowed = ` is not allowed: a device holds reverse ports and nothing else ` +
	`(allowed: restrict, port-forwarding, permitlisten, from, expiry-time, cert-authority, principals, no-touch-required, no-*)`

func TestGoodLines(t *testing.T) {
	key := text(signer(t, 1).PublicKey())
	for name, c := range map[string]struct {
		line string
		want []uint16
	}{
		"plain":            {`restrict,port-forwarding,permitlisten="22222" KEY edge-vm-2`, []uint16{22222}},
		"tabs":             {"\t restrict,permitlisten=\"22222\"\t \tKEY\tedge-vm-2  ", []uint16{22222}},
		"upper case":       {`RESTRICT,Port-Forwarding,PermitListen="22222",No-Pty KEY E.d_g-e`, []uint16{22222}},
		"labels":           {`restrict,permitlisten="localhost:1",permitlisten="127.0.0.1:2",permitlisten="[::1]:3",permitlisten="*:4",permitlisten=":65535" KEY e`, []uint16{1, 2, 3, 4, 65535}},
		"unique ports":     {`restrict,permitlisten="2",permitlisten="localhost:1",permitlisten="2" KEY e`, []uint16{1, 2}},
		"refusals":         {`restrict,no-agent-forwarding,no-X11-forwarding,no-pty,no-user-rc,no-verify-required,permitlisten="2" KEY e`, []uint16{2}},
		"restrict is last": {`permitlisten="2",restrict KEY e`, []uint16{2}},
		"sources":          {`restrict,permitlisten="2",from="10.0.0.0/8,::1,::ffff:192.0.2.0/120" KEY e`, []uint16{2}},
	} {
		t.Run(name, func(t *testing.T) {
			entries := parse(t, strings.ReplaceAll(c.line, "KEY", key)).Entries()
			if len(entries) != 1 || !slices.Equal(entries[0].Ports, c.want) {
				t.Errorf("got %+v, want one line with ports %v", entries, c.want)
			}
		})
	}
}

func TestBadLines(t *testing.T) {
	pub := signer(t, 1).PublicKey()
	key := text(pub)
	encoded := strings.Fields(key)[1]
	for name, c := range map[string]struct{ line, want string }{
		"no options":           {`KEY edge`, `no options: a line begins with restrict,port-forwarding,permitlisten="PORT" before the key`},
		"option for a type":    {`restrict ` + encoded + ` edge`, `permitlisten is missing: name the reverse port, such as permitlisten="22222"` + "\nf:2: a public key is not readable: short read"},
		"no restrict":          {`permitlisten="22222" KEY edge`, "restrict is missing: every line begins with it"},
		"no permitlisten":      {`restrict,port-forwarding KEY edge`, `permitlisten is missing: name the reverse port, such as permitlisten="22222"`},
		"pty":                  {`restrict,permitlisten="2",PTY KEY edge`, "option pty" + notAllowed},
		"command":              {`restrict,permitlisten="2",command="a \"b\", c" KEY edge`, "option command" + notAllowed},
		"permitopen":           {`restrict,permitlisten="2",permitopen="a:1" KEY edge`, "option permitopen" + notAllowed},
		"unknown":              {`restrict,permitlisten="2",frobnicate KEY edge`, "option frobnicate" + notAllowed},
		"unknown value":        {`restrict,permitlisten="2",frobnicate="1" KEY edge`, "option frobnicate is unknown or takes no value"},
		"flag with value":      {`restrict="yes",permitlisten="2" KEY edge`, "option restrict is unknown or takes no value"},
		"value without quotes": {`restrict,permitlisten=22222 KEY edge`, `option permitlisten: the value must stand in double quotes: permitlisten="…"`},
		"two values":           {`restrict,permitlisten="1""2" KEY edge`, `option permitlisten: the value must stand in double quotes: permitlisten="…"`},
		"only one quote":       {`restrict,permitlisten="22222 KEY edge`, "a quote is not closed"},
		"only a quote":         {`restrict,permitlisten=" KEY "edge`, "no key: a line is options, key type, key and device name, with blanks only between them"},
		"escaped end":          {`restrict,permitlisten="2\" KEY edge`, "a quote is not closed"},
		"no value":             {`restrict,permitlisten KEY edge`, `permitlisten needs a value: permitlisten="…"`},
		"blank after comma":    {`restrict, permitlisten="2" KEY edge`, "unreadable option: options are separated by single commas, without blanks"},
		"empty option":         {`restrict,,permitlisten="2" KEY edge`, "unreadable option: options are separated by single commas, without blanks"},
		"verify-required":      {`restrict,permitlisten="2",verify-required KEY edge`, "verify-required cannot be enforced here: the SSH library does not show whether the PIN was asked for; remove it"},
		"no-port-forwarding":   {`restrict,permitlisten="2",no-port-forwarding KEY edge`, "no-port-forwarding contradicts permitlisten: to lock a device out, comment its line out"},
		"port 0":               {`restrict,permitlisten="0" KEY edge`, `permitlisten "0": the port must be one number from 1 to 65535`},
		"port *":               {`restrict,permitlisten="localhost:*" KEY edge`, `permitlisten "localhost:*": the port must be one number from 1 to 65535`},
		"port 65536":           {`restrict,permitlisten="65536" KEY edge`, `permitlisten "65536": the port must be one number from 1 to 65535`},
		"port +1":              {`restrict,permitlisten="+1" KEY edge`, `permitlisten "+1": the port must be one number from 1 to 65535`},
		"port none":            {`restrict,permitlisten="localhost:" KEY edge`, `permitlisten "localhost:": the port must be one number from 1 to 65535`},
		"address":              {`restrict,permitlisten="0.0.0.0:22222" KEY edge`, `permitlisten "0.0.0.0:22222": the address before the port must be localhost, 127.0.0.1, [::1], "*" or left out: tunnels listen on no other`},
		"bare ::1":             {`restrict,permitlisten="::1:22222" KEY edge`, `permitlisten "::1:22222": write [::1]:22222`},
		"from name":            {`restrict,permitlisten="2",from="host.example" KEY edge`, `from: "host.example" is neither an IP address nor a CIDR network (host names and wildcards are not looked up)`},
		"from wildcard":        {`restrict,permitlisten="2",from="10.0.*" KEY edge`, `from: "10.0.*" is neither an IP address nor a CIDR network (host names and wildcards are not looked up)`},
		"from empty":           {`restrict,permitlisten="2",from="" KEY edge`, `from: "" is neither an IP address nor a CIDR network (host names and wildcards are not looked up)`},
		"from zone":            {`restrict,permitlisten="2",from="fe80::1%eth0" KEY edge`, `from: "fe80::1%eth0" is neither an IP address nor a CIDR network (host names and wildcards are not looked up)`},
		"from mask":            {`restrict,permitlisten="2",from="10.0.0.1/8" KEY edge`, `from: "10.0.0.1/8" has bits beyond its mask: write 10.0.0.0/8`},
		"from exceptions":      {`restrict,permitlisten="2",from="!10.0.0.1" KEY edge`, `from: only exceptions, so no address can match: add what is allowed, such as "0.0.0.0/0,::/0"`},
		"from twice":           {`restrict,permitlisten="2",from="10.0.0.1",from="10.0.0.2" KEY edge`, "from is given twice"},
		"expiry word":          {`restrict,permitlisten="2",expiry-time="never" KEY edge`, `expiry-time "never": write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z at the end for UTC`},
		"expiry day":           {`restrict,permitlisten="2",expiry-time="20270230" KEY edge`, `expiry-time "20270230": write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z at the end for UTC`},
		"principals":           {`restrict,permitlisten="2",principals="edge" KEY edge`, "principals belongs on a cert-authority line; here the comment is the device's name"},
		"no principals":        {`cert-authority,restrict,permitlisten="2" KEY edge`, `principals is missing: name the devices that this authority may sign for, or "*" for any`},
		"principals pattern":   {`cert-authority,restrict,permitlisten="2",principals="pump-*" KEY`, `principals: "pump-*" is not a device name: use 1 to 63 letters, digits, dots, underscores and hyphens, beginning with a letter or digit`},
		"principals * and":     {`cert-authority,restrict,permitlisten="2",principals="edge,*" KEY`, `principals: "*" stands alone`},
		"no comment":           {`restrict,permitlisten="2" KEY`, "no comment after the key: it is the device's name"},
		"user@host":            {`restrict,permitlisten="2" KEY pi@edge`, `the comment "pi@edge" is not a device name: rename it, for example to edge (ssh-keygen writes user@host by itself)`},
		"two words":            {`restrict,permitlisten="2" KEY edge laptop`, `the comment "edge laptop" is not a device name: use 1 to 63 letters, digits, dots, underscores and hyphens, beginning with a letter or digit`},
		"address for a name":   {`restrict,permitlisten="2" KEY 127.0.0.1`, `the comment "127.0.0.1" is not a device name: an IP address is not a name`},
		"localhost":            {`restrict,permitlisten="2" KEY LocalHost.`, `the comment "LocalHost." is not a device name: localhost is not a name`},
		"long name":            {`restrict,permitlisten="2" KEY ` + strings.Repeat("e", 64), `the comment "` + strings.Repeat("e", 64) + `" is not a device name: use 1 to 63 letters, digits, dots, underscores and hyphens, beginning with a letter or digit`},
		"key cut off":          {`restrict,permitlisten="2" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== edge`, "a public key is not readable: short read"},
		"not base64":           {`restrict,permitlisten="2" ssh-ed25519 edge-1`, "the public key is not valid base64: it may be cut off or broken into lines"},
		"type differs":         {`restrict,permitlisten="2" ssh-rsa ` + encoded + ` edge`, "the key type written before the public key differs from the one in it, ssh-ed25519"},
		"control character":    {"restrict,permitlisten=\"2\" KEY edge\x1b[2J", "unprintable character U+001B"},
		"long line":            {`restrict,permitlisten="2" KEY edge` + strings.Repeat(" ", 8<<10) + "x", "longer than 8 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := devicekey.Parse("f", []byte("\n"+strings.ReplaceAll(c.line, "KEY", key)+"\n"))
			if err == nil || err.Error() != "f:2: "+c.want {
				t.Errorf("got  %v\nwant f:2: %s", err, c.want)
			}
		})
	}
}

func TestConflicts(t *testing.T) {
	line := func(seed byte, options, comment string) string {
		return "restrict," + options + " " + text(signer(t, seed).PublicKey()) + " " + comment
	}
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"rotation":              {[]string{line(1, `permitlisten="1"`, "a"), line(2, `permitlisten="1"`, "a")}, ""},
		"authority's port":      {[]string{line(1, `permitlisten="1"`, "a"), line(2, `cert-authority,principals="b,c",permitlisten="1"`, "")}, ""},
		"authority's rotation":  {[]string{line(1, `cert-authority,principals="b",permitlisten="1"`, ""), line(2, `cert-authority,principals="b",permitlisten="1"`, "")}, ""},
		"authority's two lines": {[]string{line(1, `cert-authority,principals="a",permitlisten="1"`, ""), line(1, `cert-authority,principals="b",permitlisten="2"`, "")}, ""},
		"one key twice":         {[]string{line(1, `permitlisten="1"`, "a"), line(1, `permitlisten="2"`, "b")}, "f:2: the key is already on line 1, for a: one key is one device, on one line"},
		"one port twice":        {[]string{line(1, `permitlisten="1"`, "a"), line(2, `permitlisten="1"`, "b")}, "f:2: port 1 already belongs to a, on line 1"},
		"case":                  {[]string{line(1, `permitlisten="1"`, "a"), line(2, `permitlisten="2"`, "A")}, "f:2: the device name A differs only in case from a, on line 1"},
		"case of principal":     {[]string{line(1, `cert-authority,principals="A",permitlisten="1"`, ""), line(2, `cert-authority,principals="a",permitlisten="1"`, "")}, "f:2: the device name a differs only in case from A, on line 1"},
		"principal is a device": {[]string{line(1, `permitlisten="1"`, "a"), line(2, `cert-authority,principals="a",permitlisten="2"`, "")}, "f:2: the principal a is a device with a key of its own, on line 1: an authority may not sign for it"},
		"device is a principal": {[]string{line(2, `cert-authority,principals="a",permitlisten="2"`, ""), line(1, `permitlisten="1"`, "a")}, "f:2: the device a is a certificate's principal, on line 1: it may not have a key of its own"},
		"device is authority":   {[]string{line(2, `cert-authority,principals="a",permitlisten="2"`, ""), line(2, `permitlisten="1"`, "b")}, "f:2: the key is an authority's, on line 1: a device may not sign certificates"},
		"authority is device":   {[]string{line(2, `permitlisten="1"`, "b"), line(2, `cert-authority,principals="a",permitlisten="2"`, "")}, "f:2: the authority's key is the key of device b, on line 1: a device may not sign certificates"},
		"principal twice":       {[]string{line(2, `cert-authority,principals="a,b",permitlisten="1"`, ""), line(2, `cert-authority,principals="b,c",permitlisten="2"`, "")}, `f:2: the principal "b" of this authority is already granted on line 1`},
		"any and one":           {[]string{line(2, `cert-authority,principals="*",permitlisten="1"`, ""), line(2, `cert-authority,principals="b",permitlisten="2"`, "")}, `f:2: the principal "b" of this authority is already granted on line 1`},
		"one and any":           {[]string{line(2, `cert-authority,principals="b",permitlisten="1"`, ""), line(2, `cert-authority,principals="*",permitlisten="2"`, "")}, `f:2: the principal "*" of this authority is already granted on line 1`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := devicekey.Parse("f", []byte(strings.Join(c.lines, "\n")))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	a, b := text(signer(t, 1).PublicKey()), text(signer(t, 2).PublicKey())
	_, err := devicekey.Parse("f", []byte(strings.Join([]string{
		`restrict,permitlisten="1" ` + a + " a",
		`permitlisten="0",pty ` + b + " pi@b",
		`-----BEGIN OPENSSH PRIVATE KEY-----`,
		`b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW`,
		`-----END OPENSSH PRIVATE KEY-----`,
		`restrict,permitlisten="1" ` + b + " b",
		`b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW`,
	}, "\n")))
	if err == nil {
		t.Fatal("accepted")
	}
	want := []string{
		`f:2: permitlisten "0": the port must be one number from 1 to 65535`,
		"f:2: option pty" + notAllowed,
		"f:2: restrict is missing: every line begins with it",
		`f:2: the comment "pi@b" is not a device name: rename it, for example to b (ssh-keygen writes user@host by itself)`,
		"f:3: this is a private key: remove it, count it as leaked, make a new one and put the line of its .pub file here",
		"f:6: port 1 already belongs to a, on line 1",
		"f:7: no key: a line is options, key type, key and device name, with blanks only between them",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestExpiryTime(t *testing.T) {
	key := text(signer(t, 1).PublicKey())
	for value, want := range map[string]time.Time{
		"20271231Z":       time.Date(2027, 12, 31, 0, 0, 0, 0, time.UTC),
		"202712312359Z":   time.Date(2027, 12, 31, 23, 59, 0, 0, time.UTC),
		"20271231235958Z": time.Date(2027, 12, 31, 23, 59, 58, 0, time.UTC),
		"20271231":        time.Date(2027, 12, 31, 0, 0, 0, 0, time.Local),
		"20271231235958":  time.Date(2027, 12, 31, 23, 59, 58, 0, time.Local),
	} {
		got := parse(t, `restrict,permitlisten="1",expiry-time="`+value+`" `+key+" e").Entries()[0].Expires
		if !got.Equal(want) {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
}
