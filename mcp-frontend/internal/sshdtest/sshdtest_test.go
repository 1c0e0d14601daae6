package sshdtest_test

import (
	"testing"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// When this fails, the machine is at fault and not what is tested with it.
func TestServer(t *testing.T) {
	t.Parallel()
	s := sshdtest.Start(t, sshdtest.Config{})
	for _, login := range sshdtest.Logins(t) {
		client := s.Client(t, login)
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := session.Output("id -un")
		if err != nil || string(out) != login+"\n" {
			t.Errorf("as %s: got %q, %v", login, out, err)
		}
	}
	s.Cut()
	if got := s.Accepted(); got != len(sshdtest.Logins(t)) {
		t.Errorf("got %d connections", got)
	}
}
