package policy

import (
	"regexp"
	"slices"
	"strings"
)

// checkName refuses words in program position that are no program's name.
func checkName(w word) *refusal {
	switch {
	case w.opaque():
		return refuse(ruleWrapper, w.column, "which program starts is known only when the command runs: name it")
	case w.opens() == tilde:
		return refuse(ruleTilde, w.column, "the program is known only when ~ is expanded: write its whole path")
	case !w.plain():
		return refuse(ruleGlob, w.column, "%s: a program's name must stand as it is", show(w.value))
	case w.value == "":
		return refuse(ruleProgram, w.column, "an empty program name")
	case strings.Contains(w.value, "="):
		return refuse(ruleAssignment, w.column, "%s reads as an assignment: write env NAME=value program", show(w.value))
	case slices.Contains(keywords, w.value):
		return refuse(ruleBuiltin, w.column, "%s is a keyword of shells: send the commands one by one, joined by ; && || or |", show(w.value))
	case !programText.MatchString(w.value):
		return refuse(ruleProgram, w.column, "%s is no program's name: those have ASCII letters, digits and _./:@,+%%- and start with one of the first four kinds", show(w.value))
	}
	return nil
}

// programText leaves out what some shell gives a meaning even in quotes: bash
// runs '%name' as fg.
var programText = regexp.MustCompile(`^([A-Za-z0-9_./][A-Za-z0-9_./:@,+%-]*|\[|:)$`)

// keywords and builtins that run or redefine code, or that evaluate their
// arguments, in any of the shells that read POSIX commands. bash, ksh and zsh
// find them also where a POSIX parse sees plain words.
var (
	keywords = strings.Fields(`if then else elif fi for while until do done case esac in select function coproc repeat foreach end
		time always nocorrect namespace [[ ]] { } ! (( )) ((`)
	builtins = strings.Fields(`. source eval exec trap alias unalias hash rehash unhash enable disable builtin noglob
		export readonly declare typeset local global integer float private nameref compound enum set unset setopt unsetopt shopt emulate
		let read mapfile readarray getopts complete compgen compopt bind bindkey zle fc r hist history print
		return break continue shift suspend logout caller autoload functions unfunction redirect
		jobs fg bg disown wait coproc pushd popd dirs sched zmodload zcompile zpty zsocket ztcp zselect zformat zparseopts zstyle
		zregexparse vared ttyctl getln pushln bye chdir stop compadd comparguments compcall compctl compdescribe compfiles compgroups
		compquote compset comptags comptry compvalues echotc echoti limit unlimit abbr begin and or not string command_not_found_handle`)
	// evaluating builtins read some argument as arithmetic in one shell or
	// another, where a[$(cmd)] runs cmd.
	evaluating = []string{"test", "[", "printf", "exit", "ulimit", "umask", "kill", "cd", "echo", "sleep", "times", "type", "whence"}
)

// checkBuiltin refuses what a shell does not look up as a program.
func checkBuiltin(words []word) *refusal {
	name, at := words[0].value, words[0].column
	switch {
	case slices.Contains(builtins, name):
		return refuse(ruleBuiltin, at, "%s is a builtin that runs code or changes what runs: run the program itself", show(name))
	case !slices.Contains(evaluating, name):
		return nil
	}
	for i, w := range words[1:] {
		before := words[i].value
		switch {
		case strings.Contains(w.value, "[") && strings.ContainsAny(w.value, "$`"):
			return refuse(ruleBuiltin, w.column, "some shells evaluate %s as an array index: leave out the [ or the $", show(w.value))
		case name == "exit" && !number.MatchString(w.value):
			return refuse(ruleBuiltin, w.column, "exit takes a number")
		case name == "printf" && strings.HasPrefix(w.value, "-") && i == 0 && w.value != "--":
			return refuse(ruleBuiltin, w.column, "printf's options set variables: write printf -- …")
		case (name == "test" || name == "[") && slices.Contains([]string{"-v", "-R"}, w.value):
			return refuse(ruleBuiltin, w.column, "%s evaluates its argument in some shells", w.value)
		case (name == "test" || name == "[") && (comparison.MatchString(before) && i > 0 || i+2 < len(words) && comparison.MatchString(words[i+2].value)) && !number.MatchString(w.value):
			return refuse(ruleBuiltin, w.column, "%s is compared as a number and is none: some shells would evaluate it", show(w.value))
		}
	}
	return nil
}

var (
	number     = regexp.MustCompile(`^[+-]?[0-9]{1,19}$`)
	comparison = regexp.MustCompile(`^-(eq|ne|lt|le|gt|ge)$`)
	variable   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	// codeVariables make the programs that see them run other code.
	codeVariables = regexp.MustCompile(`^(LD_.*|DYLD_.*|PATH|ENV|BASH_.*|SHELLOPTS|BASHOPTS|PS[0-9]|IFS|PROMPT_COMMAND|ZDOTDIR|FPATH|CDPATH|` +
		`PYTHON.*|PERL.*|RUBY.*|NODE_.*|LUA_.*|PHP.*|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|GIT_.*|SSH_.*|SUDO_.*|RSYNC_.*|CVS_RSH|` +
		`.*PAGER|.*EDITOR|VISUAL|LESS.*|MORE|BROWSER|SHELL|GCONV_PATH|LOCPATH|NLSPATH|HOSTALIASES|TERMINFO.*|TERMCAP|GLIBC_TUNABLES|MALLOC_.*|` +
		`TAR_OPTIONS|TAPE|RSH|MAKEFLAGS|MAKEFILES|GZIP|ZIPOPT|XZ_OPT|AWKPATH|AWKLIBPATH|POSIXLY_CORRECT|APT_CONFIG|DOCKER_HOST|KUBECONFIG|SYSTEMD_PAGER.*|SYSTEMD_EDITOR)=`)
)

// checkVariable judges a NAME=value of env.
func checkVariable(w word) *refusal {
	switch {
	case !w.plain() || !variable.MatchString(w.value):
		return refuse(ruleAssignment, w.column, "%s is no NAME=value", show(w.value))
	case codeVariables.MatchString(w.value):
		name, _, _ := strings.Cut(w.value, "=")
		return refuse(ruleAssignment, w.column, "%s changes which code programs run: leave it out", name)
	}
	return nil
}
