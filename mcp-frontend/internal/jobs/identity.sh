# What tells this process from a later one with the same number.
gw_identity() {
	gw_stat=$(cat "/proc/$1/stat" 2>/dev/null)
	if [ -n "$gw_stat" ]; then
		# shellcheck disable=SC2086 # to be split
		set -- ${gw_stat##*")"}
		echo "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null):${20}"
	else
		LC_ALL=C ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' _
	fi
}
