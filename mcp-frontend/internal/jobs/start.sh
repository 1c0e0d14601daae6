# Starts a job and lets go of it. It is given, on stdin, a line
#   NONCE PLACE OUTPUT_KIB MAX_RUNTIME_S SHELL
# and the command's text, which must end with NONCE: a text that was cut off
# by a lost connection is not run. SHELL is login, foreign (a login shell that
# is not POSIX) or sh. All names begin with gw_, so that no exported variable
# of the login changes.
gw_umask=$(umask)
umask 077
read -r gw_nonce gw_place gw_kib gw_max gw_shell || exit 0
echo "$gw_nonce begin"
gw_no() {
	echo "$gw_nonce no $*"
	exit 0
}
gw_text=$(cat)
case $gw_text in
*"$gw_nonce") gw_text=${gw_text%"$gw_nonce"} ;;
*) gw_no "cut: the command did not come whole" ;;
esac

# What this needs: else the job is better held by the gateway.
for gw_tool in cat dd df head mkdir mkfifo mv rm sleep tail wc; do
	command -v "$gw_tool" >/dev/null 2>&1 || gw_no "tools: there is no $gw_tool"
done
[ "$(echo abc | head -c 2)$(echo abc | tail -c +3)" = abc ] || gw_no "tools: head and tail do not count bytes"
# The command needs a process group that nothing else is in. sshd makes one;
# other servers do not.
if command -v setsid >/dev/null 2>&1; then
	gw_own=setsid
elif kill -0 -$$ 2>/dev/null; then
	gw_own=
else
	gw_no "group: there is no setsid, and the SSH server gives commands no process group of their own"
fi

# The place. mkdir fails on what is there already, a link included; a place
# that was given up (see look.sh) is there.
gw_home=${HOME:-/nonexistent}/.cache/mcp-ssh-gateway
mkdir -p "$gw_home" 2>/dev/null && find "$gw_home" -mindepth 1 -maxdepth 1 -mtime +3 -exec rm -rf {} \; 2>/dev/null
gw_dir=
for gw_try in "$gw_home/" /var/tmp/mcp-ssh-gateway- /tmp/mcp-ssh-gateway-; do
	if mkdir "$gw_try$gw_place" 2>/dev/null; then
		gw_dir=$gw_try$gw_place
		break
	fi
	[ ! -e "$gw_try$gw_place" ] || gw_no "taken: the place is taken"
done
[ -n "$gw_dir" ] || gw_no "place: no directory is writable in the home directory, /var/tmp or /tmp"

# Output may take an eighth of what is free there.
gw_free=$(df -Pk "$gw_dir" 2>/dev/null | tail -n 1)
# shellcheck disable=SC2086 # to be split
set -- $gw_free
case ${4:-} in
'' | *[!0-9]*) ;;
*) [ $(($4 / 8)) -ge "$gw_kib" ] || gw_kib=$(($4 / 8)) ;;
esac
if [ "$gw_kib" -lt 64 ] || ! mkfifo "$gw_dir/1" "$gw_dir/2" 2>/dev/null; then
	rm -rf "$gw_dir"
	gw_no "place: there is no room for output in $gw_dir"
fi

# Keeps the beginning of a stream, and reads the rest so that the command does
# not die of writing it. It keeps somewhat more than is ever shown, which tells
# that there was more. dd passes on what it reads at once; head, in busybox,
# when it has much.
gw_keep() {
	trap '' HUP INT QUIT TERM
	gw_reads=256
	[ "$gw_kib" -ge 1024 ] || gw_reads=$((gw_kib / 4))
	gw_size=-1
	gw_now=0
	while [ "$gw_now" -gt "$gw_size" ] && [ "$gw_now" -le $((gw_kib * 1024)) ]; do
		gw_size=$gw_now
		dd bs=4096 count=$gw_reads >>"$gw_dir/$1"
		gw_now=$(($(wc -c <"$gw_dir/$1")))
	done
	cat >/dev/null
	: >"$gw_dir/$1.end"
}
@IDENTITY@
# Ends the command at its longest run time, also when nobody can reach us.
gw_watch() {
	gw_sleep=
	trap 'kill $gw_sleep; exit 0' TERM
	sleep "$gw_max" &
	gw_sleep=$!
	wait $gw_sleep
	trap '' TERM
	echo max_runtime >"$gw_dir/stopping"
	mv "$gw_dir/stopping" "$gw_dir/stop"
	kill -TERM -"$(cat "$gw_dir/group")"
	sleep 5
	kill -KILL -"$(cat "$gw_dir/group")"
}
gw_run() {
	trap : HUP INT QUIT TERM USR1 USR2 ALRM PIPE # caught, not ignored: what we start is not to inherit it
	gw_keep stdout <"$gw_dir/1" >/dev/null 2>&1 &
	gw_keep stderr <"$gw_dir/2" >/dev/null 2>&1 &
	exec 3>"$gw_dir/1" 4>"$gw_dir/2" 5>&1 >/dev/null 2>&1
	rm -f "$gw_dir/1" "$gw_dir/2"
	gw_me=$(exec sh -c 'echo $PPID')
	if [ "$gw_me" = $$ ]; then # some shells have subshells that are no processes
		rm -rf "$gw_dir"
		gw_no "shell: /bin/sh does not fork" >&5
	fi
	[ -n "$gw_own" ] || echo $$ >"$gw_dir/group"
	echo "$gw_kib" >"$gw_dir/kib"
	gw_began=$(date +%s)
	echo "$gw_me $(gw_identity "$gw_me")" >"$gw_dir/pid"
	echo "$gw_nonce started" >&5
	exec 5>&-
	# Not "&": a command that is started so ignores INT and QUIT for ever. We
	# run in the foreground of a shell instead, and that shell goes now.
	kill -TERM $$
	gw_watch 3>&- 4>&- &
	gw_watcher=$!
	# A shell cannot tell an exit code above 128 from a signal. So a POSIX shell
	# that ends by itself leaves its code on descriptor 9. In a Korn shell such a
	# trap changes the code itself: there, what may be a signal is taken for one.
	gw_program=${SHELL:-/bin/sh}
	case $gw_shell in
	foreign) ;;
	sh) gw_program=/bin/sh ;;
	esac
	if [ "$gw_shell" != foreign ] && [ -z "$("$gw_program" -c 'echo $KSH_VERSION')" ]; then
		gw_text="'trap' '\\echo \$? >&9' 'EXIT'
$gw_text"
	fi
	(
		umask "$gw_umask"
		[ -n "$gw_own" ] || exec "$gw_program" -c "$gw_text"
		exec setsid sh -c 'echo $$ >&8; exec "$@" 8>&-' sh "$gw_program" -c "$gw_text" 8>"$gw_dir/group"
	) >&3 2>&4 3>&- 4>&- 9>"$gw_dir/code"
	gw_code=$?
	gw_ended=$(date +%s)
	exec 3>&- 4>&-
	gw_signal=-
	if [ $gw_code -gt 128 ] && [ "$(cat "$gw_dir/code")" != $gw_code ]; then
		gw_signal=$(kill -l $gw_code)
	fi
	kill -TERM $gw_watcher
	# What the command left behind may hold its streams for ever; what it wrote
	# itself is on disk in a moment, or in some on a machine under load.
	gw_tries=0
	until [ -e "$gw_dir/stdout.end" ] && [ -e "$gw_dir/stderr.end" ] || [ $gw_tries -ge 100 ]; do
		gw_tries=$((gw_tries + 1))
		sleep 0.1 || { sleep 1 && gw_tries=$((gw_tries + 9)); }
	done
	echo "$gw_code ${gw_signal:--} $((${gw_ended:-0} - ${gw_began:-0}))" >"$gw_dir/ending"
	mv "$gw_dir/ending" "$gw_dir/end"
}
(gw_run) </dev/null
exit 0
