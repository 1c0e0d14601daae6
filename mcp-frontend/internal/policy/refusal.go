package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// The rules that are not patterns, as Verdict.Rule names them.
const (
	ruleNoPolicy    = "no policy"
	ruleNotDenied   = "not denied"
	ruleShell       = "shell: true"
	ruleAllow       = "allow"
	ruleReadOnly    = "read_only"
	ruleCwd         = "cwd"
	ruleSize        = "static: size"
	ruleCharacters  = "static: characters"
	ruleUnreadable  = "static: unreadable"
	ruleExpansion   = "static: expansion"
	ruleBrace       = "static: brace"
	ruleGlob        = "static: glob"
	ruleTilde       = "static: tilde"
	ruleRedirection = "static: redirection"
	ruleBackground  = "static: background"
	ruleCompound    = "static: compound"
	ruleNewline     = "static: newline"
	ruleComment     = "static: comment"
	ruleAssignment  = "static: assignment"
	ruleProgram     = "static: program"
	ruleBuiltin     = "static: builtin"
	ruleInterpreter = "static: interpreter"
	ruleWrapper     = "static: wrapper"
	ruleSudo        = "static: sudo"
)

// refusal is why a command is not run.
type refusal struct {
	rule   string
	reason string
	column int
}

func refuse(rule string, column int, format string, args ...any) *refusal {
	return &refusal{rule, fmt.Sprintf(format, args...), column}
}

func (r *refusal) verdict() Verdict {
	reason := r.reason
	if r.column > 0 {
		reason = fmt.Sprintf("column %d: %s", r.column, reason)
	}
	return Verdict{Decision: Deny, Rule: r.rule, Reason: clip(printable(reason)), Column: r.column}
}

// show quotes a piece of the command for a message.
func show(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// clip bounds a reason, whatever was put into it.
func clip(s string) string {
	const most = 600
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return s
}

// printable replaces what could act on a terminal or in a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '?'
		}
		return r
	}, s)
}
