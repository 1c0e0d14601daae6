package policy

import "regexp"

// readOnlyTable is the programs that change nothing on the device, and the
// options that keep them so, for GNU, procps, util-linux, iproute2, systemd and
// busybox. A cache that a program refreshes for itself counts as a change
// (git status, apt-cache, blkid), terminal output and network requests do not.
var readOnlyTable = func() map[string]readOnlyRule {
	table := map[string]readOnlyRule{
		"awk": {check: checkAwk}, "gawk": {check: checkAwk}, "mawk": {check: checkAwk},
		"sed": {check: checkSed},
		"ip":  {check: checkIP},
		// The builtins' arguments are checked in builtin.go.
		"command": {check: checkCommand},
		"crontab": {check: checkCrontab},

		"find": {operands: -1, numbers: true, single: `-name -iname -path -ipath -wholename -iwholename -regex -iregex -regextype -type -xtype -size
			-mtime -mmin -atime -amin -ctime -cmin -newer -newermt -newerct -newerat -anewer -cnewer -perm -user -group -uid -gid -nouser -nogroup
			-links -inum -samefile -empty -readable -writable -executable -maxdepth -mindepth -depth -mount -xdev -follow -daystart -prune
			-quit -print -print0 -printf -ls -not -o -or -a -and -true -false -L -H -P -noleaf -lname -ilname -fstype -used`},
		"sort": {operands: -1, flags: "bdfgiMhnRrVcCmsuz", values: "ktS", long: `ignore-leading-blanks dictionary-order ignore-case
			general-numeric-sort human-numeric-sort numeric-sort month-sort random-sort reverse version-sort check merge stable unique
			zero-terminated key field-separator`},
		"uniq": {operands: 1, flags: "cdDiuz", values: "fsw", long: "count repeated ignore-case unique zero-terminated all-repeated group skip-fields skip-chars check-chars"},
		"diff": {operands: -1, flags: "abBcdEeinNpqrstTuwyZ", values: "CUWFIxX", long: `brief report-identical-files unified context side-by-side
			recursive text ignore-all-space ignore-space-change ignore-blank-lines ignore-case color width exclude new-file`},
		"date": {
			operands: -1, operand: regexp.MustCompile(`^\+`), flags: "uR", values: "I",
			long: "utc universal date reference iso-8601 rfc-3339 rfc-email",
		},
		"hostname": {flags: "fsiIdAay", long: "fqdn short ip-address all-ip-addresses domain long all-fqdns alias"},
		"mount":    {flags: "l"},
		"dmesg": {operands: -1, flags: "TkuxtrwWeLSdPJ", values: "lf", long: `ctime kernel userspace decode notime raw follow reltime level facility
			since until nopager color json time-format show-delta`},
		"journalctl": {operands: -1, flags: "abefklmnNqrxg", values: "upnoStUgbcDFp", numbers: true, long: `all boot catalog directory dmesg
			fields field output unit user-unit user system lines no-pager pager-end quiet reverse since until follow grep case-sensitive identifier
			priority list-boots disk-usage utc no-hostname no-full full cursor after-cursor show-cursor truncate-newline header
			output-fields no-tail merge facility version`},
		"systemctl": {
			operands: -1, before: "--no-pager --user --system --all -a --full -l -q --quiet --failed --plain --no-legend", flags: "alqr", values: "pPntso", numbers: true,
			first: `status show list-units list-unit-files list-timers list-sockets list-jobs list-dependencies list-machines
				is-active is-enabled is-failed is-system-running cat get-default show-environment`,
			long: `all full lines no-pager output property type state plain no-legend value quiet failed user system recursive reverse
				after before legend show-types timestamp with-dependencies no-ask-password`,
		},
		"loginctl":    {before: "--no-pager", operands: -1, first: "list-sessions list-users list-seats session-status user-status seat-status show-session show-user show-seat", flags: "al", values: "pn", long: "no-pager all full no-legend property value lines output"},
		"timedatectl": {before: "--no-pager", operands: 1, first: "status show timesync-status show-timesync list-timezones", flags: "a", values: "p", long: "no-pager all property value"},
		"hostnamectl": {operands: 1, first: "status", long: "no-pager json static transient pretty"},
		"networkctl":  {before: "--no-pager", operands: -1, first: "list status lldp", flags: "als", values: "n", long: "no-pager all full stats no-legend lines json"},
		"resolvectl":  {before: "--no-pager", operands: -1, first: "status query statistics dns domain show-cache", flags: "46", long: "no-pager legend json"},
		"ss": {operands: -1, flags: "tulpnaeoimsHrxw046OQBTZz", values: "fA", long: `tcp udp listening processes numeric all extended options info memory
			summary no-header resolve unix raw family ipv4 ipv6 oneline sctp`},
		"netstat":  {operands: -1, flags: "tulpnarieoscgWxw46vN", long: "tcp udp listening program numeric all route interfaces statistics wide unix raw"},
		"route":    {flags: "nevFC46"},
		"arp":      {operands: 1, flags: "anev", values: "i"},
		"ifconfig": {operands: 1, flags: "as", operand: regexp.MustCompile(`^[a-z][a-z0-9.@_-]*$`)},
		"ping":     {operands: -1, flags: "46nqDO", values: "cWwis"}, "ping6": {operands: -1, flags: "nqDO", values: "cWwis"},
		"lsof":   {operands: -1, flags: "nPtalUOw", values: "ipucdg"},
		"file":   {operands: -1, flags: "biLh0Nnkr", long: "brief mime mime-type mime-encoding dereference no-dereference"},
		"sysctl": {operands: -1, flags: "anNbeqAX", values: "r", long: "all names values ignore pattern", operand: regexp.MustCompile(`^[A-Za-z0-9_./*-]+$`)},
		"lspci":  {operands: -1, flags: "vnktDmbxP", values: "sd"},
		"lsusb":  {operands: -1, flags: "vt", values: "sd"},
		"docker": {
			operands: -1, needs: true, first: "ps images logs inspect version info top port", flags: "aqst", values: "fn",
			long: "all quiet no-trunc size format filter tail since until timestamps last latest type digests",
		},
		"podman": {
			operands: -1, needs: true, first: "ps images logs inspect version info top port", flags: "aqst", values: "fn",
			long: "all quiet no-trunc size format filter tail since until timestamps last latest type digests",
		},
		"dpkg":       {operands: -1, flags: "lLsS", long: "list listfiles status search print-architecture get-selections version"},
		"dpkg-query": {operands: -1, flags: "lLsSW", values: "f", long: "list listfiles status search show showformat"},
		"xxd":        {operands: 1, flags: "bipuEe", values: "clgs"},
		"vmstat":     {operands: -1, flags: "afmsdDwtn", values: "Sp"},
		"column":     {operands: -1, flags: "tnxeJ", values: "sNocR", long: "table separator output-separator json"},
	}
	for _, name := range unconditional {
		table[name] = readOnlyRule{anything: true}
	}
	return table
}()

// unconditional is the programs that have no option and no operand that
// changes anything. The builtins among them keep their own rules.
var unconditional = []string{
	"cat", "head", "tail", "wc", "cut", "tr", "nl", "tac", "rev", "fold", "expand", "unexpand", "paste", "comm", "join", "od", "hexdump", "hd",
	"grep", "egrep", "fgrep", "strings", "cmp", "md5sum", "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum", "b2sum", "cksum", "sum",
	"base64", "base32", "ls", "dir", "vdir", "stat", "du", "df", "readlink", "realpath", "basename", "dirname", "namei",
	"ps", "pgrep", "pidof", "pstree", "free", "uptime", "uname", "arch", "nproc", "whoami", "id", "groups", "users", "who", "w", "last", "logname",
	"tty", "printenv", "locale", "getconf", "lscpu", "lsmod", "lsblk", "lsns", "lsmem", "lslocks", "lsipc", "findmnt", "modinfo", "getent", "getfacl", "getcap", "lsattr",
	"numfmt", "seq", "sleep", "factor", "expr", "true", "false", "echo", "printf", "test", "[", "pwd", "cd", "exit", "type", "which", "whereis", "iostat", "mpstat",
	"env", ":",
}
