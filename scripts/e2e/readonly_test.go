package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// ssh_run_readonly runs what is proved to change nothing, and nothing else.
func TestRunReadonly(t *testing.T) {
	t.Parallel()
	userKey := newKey(t)
	f := newFrontend(t, "")
	f.addDirect(t, directDevice, startSSHD(t, userKey), logins[0], userKey)
	c := f.stdio(t)
	file := filepath.Join(shortDir(t), "file")
	write(t, file, "content\n", 0o666)

	readonly := func(command string) runResult {
		t.Helper()
		result := c.callTool(t, "ssh_run_readonly", args{"device": directDevice, "command": command})
		run := decode[runResult](t, result)
		run.isError = result.IsError
		return run
	}
	for command, want := range map[string]string{
		"cat " + file:                    "content\n",
		"cat " + file + " | wc -c":       "8\n",
		"head -c 3 < /dev/null; id -u 0": "0\n",
	} {
		if run := readonly(command); run.isError || run.Stdout != want {
			t.Errorf("%s: got %q, error %+v, want %q", command, run.Stdout, run.Error, want)
		}
	}
	for _, command := range []string{
		"rm " + file, "find " + file + " -delete", "sort -o " + file + " /dev/null", "tee " + file,
		"systemctl restart ssh", "cat " + file + " > " + file, "env rm " + file, "dd of=" + file,
	} {
		run := readonly(command)
		if !run.isError || run.Error == nil || run.Error.Code != "POLICY_DENIED" || run.Executed != "no" {
			t.Errorf("%s: got outcome %q, error %+v, want POLICY_DENIED", command, run.Outcome, run.Error)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "content\n" {
		t.Errorf("the file afterwards: %q, %v", data, err)
	}
}
