package connections

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Problem is one mistake in a file. Line and Column count from 1; a column is
// a character (not a byte), which is what editors count. A tab counts as one.
type Problem struct {
	Path    string
	Line    int
	Column  int
	Message string
}

// Error returns the problem as path:line:column: message.
func (p Problem) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.Path, p.Line, p.Column, p.Message)
}

// Problems is every mistake in a file, in the file's order.
type Problems []Problem

// Error returns one line per problem.
func (p Problems) Error() string {
	lines := make([]string, 0, len(p))
	for _, problem := range p {
		lines = append(lines, problem.Error())
	}
	return strings.Join(lines, "\n")
}

// finding is a problem before its line is known: an offset into the text.
type finding struct {
	offset  int
	message string
}

func (d *document) report(offset int, format string, args ...any) {
	d.findings = append(d.findings, finding{offset, fmt.Sprintf(format, args...)})
}

// problems turns the findings into problems. It goes through the text once,
// whatever the number of findings.
func (d *document) problems() Problems {
	slices.SortStableFunc(d.findings, func(a, b finding) int { return a.offset - b.offset })
	problems := make(Problems, 0, len(d.findings))
	line, column, done := 1, 1, 0
	for _, found := range d.findings {
		passed := d.text[done:found.offset]
		if last := bytes.LastIndexByte(passed, '\n'); last >= 0 {
			line += bytes.Count(passed, []byte("\n"))
			passed = passed[last+1:]
			column = 1
		}
		column += utf8.RuneCount(passed)
		done = found.offset
		problems = append(problems, Problem{Path: d.path, Line: line, Column: column, Message: found.message})
	}
	return problems
}
