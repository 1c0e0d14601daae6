#!/usr/bin/env bash
# Builds the last commit twice, from two clones in different directories, the second time with an empty build cache,
# and fails unless both give the same programs, byte for byte. Prints their SHA-256.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for clone in "$work/one" "$work/another/place"; do
	git clone --quiet . "$clone"
done
make -s -C "$work/one" build
GOCACHE=$work/cache make -s -C "$work/another/place" build

for program in tunnel-acceptor mcp-frontend; do
	cmp "$work/one/bin/$program" "$work/another/place/bin/$program" || {
		echo "reproducible: $program differs between two builds of $(git rev-parse --short HEAD)" >&2
		exit 1
	}
done
(cd "$work/one/bin" && sha256sum tunnel-acceptor mcp-frontend)
