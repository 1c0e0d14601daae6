package policy

import (
	"slices"
	"strings"
)

// looseWrappers start a program that is somewhere among their words; their
// options are too many to know where. Of their words each is taken for a
// program: good enough for a guard rail, and enough for deny and approve.
var looseWrappers = strings.Fields(`
	nsenter unshare chroot setpriv capsh runcon firejail bwrap proot fakeroot fakechroot
	strace ltrace valgrind perf time unbuffer taskset chrt numactl prlimit cpulimit cgexec catchsegv
	systemd-run systemd-inhibit start-stop-daemon daemonize flock setarch linux i386 x86_64
	ssh-agent dbus-run-session dbus-launch xvfb-run torsocks proxychains faketime
	ip docker podman nerdctl kubectl oc crictl lxc lxc-attach lxc-execute incus machinectl runc`)

// shellByDefault start a shell, which reads stdin, if no program is named.
var shellByDefault = []string{"nsenter", "unshare", "chroot", "setpriv", "fakeroot", "proot", "ssh-agent"}

func looseWrapper(name string, words []word) bool {
	switch name {
	case "ip", "docker", "podman", "nerdctl", "kubectl", "oc", "crictl", "lxc", "incus", "machinectl", "runc":
		return slices.ContainsFunc(words[1:], func(w word) bool {
			return slices.Contains([]string{"exec", "run", "create", "debug", "shell"}, w.value)
		})
	}
	return slices.Contains(looseWrappers, name) || strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl") || name == "ld.so"
}

func checkLoose(words []word, p *Policy, depth int) *refusal {
	operands := 0
	for i, w := range words[1:] {
		if w.opaque() {
			return refuse(ruleWrapper, w.column, "it is not known which program %s starts", show(words[0].value))
		}
		if w.option() || w.value == "" || strings.Trim(w.value, "0123456789") == "" {
			continue
		}
		operands++
		name := programName(w)
		_, code := interpreters[name]
		_, no := never[name]
		if code || no || name == "sudo" || wrappers[name] != nil {
			if _, bad := startedBy(words[i+1:], p, depth+1, true); bad != nil {
				return bad
			}
		}
	}
	name := programName(words[0])
	if need := map[bool]int{true: 2, false: 1}[name == "chroot"]; slices.Contains(shellByDefault, name) && operands < need {
		return refuse(ruleInterpreter, words[0].column, "%s without a program starts a shell that reads its code from stdin", name)
	}
	return nil
}
