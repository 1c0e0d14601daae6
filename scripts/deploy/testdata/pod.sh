#!/bin/sh
# Sets up a pod in the directory $1 as the kubelet does, in a network and with mounts of its own: applies the group
# $2 to the volumes, runs the lines of $1/mounts, then each line of $1/init to its end, then each line of $1/containers at
# once. Stops them by SIGTERM when its input ends. Prints its pid first and the containers' exit codes last.
set -eu
dir=$1 group=$2 change=$3
echo "$$"
ip link set lo up

# As SetVolumeOwnership of the kubelet: a volume's root gets the group and setgid, and so do all files in it, unless the
# root has them already and the policy is OnRootMismatch.
for volume in "$dir"/volumes/*; do
	if [ "$change" = OnRootMismatch ] && [ "$(stat -c %g "$volume")" = "$group" ] && [ -g "$volume" ]; then continue; fi
	chown -R ":$group" "$volume"
	find "$volume" -type f -exec chmod ug+rw {} +
	find "$volume" -type d -exec chmod ug+rwx,g+s {} +
done
# Secrets are written with their own mode and then made readable by the group.
if [ -d "$dir/volumes/client-key" ]; then chmod 0440 "$dir"/volumes/client-key/*; fi

# shellcheck source=/dev/null
. "$dir/mounts"
# shellcheck source=/dev/null
. "$dir/init"
pids=
while read -r line; do
	eval "$line &"
	pids="$pids $!"
done <"$dir/containers"
echo started
read -r _ || true
for pid in $pids; do kill -TERM "$pid" 2>/dev/null || true; done
codes=
for pid in $pids; do
	code=0
	wait "$pid" || code=$?
	codes="$codes $code"
done
echo "exit$codes"
