package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// The bounds of a command.
const (
	maxText     = 64 << 10
	maxPrograms = 64
	maxWords    = 2048
	maxSent     = 96 << 10 // quoted: Linux takes arguments of up to 128 KiB, and a login shell may need more quotes
	maxGlobWord = 1024     // in bytes: what a glob could be is compared character by character
)

// program is one simple command: what stands between two operators.
type program struct {
	operator  string // what stands before it: "" for the first, else | && || ;
	words     []word
	redirects []string // canonical
	run       run      // set by analyse
}

// script is a command text as read.
type script struct {
	programs []program
}

func (s *script) argvs() [][]string {
	list := make([][]string, len(s.programs))
	for i, p := range s.programs {
		list[i] = values(p.words)
	}
	return list
}

// analyse finds out what the programs start in turn, and refuses what takes
// code from an argument or from stdin.
func (s *script) analyse(p *Policy) *refusal {
	for i := range s.programs {
		started, bad := startedBy(s.programs[i].words, p, 0, false)
		if bad != nil {
			return bad
		}
		s.programs[i].run = started
	}
	if sent := s.canonical(); len(sent) > maxSent {
		return refuse(ruleSize, 0, "the command has %d bytes once it is quoted, at most %d can be sent: put the data into stdin", len(sent), maxSent)
	}
	return nil
}

// checkText refuses texts that need no parser to be refused. Text that goes
// to the shell as given may hold any character but NUL.
func checkText(text string, verbatim bool) *refusal {
	if len(text) > maxText {
		return refuse(ruleSize, 0, "the command has %d bytes, at most %d are read: put the data into stdin", len(text), maxText)
	}
	if strings.TrimSpace(text) == "" {
		return refuse(ruleUnreadable, 0, "the command is empty")
	}
	column := 0
	for i, r := range text {
		column++
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return refuse(ruleCharacters, column, "not UTF-8; only UTF-8 text can be sent")
			}
		}
		switch {
		case r == 0:
			return refuse(ruleCharacters, column, "a NUL character, which no argument can hold")
		case verbatim, r == '\n', r == '\t':
		case unprintable(r):
			return refuse(ruleCharacters, column, "the character %U is invisible or changes how the text is shown; remove it", r)
		}
	}
	return nil
}

// unprintable finds controls, and the format characters that reorder or hide
// text from the human who has to approve it.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co)
}

// reader turns the syntax tree into a script.
type reader struct {
	text   string
	script script
	words  int
	// The column found last: offsets mostly grow, so that counting on from it
	// goes over the text once.
	offset, characters int
}

// readScript reads text as POSIX shell, and refuses all that is not static.
func readScript(text string) (*script, *refusal) {
	if bad := checkNesting(text); bad != nil {
		return nil, bad
	}
	file, err := parse(text)
	r := &reader{text: text}
	if err != nil {
		return nil, r.parseRefusal(err)
	}
	for i, stmt := range file.Stmts {
		operator := ""
		if i > 0 {
			operator = ";"
			if !file.Stmts[i-1].Semicolon.IsValid() {
				return nil, refuse(ruleNewline, r.column(stmt.Pos()), "a command on a new line: write ; or && between commands")
			}
		}
		if bad := r.stmt(stmt, operator); bad != nil {
			return nil, bad
		}
	}
	if len(file.Last) > 0 {
		return nil, r.comment(file.Last[0])
	}
	if len(r.script.programs) == 0 {
		return nil, refuse(ruleUnreadable, 0, "the command is empty")
	}
	return &r.script, nil
}

// parse treats a parser that panics as one that cannot read the text.
func parse(text string) (file *syntax.File, err error) {
	defer func() {
		if caught := recover(); caught != nil {
			file, err = nil, fmt.Errorf("the parser gave up: %v", caught)
		}
	}()
	parser := syntax.NewParser(syntax.Variant(syntax.LangPOSIX), syntax.KeepComments(true))
	return parser.Parse(strings.NewReader(text), "")
}

func (r *reader) parseRefusal(err error) *refusal {
	if bad, ok := errors.AsType[syntax.ParseError](err); ok {
		return refuse(ruleUnreadable, r.column(bad.Pos), "cannot be read as POSIX shell: %s", bad.Text)
	}
	if bad, ok := errors.AsType[syntax.LangError](err); ok {
		return refuse(ruleUnreadable, r.column(bad.Pos), "cannot be read as POSIX shell: %s is not part of it", bad.Feature)
	}
	return refuse(ruleUnreadable, 0, "cannot be read as POSIX shell: %s", err)
}

func (r *reader) column(pos syntax.Pos) int {
	return r.columnAt(int(pos.Offset()))
}

func (r *reader) columnAt(offset int) int {
	offset = min(offset, len(r.text))
	if offset < r.offset {
		r.offset, r.characters = 0, 0
	}
	r.characters += utf8.RuneCountInString(r.text[r.offset:offset])
	r.offset = offset
	return r.characters + 1
}

func (r *reader) comment(c syntax.Comment) *refusal {
	return refuse(ruleComment, r.column(c.Hash), "a comment: leave it out, or quote the #")
}

func (r *reader) stmt(s *syntax.Stmt, operator string) *refusal {
	at := r.column(s.Pos())
	switch {
	case len(s.Comments) > 0:
		return r.comment(s.Comments[0])
	case s.Background, s.Coprocess, s.Disown:
		return refuse(ruleBackground, r.column(s.Semicolon), "& runs a command in the background, unseen: run it in the foreground, start it with ssh_job_start if it takes long, or quote the &")
	case s.Negated:
		return refuse(ruleCompound, at, "! is not static: read the exit code instead, or quote the !")
	}
	switch cmd := s.Cmd.(type) {
	case *syntax.CallExpr:
		return r.call(cmd, s.Redirs, operator)
	case *syntax.BinaryCmd:
		return r.binary(cmd, s.Redirs, operator)
	case nil:
		return refuse(ruleRedirection, at, "a redirection without a program")
	default:
		return refuse(ruleCompound, at, "%s cannot be known before it runs: send the commands one by one, joined by ; && || or |", construct(cmd))
	}
}

func construct(cmd syntax.Command) string {
	switch cmd.(type) {
	case *syntax.Subshell:
		return "a subshell (…)"
	case *syntax.Block:
		return "a block {…}"
	case *syntax.FuncDecl:
		return "a function"
	case *syntax.ForClause, *syntax.WhileClause:
		return "a loop"
	case *syntax.IfClause, *syntax.CaseClause:
		return "a condition"
	}
	return "a compound command"
}

// binary flattens a tree of operators: without brackets, their order in the
// text is all that there is.
func (r *reader) binary(cmd *syntax.BinaryCmd, redirects []*syntax.Redirect, operator string) *refusal {
	if len(redirects) > 0 {
		return refuse(ruleRedirection, r.column(redirects[0].Pos()), "a redirection of several programs: give it to each")
	}
	next := map[syntax.BinCmdOperator]string{syntax.AndStmt: "&&", syntax.OrStmt: "||", syntax.Pipe: "|"}[cmd.Op]
	if next == "" {
		return refuse(ruleCompound, r.column(cmd.OpPos), "only | && || and ; join commands")
	}
	if bad := r.stmt(cmd.X, operator); bad != nil {
		return bad
	}
	return r.stmt(cmd.Y, next)
}

func (r *reader) call(call *syntax.CallExpr, redirects []*syntax.Redirect, operator string) *refusal {
	if len(call.Assigns) > 0 {
		return refuse(ruleAssignment, r.column(call.Assigns[0].Pos()), "an assignment changes what programs do: write env NAME=value program")
	}
	p := program{operator: operator}
	for _, from := range call.Args {
		w, bad := r.word(from)
		if bad != nil {
			return bad
		}
		p.words = append(p.words, w)
	}
	if bad := checkName(p.words[0]); bad != nil {
		return bad
	}
	for _, from := range redirects {
		text, bad := r.redirect(from)
		if bad != nil {
			return bad
		}
		p.redirects = append(p.redirects, text)
	}
	r.script.programs = append(r.script.programs, p)
	r.words += len(p.words)
	if len(r.script.programs) > maxPrograms || r.words > maxWords {
		return refuse(ruleSize, r.column(call.Pos()), "more than %d programs or %d words: send several commands", maxPrograms, maxWords)
	}
	return nil
}

// redirect accepts the few that touch no file: 2>&1 and its mirror image
// 1>&2, and /dev/null. What it returns is canonical.
func (r *reader) redirect(from *syntax.Redirect) (string, *refusal) {
	at := r.column(from.Pos())
	bad := refuse(ruleRedirection, at,
		"only 2>&1, 1>&2, </dev/null, >/dev/null and 2>/dev/null are static: write a file with sftp_write, use stdin, pipe into tee FILE, or quote the %s", from.Op)
	if from.Word == nil || from.Hdoc != nil {
		return "", bad
	}
	target, notStatic := r.word(from.Word)
	if notStatic != nil {
		return "", notStatic
	}
	if !target.plain() {
		return "", bad
	}
	descriptor := ""
	if from.N != nil {
		descriptor = from.N.Value
	}
	switch from.Op {
	case syntax.RdrIn:
		if target.value == "/dev/null" && (descriptor == "" || descriptor == "0") {
			return "</dev/null", nil
		}
	case syntax.RdrOut:
		if target.value == "/dev/null" && (descriptor == "" || descriptor == "1" || descriptor == "2") {
			return strings.TrimPrefix(descriptor, "1") + ">/dev/null", nil
		}
	case syntax.DplOut:
		switch {
		case descriptor == "2" && target.value == "1":
			return "2>&1", nil
		case (descriptor == "" || descriptor == "1") && target.value == "2":
			return ">&2", nil
		}
	default:
	}
	return "", bad
}
