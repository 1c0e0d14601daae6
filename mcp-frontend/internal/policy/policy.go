// Package policy decides whether a command or a path may be used on a device.
//
// It promises that what was checked is what runs. A command text is read as a
// POSIX shell would read it; only what can be known before it runs is allowed
// (literal words, quotes, globs and ~ in arguments, pipelines, &&, ||, ;, a few
// harmless redirections), and Verdict.Canonical is printed from what was read,
// every literal piece in single quotes, so that no alias, keyword, brace or
// option of the device's shell gives it another meaning. Any POSIX shell that
// runs Canonical starts the argv lists of Verdict.Programs and nothing else.
//
// It refuses what it cannot read, and says at which column and what to write
// instead. Three kinds of rules are boundaries: allow, approve and read_only.
// The others (deny, and the list of programs that take code from an argument or
// from stdin) are guard rails: a program that may be started can do whatever it
// is able to do, also start others.
//
// It assumes that the caller sends Canonical, or Canonical as WithCwd and
// QuoteFor wrap it, and nothing else; that paths were made absolute and free of
// symlinks on the device before they are judged; and that the programs of the
// built-in read-only table are the ones that their names promise.
//
// A glob may expand to several words: under allow each of them must match, their
// number is not known. A pattern that names a wrapper (sudo -n, env, timeout,
// find -exec, xargs …) grants what the wrapper starts only if the pattern spells
// out that program's name, or if that program is allowed by itself too; deny
// and approve look at both the whole and what is started. Of wrappers with too
// many options to know (loose.go: docker exec, nsenter, strace …) a pattern with
// ** grants all.
//
// The package does no I/O and keeps no state: a Policy may be used from any
// number of goroutines.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// List is a list that may be absent: an absent one restricts nothing, an empty
// one grants nothing.
type List struct {
	Present bool
	Items   []string
}

// Config is a device's policy as it stands in connections.json. The zero value
// is "no policy".
type Config struct {
	Allow    List // patterns; if present, every program must match one (or one of Approve)
	Deny     List // patterns; what could match is refused
	Approve  List // patterns; what could match needs a human's yes
	ReadOnly List // patterns that count as read-only beside the built-in table

	ReadPaths, WritePaths List // absolute paths: roots for SFTP

	// Shell lifts the rule of static commands: any text is sent as given. With
	// Allow, Deny or Approve present only static texts can be judged, so that
	// it then lifts no more than the lists of builtins and interpreters.
	Shell bool
	Sudo  bool // sudo -n is allowed

	// ApproveBy is who may say yes to what Approve asks about: AnyHuman (also
	// if empty), Operator or Client.
	ApproveBy string
}

// Who may say yes to a command under approve.
const (
	AnyHuman = "any"      // the client's, if the client can ask one, else an operator
	Operator = "operator" // by the gateway's operator socket
	Client   = "client"   // whom the MCP client asks
)

// Decision is what a policy says about one command or path.
type Decision string

// The decisions.
const (
	Allow   Decision = "allow"
	Deny    Decision = "deny"
	Approve Decision = "approve" // allowed once a human said yes
)

// Verdict is a decision and its grounds.
type Verdict struct {
	Decision Decision
	// Rule is which rule decided: allow: "systemctl status *", static:
	// expansion, read_only: built-in find, no policy …
	Rule string
	// Reason says what was wrong, where, and the way out. It is empty for
	// Allow and holds no control characters.
	Reason string
	// Column is where in the text, counted in characters from 1; 0 if no
	// place is to blame.
	Column int
	// Canonical is what must be sent instead of the text. It is empty for Deny.
	Canonical string
	// Verbatim says that Canonical is the text as given (shell: true), which
	// is for the login shell whatever that is: QuoteFor does not apply.
	Verbatim bool
	// ReadOnly says that every program was proved to change nothing; it is
	// never set for text that is sent as given.
	ReadOnly bool
	// Programs is the argv lists that the shell will start, in order, globs
	// and ~ as written. Nil if the text could not be read; no promise for
	// text that is sent as given.
	Programs [][]string
}

// Policy is a compiled Config. The nil *Policy is "no policy".
type Policy struct {
	allow, deny, approve, readOnly patterns
	readPaths, writePaths          List
	shell, sudo                    bool
	approveBy                      string
}

// New compiles a policy. The error joins every bad pattern and path there is,
// each named.
func New(config Config) (*Policy, error) {
	p := &Policy{
		readPaths:  config.ReadPaths,
		writePaths: config.WritePaths,
		shell:      config.Shell,
		sudo:       config.Sudo,
		approveBy:  cmp.Or(config.ApproveBy, AnyHuman),
	}
	var problems []error
	if !slices.Contains([]string{AnyHuman, Operator, Client}, p.approveBy) {
		problems = append(problems, fmt.Errorf("approve_by: %q is none of %s, %s, %s", p.approveBy, AnyHuman, Operator, Client))
	}
	for _, list := range []struct {
		name   string
		from   List
		into   *patterns
		grants bool
	}{
		{"allow", config.Allow, &p.allow, true},
		{"deny", config.Deny, &p.deny, false},
		{"approve", config.Approve, &p.approve, false},
		{"read_only", config.ReadOnly, &p.readOnly, true},
	} {
		compiled, err := compile(list.name, list.from, list.grants)
		problems = append(problems, err)
		*list.into = compiled
	}
	problems = append(problems, checkRoots("read_paths", config.ReadPaths), checkRoots("write_paths", config.WritePaths))
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("reading the policy: %w", err)
	}
	return p, nil
}

var noPolicy = &Policy{approveBy: AnyHuman}

// ApproveBy returns who may say yes to what is under approve.
func (p *Policy) ApproveBy() string { return p.orNone().approveBy }

func (p *Policy) orNone() *Policy {
	if p == nil {
		return noPolicy
	}
	return p
}

// restricted says whether the policy limits commands: then paths that are not
// listed are not granted either.
func (p *Policy) restricted() bool {
	return p.allow.present || p.deny.present || p.approve.present
}

// Command judges a command for ssh_run and ssh_job_start.
func (p *Policy) Command(text string) Verdict {
	p = p.orNone()
	verbatim := p.shell && !p.restricted()
	if bad := checkText(text, verbatim); bad != nil {
		return bad.verdict()
	}
	read, bad := readScript(text)
	if bad == nil {
		bad = read.analyse(p)
	}
	switch {
	case verbatim:
		// The login shell may read the text in another way, so that nothing
		// is proved of it.
		verdict := Verdict{Decision: Allow, Rule: ruleShell, Canonical: text, Verbatim: true}
		if read != nil {
			verdict.Programs = read.argvs()
		}
		return verdict
	case bad == nil:
		return p.judge(read)
	case p.shell:
		bad.reason += "; \"shell\": true does not lift this where allow, deny or approve must judge the command"
	}
	return bad.verdict()
}

// ReadOnlyCommand judges a command for ssh_run_readonly: it must be allowed
// without a human's yes, and be proved to change nothing. The device's shell
// setting lifts nothing here, and Canonical is never the text as given.
func (p *Policy) ReadOnlyCommand(text string) Verdict {
	p = p.orNone()
	if bad := checkText(text, false); bad != nil {
		return bad.verdict()
	}
	read, bad := readScript(text)
	if bad == nil {
		// What takes its code from an argument is no more read-only on a
		// device that otherwise lifts the check.
		static := *p
		static.shell = false
		bad = read.analyse(&static)
	}
	if bad != nil {
		return bad.verdict()
	}
	rule, bad := read.proveReadOnly(p)
	if bad != nil {
		verdict := bad.verdict()
		verdict.Programs = read.argvs()
		return verdict
	}
	verdict := p.judge(read)
	switch verdict.Decision {
	case Deny:
	case Approve:
		verdict.Decision, verdict.Canonical = Deny, ""
		verdict.Reason += "; ssh_run_readonly cannot ask: use ssh_run"
	case Allow:
		verdict.Rule = rule
	}
	return verdict
}
