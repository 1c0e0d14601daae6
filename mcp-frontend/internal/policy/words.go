package policy

import (
	"fmt"
	"strings"
)

// Words says in plain words what the policy does, one sentence each.
func (p *Policy) Words() []string {
	p = p.orNone()
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }

	switch {
	case p.shell && p.restricted():
		say("Commands: static ones only, since the patterns below can judge no others; shells and interpreters may take code from an argument (\"shell\": true).")
	case p.shell:
		say("Commands: any shell text, sent as given and unchecked (\"shell\": true). Nothing is a boundary here but the device's own permissions.")
	default:
		say("Commands: static ones only. Words, quotes, globs and ~ in arguments, | && || ; and redirections to /dev/null and between stdout and stderr; " +
			"no variables, substitutions, assignments, other redirections, background, loops, functions, comments or second lines, " +
			"and no shell or interpreter that takes its code from an argument or from stdin.")
	}
	if p.sudo {
		say("sudo: allowed as sudo -n.")
	} else if !p.shell {
		say("sudo: refused.")
	}
	if p.allow.present {
		say("Allowed (every program must match one): %s.", p.allow)
	}
	if p.approve.present {
		say("Allowed once a human says yes: %s. %s", p.approve, map[string]string{
			AnyHuman: "Asked is the MCP client's user, if the client can ask; else an operator (mcp-frontend approvals).",
			Operator: "Asked is an operator (mcp-frontend approvals), never the MCP client's user.",
			Client:   "Asked is the MCP client's user; a client that cannot ask is refused.",
		}[p.approveBy])
	}
	if !p.allow.present && !p.approve.present {
		say("Allowed programs: any.")
	}
	if p.deny.present {
		say("Denied, whatever else matches: %s.", p.deny)
	}
	if p.readOnly.present {
		say("Read-only beside the built-in list: %s.", p.readOnly)
	}
	if p.restricted() || p.readOnly.present {
		say("In patterns * is one word that does not start with -, or a part of a word without /; ** is any number of words. " +
			"A glob may expand to several words, each of which then matches. " +
			"What a wrapper (sudo -n, env, timeout, xargs, find -exec …) starts must be spelt out by the pattern, or be allowed by itself.")
	}
	say("SFTP reads: %s.", p.roots(p.readPaths))
	say("SFTP writes: %s; never ~/.ssh and shell start-up files.", p.roots(p.writePaths))
	say("Only allow, approve and read_only are boundaries, and read_paths and write_paths for SFTP. " +
		"deny and the list of interpreters are guard rails: a program that may run can do whatever its user may do, also start others.")
	return words
}

// String lists the patterns, quoted.
func (l patterns) String() string {
	if len(l.list) == 0 {
		return "nothing"
	}
	quoted := make([]string, len(l.list))
	for i, one := range l.list {
		quoted[i] = fmt.Sprintf("%q", one.text)
	}
	return strings.Join(quoted, ", ")
}

func (p *Policy) roots(roots List) string {
	switch {
	case roots.Present && len(roots.Items) == 0, !roots.Present && p.restricted():
		return "nothing"
	case roots.Present:
		return "below " + strings.Join(roots.Items, ", ")
	}
	return "any file that the device's user may use"
}
