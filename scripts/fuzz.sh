#!/usr/bin/env bash
# Runs every fuzz target of the named modules, one after the other, for the given time each.
# Usage: scripts/fuzz.sh 30s MODULE…
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=$1
shift
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# Go reports the end of -fuzztime as a failure of its own when it comes while a worker is busy with an input: the
# target then fails with nothing but this one line. An input that fails, crashes or hangs always says more.
time_is_up() {
	[[ $(grep -A1 -- '^--- FAIL: ' "$output" | tail -n +2) == '    context deadline exceeded' ]] &&
		! grep -q -e 'Failing input written' -e 'fuzzing process hung' -e '^panic: ' "$output"
}

count=0
while IFS=: read -r file _ name; do
	count=$((count + 1))
	echo "fuzz $name in $(dirname "$file") for $fuzztime"
	if ! go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "./$(dirname "$file")" 2>&1 | tee "$output"; then
		time_is_up || exit 1
		echo "fuzz $name: the time was up in the middle of an input, which is no failure"
	fi
done < <(grep -rnoP --include='*_test.go' '^func \KFuzz\w+' "$@" | sort)
echo "$count fuzz targets ran for $fuzztime each"
