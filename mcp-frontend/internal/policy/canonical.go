package policy

import (
	"fmt"
	"strings"
)

// canonical prints what was read, for a POSIX shell: every literal piece in
// single quotes, the programs' names too.
func (s *script) canonical() string {
	var out strings.Builder
	for _, p := range s.programs {
		switch p.operator {
		case "":
		case ";":
			out.WriteString("; ")
		default:
			out.WriteString(" " + p.operator + " ")
		}
		for i, w := range p.words {
			if i > 0 {
				out.WriteByte(' ')
			}
			w.print(&out)
		}
		for _, redirect := range p.redirects {
			out.WriteString(" " + redirect)
		}
	}
	return out.String()
}

func (w word) print(out *strings.Builder) {
	if len(w.pieces) == 0 {
		out.WriteString("''")
	}
	for i, p := range w.pieces {
		switch {
		case p.kind != literal:
			out.WriteString(p.text)
		case i > 0 && w.pieces[i-1].kind == tilde:
			// The slash that ends a tilde prefix must be bare too.
			out.WriteByte('/')
			if rest := p.text[1:]; rest != "" {
				out.WriteString(quote(rest))
			}
		default:
			out.WriteString(quote(p.text))
		}
	}
}

// quote is POSIX quoting that holds whatever the text is (but for NUL, which
// is refused before).
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// WithCwd returns the text that runs text, which is a Verdict's Canonical, in
// dir. If the directory cannot be entered nothing runs and the exit code is
// that of cd: not 'cd && text', where only the first program would be skipped.
func (p *Policy) WithCwd(text, dir string) string {
	return "'cd' -- " + quote(dir) + " || 'exit'; " + text
}

// QuoteFor returns the text that makes a login shell run posix as POSIX shell.
// The shell is one of login_shell's values in connections.json.
func QuoteFor(shell, posix string) (string, error) {
	switch shell {
	case "posix":
		return posix, nil
	case "fish":
		// In fish's single quotes a backslash escapes itself and the quote.
		return "exec /bin/sh -c '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(posix) + "'", nil
	case "csh":
		// csh replaces ! even inside single quotes, and ends them at a newline.
		return "exec /bin/sh -c '" + strings.NewReplacer(`'`, `'\''`, `!`, `\!`, "\n", "\\\n").Replace(posix) + "'", nil
	}
	return "", fmt.Errorf("the login shell %s reads no POSIX commands: only a device with \"shell\": true runs commands, in that shell's own language", show(shell))
}
