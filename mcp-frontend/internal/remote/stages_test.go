package remote

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mcp-ssh-gateway/mcp-ssh-gateway/mcp-frontend/internal/sshdtest"
)

// A device that takes a command or the SFTP subsystem and does nothing with it
// holds nobody up; one that does something else is seen through.
func TestTryStages(t *testing.T) {
	t.Parallel()
	const sftp = "Subsystem sftp internal-sftp"
	for _, c := range []struct {
		name       string
		lines      []string
		exec, sftp error
	}{
		{"all", []string{sftp}, nil, nil},
		{"no SFTP", nil, nil, ErrNoSFTP},
		{"nothing happens", []string{sftp, "ForceCommand sleep 5"}, context.DeadlineExceeded, context.DeadlineExceeded},
		{"something else", []string{sftp, "ForceCommand echo not available; exit 1"}, ErrAnswer, ErrNoSFTP},
		{"SFTP only", []string{sftp, "ForceCommand internal-sftp"}, ErrAnswer, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := sshdtest.Start(t, sshdtest.Config{Lines: c.lines})
			for _, login := range sshdtest.Logins(t) {
				client := s.Client(t, login)
				for stage, want := range map[string]error{"exec": c.exec, "sftp": c.sftp} {
					try := map[string]func(context.Context, *ssh.Client) error{"exec": TryExec, "sftp": TrySFTP}[stage]
					patience := 20 * time.Second
					if errors.Is(want, context.DeadlineExceeded) {
						patience = 200 * time.Millisecond
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					began := time.Now()
					err := try(ctx, client)
					cancel()
					if !errors.Is(err, want) || (err == nil) != (want == nil) || patience < time.Second && time.Since(began) > 4*time.Second {
						t.Errorf("%s as %s: got %v after %v, want %v", stage, login, err, time.Since(began), want)
					}
				}
			}
		})
	}
	client := sshdtest.Start(t, sshdtest.Config{}).Client(t, sshdtest.Plain(t))
	_ = client.Close()
	if TryExec(bounded(t), client) == nil || TrySFTP(bounded(t), client) == nil {
		t.Error("a connection that is gone works")
	}
}
