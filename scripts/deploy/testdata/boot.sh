#!/bin/sh
# Boots the systemd of this machine as process 1 of namespaces of its own, on a copy of this machine's files that is
# thrown away, with the repository's compose/ ($2) and the programs ($3) in /src. Prints the pid of that process 1 and
# waits until its input ends, then ends all of it. $1 is an empty directory.
set -eu
dir=$1

if [ "${4:-}" = inside ]; then
	root=$dir/root
	mkdir "$dir/upper" "$root"
	mount -t tmpfs tmpfs "$dir/upper"
	mkdir "$dir/upper/files" "$dir/upper/work"
	mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper/files,workdir=$dir/upper/work" "$root"
	mkdir -p "$root/src/compose" "$root/src/bin"
	mount --bind "$2" "$root/src/compose"
	mount --bind "$3" "$root/src/bin"
	cd "$root"
	mount -t proc proc proc
	# What is set there is the whole kernel's, so this systemd sets nothing.
	for shared in proc/sys proc/sysrq-trigger; do
		[ -e "$shared" ] || continue
		mount --bind "$shared" "$shared"
		mount -o remount,bind,ro "$shared"
	done
	mount -t sysfs -o ro sysfs sys
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	for volatile in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs "$volatile"; done
	chmod 1777 tmp
	for device in null zero full random urandom tty; do
		touch "dev/$device"
		mount --bind "/dev/$device" "dev/$device"
	done
	mkdir dev/pts dev/shm dev/mqueue
	mount -t devpts devpts dev/pts
	mount -t tmpfs tmpfs dev/shm
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	# Nothing of this machine's own services: the journal alone.
	rm -rf etc/systemd/system usr/lib/systemd/system/*.wants lib/systemd/system/*.wants
	: >etc/fstab
	mkdir -p etc/systemd/system var/log/journal
	printf '[Unit]\nDescription=Nothing but what the test starts\nWants=systemd-journald.service\n' >etc/systemd/system/test.target
	ip link set lo up
	mkdir old
	pivot_root . old
	umount -l old
	exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		/lib/systemd/systemd --unit=test.target --log-target=journal --show-status=no
fi

# Its control groups are below one of our own, so that they meet no other systemd's.
hierarchy=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
[ -n "$hierarchy" ] || {
	echo "no cgroup2 hierarchy is mounted here" >&2
	exit 1
}
group=$hierarchy/gateway-boot-$$
mkdir "$group"
sh -c 'echo $$ >"$1/cgroup.procs" && exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net --propagation private sh "$2" "$3" "$4" "$5" inside' \
	- "$group" "$0" "$dir" "$2" "$3" </dev/null >"$dir/log" 2>&1 &
unshare=$!

finish() {
	trap - EXIT
	kill -KILL "$unshare" 2>/dev/null || true
	wait "$unshare" 2>/dev/null || true
	tries=0
	while [ -d "$group" ] && [ $tries -lt 100 ]; do
		find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
		tries=$((tries + 1))
		[ ! -d "$group" ] || sleep 0.1
	done
	[ ! -d "$group" ] || echo "left behind: $group" >&2
}
trap finish EXIT

first=
while [ -z "$first" ]; do
	kill -0 "$unshare" 2>/dev/null || {
		cat "$dir/log" >&2
		exit 1
	}
	first=$(cat "/proc/$unshare/task/$unshare/children" 2>/dev/null || true)
	sleep 0.05
done
echo "${first%% *}"
read -r _ || true
