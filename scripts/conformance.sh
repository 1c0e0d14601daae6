#!/usr/bin/env bash
# Runs the official MCP conformance suite against our transport and prints its table. Fails when a scenario fails
# that scripts/conformance-expected.yml does not explain, or when one of those passes.
#
# The suite speaks HTTP only and calls fixed tools, so between it and the code stand:
#   suite -> supergateway -> mcp-frontend attach -> unix socket -> internal/mcpserve with the suite's fixtures
# Both npm programs run in a network of their own, whose only address is the loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/npm-lib.sh
. scripts/npm-lib.sh

frontend=${BIN:-bin}/mcp-frontend
port=3912
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
fixtures_pid='' bridge_pid=''

main() {
	if [ "${1:-}" = --inside ]; then
		inside "$2"
		return
	fi
	[ -x "$frontend" ] || die "$frontend is missing: make build"
	local npm program
	for program in go ip unshare; do
		command -v "$program" >/dev/null || die "$program is missing (Debian: apt-get install golang iproute2 util-linux)"
	done
	npm=$(install_from_npm conformance-0.1.16 @modelcontextprotocol/conformance@0.1.16 supergateway@4.0.0)
	local own_network=(unshare --net)
	[ "$(id -u)" = 0 ] || own_network=(unshare --net --map-root-user)
	"${own_network[@]}" true || die "this system allows no network namespace to this user"
	trap - EXIT
	rm -rf "$work"
	exec timeout 300 "${own_network[@]}" scripts/conformance.sh --inside "$npm"
}

inside() { # DIRECTORY, of the npm programs
	local node=$1/node_modules/node-linux/bin/node modules=$1/node_modules
	ip link set lo up

	go test -c -o "$work/fixtures" ./mcp-frontend/internal/mcpserve
	MCPSERVE_TEST_ROLE="conformance $work/mcp.sock" "$work/fixtures" >"$work/fixtures.log" 2>&1 &
	fixtures_pid=$!
	"$node" "$modules/supergateway/dist/index.js" --stdio "$frontend attach --mcp-socket $work/mcp.sock" \
		--outputTransport streamableHttp --stateful --port $port --logLevel none >"$work/bridge.log" 2>&1 &
	bridge_pid=$!
	wait_for_bridge

	local status=0
	"$node" "$modules/@modelcontextprotocol/conformance/dist/index.js" server --url "http://127.0.0.1:$port/mcp" \
		--expected-failures scripts/conformance-expected.yml -o "$work/results" >"$work/suite.log" 2>&1 || status=$?
	sed -n '/^=== SUMMARY ===/,$p' "$work/suite.log"
	[ $status = 0 ] || die "a result is not the one that scripts/conformance-expected.yml tells: see above"
}

wait_for_bridge() {
	local tries=100
	until (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
		tries=$((tries - 1))
		if [ $tries = 0 ] || ! kill -0 $bridge_pid; then
			die "supergateway does not listen: $(tail -n 5 "$work/bridge.log")"
		fi
		sleep 0.1
	done
}

die() {
	echo "conformance: $1" >&2
	exit 1
}

clean_up() {
	local status=$?
	trap - EXIT
	for pid in $bridge_pid $fixtures_pid; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
	exit $status
}
trap clean_up EXIT

main "$@"
