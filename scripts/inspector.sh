#!/usr/bin/env bash
# Asks mcp-frontend with the MCP inspector's command line, a client that is not ours, and checks its answers: through
# `stdio` and through `attach`, against a device that is this machine's own sshd on a loopback port.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/npm-lib.sh
. scripts/npm-lib.sh

frontend=${BIN:-bin}/mcp-frontend
work=$(mktemp -d)
sshd_pid='' daemon_pid='' checks=0
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

main() {
	[ -x "$frontend" ] || die "$frontend is missing: make build"
	need jq sshd ssh-keygen
	npm=$(install_from_npm inspector-2.12.0 @modelcontextprotocol/inspector@2.12.0)

	start_device
	prepare_frontend
	"$frontend" serve "${flags[@]}" --mcp-socket "$work/mcp.sock" 2>"$work/daemon.log" &
	daemon_pid=$!
	answers_are_right stdio "${flags[@]}"
	answers_are_right attach --mcp-socket "$work/mcp.sock"
	echo "inspector: $checks checks passed in $SECONDS s"
}

answers_are_right() { # COMMAND FLAG…: how the inspector starts the server
	server=("$frontend" "$@")

	ask --method tools/list
	right "$1: tools/list" '[.tools[] | select(.name == "ssh_list_devices" or .name == "ssh_run")
		| .inputSchema.type == "object" and .outputSchema.type == "object"] == [true, true]'

	ask --method tools/call --tool-name ssh_list_devices
	right "$1: tools/call ssh_list_devices" '(.isError | not) and [.structuredContent.devices[] | {name, mode}] == [{name: "edge-1", mode: "direct"}]
		and (.content[0].text | fromjson) == .structuredContent'

	ask --method tools/call --tool-name ssh_run --tool-arg device=edge-1 --tool-arg 'command=cat only-here; echo err >&2; exit 3' --tool-arg "cwd=$work"
	right "$1: tools/call ssh_run" '(.isError | not) and (.structuredContent | .outcome == "exited" and .exit_code == 3
		and .executed == "yes" and .stdout == "'"$(cat "$work/only-here")"'\n" and .stderr == "err\n")'

	ask --method tools/call --tool-name ssh_run --tool-arg device=edge-9 --tool-arg command=uname
	right "$1: tools/call ssh_run on an unknown device" '.isError and .structuredContent.error.code == "DEVICE_NOT_FOUND"
		and .structuredContent.executed == "no"'

	ask --method resources/read --uri ssh://devices
	right "$1: resources/read ssh://devices" '.contents[0] | .uri == "ssh://devices" and .mimeType == "application/json"
		and [.text | fromjson | .devices[].name] == ["edge-1"]'
}

# ask lets the inspector start the server and make one request. It ends with 1 for a tool's own error too.
ask() {
	timeout 60 "$npm/node_modules/node-linux/bin/node" "$npm/node_modules/.bin/mcp-inspector" --cli "${server[@]}" "$@" \
		>"$work/answer" 2>"$work/stderr" </dev/null || true
}

right() { # WHAT JQ-CONDITION
	jq -s -e ".[0] | $2" "$work/answer" >/dev/null 2>"$work/jq" ||
		die "$1: the answer is wrong: $(head -c 4000 "$work/answer" "$work/stderr" "$work/jq")"
	checks=$((checks + 1))
	echo "ok: $1"
}

# --- the device and the gateway's files ---

start_device() {
	ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/device_key"
	ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/host_key"
	date +%s%N >"$work/only-here"
	[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
	port=$((20000 + RANDOM % 10000))
	while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	"$(command -v sshd)" -D -e -f /dev/null -h "$work/host_key" -o "ListenAddress=127.0.0.1:$port" -o PidFile=none -o UsePAM=no \
		-o StrictModes=no -o PasswordAuthentication=no -o "AuthorizedKeysFile=$work/device_key.pub" 2>"$work/sshd.log" &
	sshd_pid=$!
	within 10 grep -q 'Server listening' "$work/sshd.log" || die "sshd does not start: $(tail -n 3 "$work/sshd.log")"
}

prepare_frontend() {
	mkdir "$work/gateway"
	jq -n --arg user "$(id -un)" --arg key "$work/device_key" --argjson port "$port" \
		'[{name: "edge-1", mode: "direct", user: $user, host: "127.0.0.1", port: $port, id_file: $key}]' >"$work/gateway/connections.json"
	echo "[127.0.0.1]:$port $(cat "$work/host_key.pub")" >"$work/gateway/known_hosts"
	flags=(--connections "$work/gateway/connections.json" --acceptor-dir '')
}

need() {
	local program
	for program in "$@"; do
		command -v "$program" >/dev/null || die "$program is missing (Debian: apt-get install jq openssh-client openssh-server)"
	done
}

within() { # SECONDS COMMAND…: repeats the command until it succeeds
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

die() {
	echo "inspector: $1" >&2
	exit 1
}

clean_up() {
	local status=$?
	trap - EXIT
	for pid in $daemon_pid $sshd_pid; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$work"
	exit $status
}
trap clean_up EXIT

main
