# Tells how a job stands. It is given, on stdin, a line
#   NONCE PLACE VERB STDOUT_OFFSET STDERR_OFFSET MAX_BYTES
# and answers with a line
#   NONCE STATE CODE SIGNAL SECONDS STOP GROUP STDOUT_SIZE STDERR_SIZE STDOUT_BYTES STDERR_BYTES STDOUT_SHA256 STDERR_SHA256 KIB
# and so many bytes of the two streams, of which it keeps KIB at most. STATE is begun (not
# started yet), running, ended, dead (it has left no end behind), gone (there
# is no such job) or void. VERB is
#   look     to ask only
#   claim    to take the place of a job whose start was not seen: one that is
#            not there now (void) will never be started
#   sum      to ask for the hashes as well
#   forget   to remove an ended job
#   SIGNAL   to send it to the process group, if the job runs
umask 077
read -r gw_nonce gw_place gw_verb gw_out gw_err gw_most || exit 0
gw_home=${HOME:-/nonexistent}/.cache/mcp-ssh-gateway
gw_dir=
for gw_try in "$gw_home/" /var/tmp/mcp-ssh-gateway- /tmp/mcp-ssh-gateway-; do
	if [ -d "$gw_try$gw_place" ] && [ ! -h "$gw_try$gw_place" ]; then
		gw_dir=$gw_try$gw_place
		break
	fi
done
if [ -z "$gw_dir" ]; then
	gw_state=gone
	if [ "$gw_verb" = claim ]; then
		mkdir -p "$gw_home" 2>/dev/null
		for gw_try in "$gw_home/" /var/tmp/mcp-ssh-gateway- /tmp/mcp-ssh-gateway-; do
			mkdir "$gw_try$gw_place" 2>/dev/null && : >"$gw_try$gw_place/void" && gw_state=void && break
		done
	fi
	echo "$gw_nonce $gw_state - - - - - 0 0 0 0 - - -"
	exit 0
fi
cd "$gw_dir" || exit 0

@IDENTITY@
gw_look() {
	gw_code=- gw_signal=- gw_seconds=-
	if [ -e void ]; then
		gw_state=void
	elif [ -e end ]; then
		gw_state=ended
		read -r gw_code gw_signal gw_seconds <end
	else
		gw_state=dead
		[ -e pid ] || gw_state=begun
		gw_pid='' gw_was=''
		[ ! -e pid ] || read -r gw_pid gw_was <pid
		[ -n "$gw_pid" ] && kill -0 "$gw_pid" 2>/dev/null && [ "$(gw_identity "$gw_pid")" = "$gw_was" ] && gw_state=running
	fi
}
gw_look
[ $gw_state != dead ] || gw_look # it may have ended in between
gw_group=-
[ ! -e group ] || read -r gw_group <group
case $gw_verb in
look | claim | sum) ;;
forget)
	[ $gw_state = running ] || rm -rf "$gw_dir"
	echo "$gw_nonce gone - - - - - 0 0 0 0 - - -"
	exit 0
	;;
*)
	[ $gw_state = running ] || [ -e stop ] || gw_group=-
	if [ "$gw_group" != - ]; then
		[ -e stop ] || { echo asked >stopped && mv stopped stop; }
		kill -"$gw_verb" -"$gw_group"
	fi
	;;
esac
gw_stop=-
[ ! -e stop ] || read -r gw_stop <stop
case $gw_group in
-) ;;
*) if kill -0 -"$gw_group" 2>/dev/null; then gw_group=alive; else gw_group=ended; fi ;;
esac
gw_count() {
	if [ -e "$1" ]; then echo $(($(wc -c <"$1"))); else echo 0; fi
}
gw_part() {
	gw_n=$(($1 - $2))
	[ "$gw_n" -le "$gw_most" ] || gw_n=$gw_most
	[ "$gw_n" -ge 0 ] || gw_n=0
	echo "$gw_n"
}
gw_sum() {
	if [ "$gw_verb" = sum ] && [ -e "$1" ]; then sha256sum <"$1" 2>/dev/null | head -c 64; fi
}
gw_osize=$(gw_count stdout)
gw_esize=$(gw_count stderr)
gw_on=$(gw_part "$gw_osize" "$gw_out")
gw_en=$(gw_part "$gw_esize" "$gw_err")
gw_kib=-
[ ! -e kib ] || read -r gw_kib <kib
gw_osum=$(gw_sum stdout)
gw_esum=$(gw_sum stderr)
echo "$gw_nonce $gw_state $gw_code $gw_signal $gw_seconds $gw_stop $gw_group $gw_osize $gw_esize $gw_on $gw_en ${gw_osum:--} ${gw_esum:--} $gw_kib"
[ "$gw_on" = 0 ] || tail -c +$((gw_out + 1)) stdout | head -c "$gw_on"
[ "$gw_en" = 0 ] || tail -c +$((gw_err + 1)) stderr | head -c "$gw_en"
exit 0
