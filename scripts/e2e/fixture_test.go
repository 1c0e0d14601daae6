package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
)

// The devices of these tests are good for a plain ssh. When this fails, the
// machine is at fault and not the programs under test.
func TestPlainSSH(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	server := startSSHD(t, k)
	knownHosts := filepath.Join(t.TempDir(), "known_hosts")
	write(t, knownHosts, lines(server.knownAtAddress()), 0o600)
	for _, as := range logins {
		t.Run(string(as), func(t *testing.T) {
			done := runProgram(t, "ssh", "-F", "/dev/null", "-i", k.path, "-p", fmt.Sprint(server.port),
				"-o", "UserKnownHostsFile="+knownHosts, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
				string(as)+"@127.0.0.1", "id -un; echo to stderr >&2; exit 7")
			want := finished{code: 7, stdout: string(as) + "\n", stderr: "to stderr\n"}
			if done != want {
				t.Errorf("got %+v, want %+v", done, want)
			}
		})
	}
}
