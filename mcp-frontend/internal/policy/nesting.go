package policy

import (
	"regexp"
	"strings"
)

// maxNested is the size from which a text is looked over before it is parsed:
// the parser's stack grows with every bracket, to hundreds of MiB for 64 KiB
// of them. Shorter texts get its better messages.
const maxNested = 4 << 10

// checkNesting refuses in a long text what opens something nested. All of it is
// refused by the parser's result anyway; quotes are as simple as this as long
// as nothing of it was met.
func checkNesting(text string) *refusal {
	if len(text) <= maxNested {
		return nil
	}
	single, double := false, false
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		opens := false
		switch {
		case single:
			single = rest[0] != '\''
		case rest[0] == '\\':
			i++
		case rest[0] == '"':
			double = !double
		case rest[0] == '`', strings.HasPrefix(rest, "$(") || strings.HasPrefix(rest, "${"):
			opens = true
		case double:
		case rest[0] == '\'':
			single = true
		case strings.HasPrefix(rest, "{}"):
			i++
		default:
			opens = strings.ContainsRune("({", rune(rest[0])) || strings.HasPrefix(rest, "<<") ||
				rest[0] == '#' && (i == 0 || strings.ContainsRune(" \t\n;&|", rune(text[i-1])))
		}
		if opens {
			return refuse(ruleCompound, 0, "%s opens something that cannot be known before it runs: send short commands, or put it in single quotes", show(rest[:min(20, len(rest))]))
		}
	}
	if len(opening.FindAllStringIndex(text, maxNested/4)) == maxNested/4 {
		return refuse(ruleCompound, 0, "too many words such as if and while: put the data into stdin")
	}
	return nil
}

var opening = regexp.MustCompile(`\b(if|elif|while|until|for|case)\b`)
