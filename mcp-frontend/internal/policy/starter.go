package policy

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// checkProgram refuses a program that would run code which stands in an
// argument or comes from stdin, and builtins that change what runs. But for
// the tables this is the whole of the guard rail: see the package comment.
func checkProgram(words []word, p *Policy) *refusal {
	name, at := programName(words[0]), words[0].column
	if bad := checkBuiltin(words); bad != nil {
		return bad
	}
	if name == "sudo" && !p.sudo {
		return refuse(ruleSudo, at, "sudo is not allowed on this device: the policy would have to say \"sudo\": true")
	}
	if why, found := never[name]; found {
		return refuse(ruleInterpreter, at, "%s %s", show(words[0].value), why)
	}
	if info, found := interpreters[name]; found {
		return checkInterpreter(words, info)
	}
	args := words[1:]
	for i, w := range args {
		if slices.Contains(scriptOption, name) && (w.value == "-f-" || i > 0 && args[i-1].value == "-f" && stdinFile.MatchString(path.Clean(w.value))) {
			return refuse(ruleInterpreter, w.column, "%s would read its code from stdin: name the script's file", name)
		}
		if w.opens() == literal && slices.ContainsFunc(codeOptions[name], func(o string) bool { return isOption(w.value, o) }) {
			return refuse(ruleInterpreter, w.column, "%s makes %s run a command that stands in an argument: run that command by itself", show(w.value), name)
		}
		if text := codeText[name]; text != nil && text.MatchString(w.value) {
			return refuse(ruleInterpreter, w.column, "%s would make %s start a command: run that command by itself, joined by |", show(w.value), name)
		}
	}
	if name == "sed" && slices.ContainsFunc(args, func(w word) bool { return sedRuns(w.value) }) {
		return refuse(ruleInterpreter, at, "sed's e runs a command: run that command by itself")
	}
	if name == "git" {
		return checkGit(args)
	}
	return nil
}

// checkInterpreter allows a script in a file, and questions about the version.
func checkInterpreter(words []word, info interpreter) *refusal {
	at := words[0].column
	name := show(words[0].value)
	if len(words) == 1 {
		return refuse(ruleInterpreter, at, "%s without a script reads code from stdin: name the script's file, or send the commands themselves", name)
	}
	first := words[1]
	if len(words) == 2 && slices.Contains(info.asks, first.value) {
		return nil
	}
	if info.modules && first.value == "-m" && len(words) > 2 && words[2].plain() && !slices.Contains(codeModules, words[2].value) {
		return nil
	}
	opens := first.opens()
	switch {
	case first.opaque(), first.globs(), first.value == "", opens == literal && strings.ContainsAny(first.value[:1], "-+"):
		return refuse(ruleInterpreter, first.column,
			"%s may take its code from an argument: run the programs themselves, or put the script into a file and run that without options", name)
	case stdinFile.MatchString(path.Clean(first.value)):
		return refuse(ruleInterpreter, first.column, "%s would read its code from stdin: name the script's file", name)
	}
	return nil
}

var stdinFile = regexp.MustCompile(`^(-|/dev/stdin|/dev/fd/.*|/proc/[^/]+/fd/.*|/dev/tcp/.*)$`)

type interpreter struct {
	asks    []string // harmless when alone
	modules bool     // python's -m
}

var (
	shell       = interpreter{asks: []string{"--version", "--help"}}
	interpreted = interpreter{asks: []string{"--version", "--help", "-v", "-V"}}
	python      = interpreter{asks: []string{"--version", "--help", "-V", "-VV", "-h"}, modules: true}
)

// codeModules is python's modules that run code from their arguments.
var codeModules = []string{"code", "timeit", "pdb", "trace", "profile", "cProfile", "runpy", "idlelib", "asyncio"}

var interpreters = map[string]interpreter{
	"sh": shell, "bash": shell, "rbash": shell, "dash": shell, "ash": shell, "hush": shell, "zsh": shell, "ksh": shell, "lksh": shell,
	"mksh": shell, "pdksh": shell, "oksh": shell, "yash": shell, "posh": shell, "csh": shell, "tcsh": shell, "fish": shell, "nu": shell,
	"elvish": shell, "xonsh": shell, "pwsh": shell, "powershell": shell, "osh": shell, "oil": shell, "es": shell, "rc": shell,

	"python": python, "pypy": python, "micropython": python, "ipython": python,
	"perl": interpreted, "ruby": interpreted, "irb": interpreted, "node": interpreted, "nodejs": interpreted, "deno": interpreted,
	"bun": interpreted, "php": interpreted, "lua": interpreted, "luajit": interpreted, "tclsh": interpreted, "wish": interpreted,
	"expect": interpreted, "rscript": interpreted, "r": interpreted, "osascript": interpreted, "guile": interpreted, "gst": interpreted,
	"julia": interpreted, "ghci": interpreted, "erl": interpreted, "elixir": interpreted, "iex": interpreted, "groovy": interpreted,
	"scala": interpreted, "jshell": interpreted, "octave": interpreted, "gnuplot": interpreted, "gjs": interpreted, "qjs": interpreted,
	"jjs": interpreted, "racket": interpreted, "clisp": interpreted, "sbcl": interpreted,
}

// never is the programs that are no use without a terminal or without code in
// an argument. The text follows the program's name.
var never = func() map[string]string {
	why := map[string]string{}
	for reason, names := range map[string]string{
		"runs its arguments through a shell: run them by themselves":                                                       "watch parallel rush entr script scriptreplay",
		"is an editor, which can run commands, and there is no terminal: use cat to read and tee FILE with stdin to write": "vi vim vimdiff nvim view rvim rview gvim ex ed red emacs emacsclient nano pico joe jed mcedit mg hx kak",
		"opens a shell elsewhere: every machine that may be used is a device of its own":                                   "ssh slogin dbclient mosh rsh rlogin rexec autossh sshpass",
		"starts a shell as another user: use sudo -n if the policy allows it":                                              "su doas pkexec runuser run0 sg newgrp login sudoedit visudo",
		"takes commands to run later from stdin: run the command itself":                                                   "at batch",
		"runs a shell in a terminal, and there is none: run the command itself":                                            "screen tmux byobu abduco dtach zellij",
		"is a debugger, which runs code from its arguments":                                                                "gdb lldb",
	} {
		for name := range strings.FieldsSeq(names) {
			why[name] = reason
		}
	}
	return why
}()

// codeOptions is the options whose value is a command. A long one counts in
// any abbreviation.
var codeOptions = map[string][]string{
	"tar":   {"--to-command", "--checkpoint-action", "--use-compress-program", "--rsh-command", "--rmt-command", "--info-script", "--new-volume-script", "-I", "-F"},
	"gtar":  {"--to-command", "--checkpoint-action", "--use-compress-program", "--rsh-command", "--rmt-command", "--info-script", "--new-volume-script", "-I", "-F"},
	"cpio":  {"--rsh-command"},
	"rsync": {"--rsh", "--rsync-path", "-e"},
	"scp":   {"-S", "-o"}, "sftp": {"-S", "-o"},
	"zip": {"-TT", "--unzip-command"}, "split": {"--filter"}, "sort": {"--compress-program"},
	"man": {"-P", "-H", "--pager", "--html"}, "less": {"+"}, "more": {"+"}, "most": {"+"},
	"tcpdump": {"-z"}, "nc": {"-e", "-c", "--exec", "--sh-exec"}, "ncat": {"-e", "-c", "--exec", "--sh-exec", "--lua-exec"}, "netcat": {"-e", "-c"},
	"make": {"--eval", "-E"}, "gmake": {"--eval", "-E"}, "rpm": {"--eval", "-E", "--define", "-D"},
	"dpkg": {"--pre-invoke", "--post-invoke"}, "nmap": {"--script"}, "flock": {"-c", "--command"},
	"systemd-run": {"-S", "--shell"}, "start-stop-daemon": {"-a", "--startas"},
	"gcc": {"-wrapper"}, "busctl": {}, "env": {"-S", "-vS", "--split-string"}, "crontab": {},
}

// codeText is what an argument holds that makes a program start a command.
var codeText = func() map[string]*regexp.Regexp {
	awk := regexp.MustCompile(`\bsystem\s*\(|\|&?\s*getline\b|\|&?\s*"|"\s*\|[^|]|@(load|include)\b|\bprintf?\b[^;}]*[^|]\|\s*[A-Za-z_]`)
	sql := regexp.MustCompile(`(^|\s)\.(shell|system|load)\b|\\!|\bCOPY\b.*\bPROGRAM\b`)
	apt := regexp.MustCompile(`(?i)(invoke|pre-install-pkgs|hooks?::|dir::bin)`)
	return map[string]*regexp.Regexp{
		"awk": awk, "gawk": awk, "mawk": awk, "nawk": awk, "original-awk": awk, "bwk": awk,
		"sqlite3": sql, "psql": sql, "mysql": sql, "mariadb": sql,
		"apt": apt, "apt-get": apt, "aptitude": apt, "apt-cache": apt,
		"socat": regexp.MustCompile(`(?i)(^|,|!!)(exec|system|shell):`), "dc": regexp.MustCompile(`!`),
		"crontab": regexp.MustCompile(`^-$|^/dev/(stdin|fd/.*)$`), "m4": regexp.MustCompile(`syscmd`),
	}
}()

// scriptOption is the programs whose -f names the file with their code.
var scriptOption = strings.Fields("awk gawk mawk nawk sed make gmake psql sqlite3 bpftrace nft")

func isOption(text, option string) bool {
	if !strings.HasPrefix(option, "--") {
		return strings.HasPrefix(text, option)
	}
	name, _, _ := strings.Cut(text, "=")
	return len(name) > 4 && strings.HasPrefix(option, name)
}

// sedRuns finds GNU sed's command e and the flag e of its command s.
func sedRuns(script string) bool {
	if sedExec.MatchString(script) {
		return true
	}
	for _, at := range sedSubstitute.FindAllStringIndex(script, -1) {
		rest := script[at[1]:]
		if rest == "" {
			continue
		}
		fields := strings.SplitN(rest[1:], rest[:1], 3)
		if len(fields) < 3 {
			continue
		}
		flags := strings.TrimLeft(fields[2], "gpiIMm0123456789")
		if strings.HasPrefix(flags, "e") {
			return true
		}
	}
	return false
}

const sedAddress = `(?:[0-9$~+,! ]|/(?:[^/\\]|\\.)*/I?)*`

var (
	sedExec       = regexp.MustCompile(`(?:^|[;{}\n])\s*` + sedAddress + `\s*e(?:\s|;|\}|$)`)
	sedSubstitute = regexp.MustCompile(`(?:^|[;{}\n])\s*` + sedAddress + `\s*s`)
)

// checkGit refuses the options and subcommands of git that run commands.
func checkGit(args []word) *refusal {
	code := []string{"--config-env", "--exec-path=", "--upload-pack", "--receive-pack", "--exec", "--extcmd", "--open-files-in-pager"}
	global := true
	for i, w := range args {
		switch {
		case global && strings.HasPrefix(w.value, "-c"),
			slices.ContainsFunc(code, func(o string) bool { return isOption(w.value, o) }),
			strings.HasPrefix(w.value, "ext::"),
			slices.Contains([]string{"foreach", "filter-branch"}, w.value),
			w.value == "run" && i > 0 && args[i-1].value == "bisect":
			return refuse(ruleInterpreter, w.column, "%s makes git run a command that stands in an argument: run that command by itself", show(w.value))
		case global && !w.option() && (i == 0 || args[i-1].value != "-C"):
			global = false
		}
	}
	return nil
}
