#!/usr/bin/env bash
# Runs every fuzz target of the named modules, one after the other, for the given time each.
# Usage: scripts/fuzz.sh 30s MODULE…
set -euo pipefail
cd "$(dirname "$0")/.."

fuzztime=$1
shift

count=0
while IFS=: read -r file _ name; do
	count=$((count + 1))
	echo "fuzz $name in $(dirname "$file") for $fuzztime"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "./$(dirname "$file")"
done < <(grep -rnoP --include='*_test.go' '^func \KFuzz\w+' "$@" | sort)
echo "$count fuzz targets ran for $fuzztime each"
