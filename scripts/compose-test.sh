#!/usr/bin/env bash
# Starts the pair with docker compose as an operator does, and checks what really runs: first from the files of a
# fresh clone, then with one device (this machine's own sshd behind a real `ssh -R`) and a frontend without a network.
#
# No registry is asked. A Docker engine is used if one runs; else, as root, dockerd is started and stopped again.
# Where the Dockerfile's Go image is missing, an image under its name is made from this machine's own Go.
# The compose plugin is built from its Go module once and kept in ~/.cache/mcp-ssh-gateway-ci.
set -euo pipefail
cd "$(dirname "$0")/.."

compose_version=v2.40.3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mcp-ssh-gateway-ci
project=mcp-ssh-gateway-test-$$
work=$(mktemp -d)
chmod 755 "$work" # the containers read their configuration from it
files=(-f compose/compose.yaml)
dockerd_pid='' sshd_pid='' ssh_pid='' client_pid='' checks=0

export GATEWAY_BIND=127.0.0.1 GATEWAY_PORT=0 GATEWAY_VERSION=compose-test

main() {
	need go make jq openssl ssh ssh-keygen docker busybox
	start_engine
	find_plugin
	make_go_image

	fresh_clone
	confinement
	attached_client
	device_through_tunnel
	graceful_stop
	echo "compose-test: $checks checks passed in $SECONDS s"
}

fresh_clone() {
	compose up --build -d --wait >"$work/up.log" 2>&1 || die "docker compose up failed: $(tail -n 20 "$work/up.log")"
	ok "docker compose up --build --wait: both services are healthy with the files of a fresh clone"

	make -s build BIN="$work/bin" VERSION=$GATEWAY_VERSION >/dev/null
	local program
	for program in tunnel-acceptor mcp-frontend; do
		docker cp "$(container $program)":/$program "$work/$program" >/dev/null 2>&1
		cmp -s "$work/$program" "$work/bin/$program" || die "$program in the image differs from make build's"
	done
	ok "the programs in the images are byte for byte those of make build"

	listed tunnel-acceptor /data/acceptor '^-rw------- 65532/65532 .* acceptor/ssh_host_ed25519_key$'
	listed mcp-frontend /data/keys '^-rw------- 65533/65532 .* keys/gateway.key$'
	ok "the first start made the host key and the gateway's client key, for their owners alone"
}

confinement() {
	[ "$(docker port "$(container tunnel-acceptor)" | cut -d' ' -f1)" = 2222/tcp ] || die "the acceptor must publish 2222/tcp alone"
	[ -z "$(docker port "$(container mcp-frontend)")" ] || die "the frontend publishes a port"
	ok "only the acceptor publishes a port, and only one"

	confined tunnel-acceptor 65532
	confined mcp-frontend 65533
	docker inspect "$(container mcp-frontend)" | jq -e '.[0].Mounts[] | select(.Destination == "/run/gw" and .RW == false)' >/dev/null ||
		die "the frontend can write where the acceptor's sockets are"
	ok "both run as their own user, read-only, without capabilities and without new privileges"

	[ "$(listening tunnel-acceptor)" = 08AE ] || die "the acceptor listens on (hexadecimal ports): $(listening tunnel-acceptor)"
	[ -z "$(listening mcp-frontend)" ] || die "the frontend listens on (hexadecimal ports): $(listening mcp-frontend)"
	ok "the acceptor listens on port 2222 alone, the frontend on none"
}

attached_client() {
	attach
	request 2 tools/list '{}' | jq -e '[.result.tools[].name] | contains(["ssh_list_devices", "ssh_run"])' >/dev/null ||
		die "tools/list lacks ssh_list_devices or ssh_run"
	ok "an attached client initializes and lists the tools"

	[ "$(attached)" = 1 ] || die "expected one attach process, found $(attached)"
	kill -KILL "$client_pid"
	detach
	within 5 none_attached || die "a killed client left its attach process behind"
	ok "a client killed by SIGKILL leaves no attach process behind"
}

device_through_tunnel() {
	ssh-keygen -q -t ed25519 -N '' -C edge-vm-2 -f "$work/device"
	ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/device_host"
	cp -r compose/config "$work/config"
	printf 'restrict,port-forwarding,permitlisten="22222" %s\n' "$(cat "$work/device.pub")" >>"$work/config/authorized_keys"
	jq -n --arg user "$(id -un)" '[{name: "edge-vm-2", mode: "tunnel", user: $user, host: "127.0.0.1", port: 22222,
		id_file: "/data/keys/gateway.key"}]' >"$work/config/connections.json"

	# Other mounts mean new containers; the keys in the volumes must still be the same ones.
	local host_key gateway_key
	host_key=$(public_key tunnel-acceptor /data/acceptor/ssh_host_ed25519_key)
	gateway_key=$(public_key mcp-frontend /data/keys/gateway.key)
	export GATEWAY_CONFIG_DIR=$work/config
	files+=(-f compose/tunnel-only.yaml)
	compose up -d --wait >"$work/up.log" 2>&1 || die "docker compose up failed: $(tail -n 20 "$work/up.log")"
	[ "$host_key" = "$(public_key tunnel-acceptor /data/acceptor/ssh_host_ed25519_key)" ] || die "a new container has another host key"
	[ "$gateway_key" = "$(public_key mcp-frontend /data/keys/gateway.key)" ] || die "a new container has another gateway key"
	ok "new containers keep the host key and the gateway's key"
	[ "$(compose exec -T mcp-frontend /mcp-frontend keys public gateway | cut -d ' ' -f 1,2)" = "$(cut -d ' ' -f 1,2 <<<"$gateway_key")" ] ||
		die "keys public gateway does not print the gateway's public key"
	ok "mcp-frontend keys public prints what a device lets in"
	[ "$(compose exec -T mcp-frontend /mcp-frontend approvals)" = "nothing waits for an operator" ] || die "the operator's socket does not answer"
	ok "mcp-frontend approvals shows what waits for an operator"

	start_device "$host_key" "$gateway_key"
	within 10 tunnel_is_up ||
		die "tunnel-acceptor list does not show the tunnel: $(cat "$work/ssh.log")"
	ok "ssh -R to the published port opens a tunnel"

	# What an operator does: fetch the device's host key through the tunnel and compare its fingerprint.
	local fingerprint
	fingerprint=$(ssh-keygen -lf "$work/device_host.pub" | cut -d' ' -f2)
	compose exec -T mcp-frontend /mcp-frontend trust edge-vm-2 --fingerprint "$fingerprint" >>"$work/config/known_hosts"
	ok "mcp-frontend trust prints the device's host key, fetched through the tunnel"

	compose kill -s HUP mcp-frontend >"$work/kill.log" 2>&1 # as after a change of connections.json
	attach
	request 2 tools/call '{"name": "ssh_list_devices", "arguments": {}}' >"$work/devices.json"
	jq -e '.result.structuredContent.devices[] | select(.name == "edge-vm-2" and .state == "up")' "$work/devices.json" >/dev/null ||
		die "ssh_list_devices does not show edge-vm-2 as up: $(cat "$work/devices.json")"
	request 3 tools/call '{"name": "ssh_run", "arguments": {"device": "edge-vm-2", "command": "cat '"$work"'/only-here"}}' >"$work/run.json"
	jq -e --arg want "$(cat "$work/only-here")" \
		'.result.structuredContent | .outcome == "exited" and .exit_code == 0 and .executed == "yes" and .stdout == $want + "\n"' "$work/run.json" >/dev/null ||
		die "ssh_run through the tunnel: $(cat "$work/run.json")"
	detach
	ok "ssh_list_devices shows the device, and ssh_run runs there, from a frontend without any network"
}

graceful_stop() {
	local service state
	compose stop >/dev/null 2>&1
	for service in tunnel-acceptor mcp-frontend; do
		state=$(docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' "$(container $service)")
		[ "$state" = "0 false" ] || die "$service ended with: $state"
	done
	ok "both end with 0 when stopped"
}

# --- the device: this machine's sshd on a loopback port, and the ssh client that opens the tunnel ---

start_device() { # HOST_KEY GATEWAY_KEY
	local sshd port gateway
	sshd=$(PATH=$PATH:/usr/sbin command -v sshd) || die "sshd is missing: apt-get install openssh-server"
	[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
	printf 'restrict,from="127.0.0.1,::1" %s\n' "$2" >"$work/device_authorized_keys"
	openssl rand -hex 16 >"$work/only-here"
	port=$((20000 + RANDOM % 10000))
	while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	"$sshd" -D -e -f /dev/null -h "$work/device_host" -o "ListenAddress=127.0.0.1:$port" -o PidFile=none -o UsePAM=no \
		-o StrictModes=no -o PasswordAuthentication=no -o "AuthorizedKeysFile=$work/device_authorized_keys" 2>"$work/sshd.log" &
	sshd_pid=$!

	gateway=$(compose port tunnel-acceptor 2222)
	echo "[127.0.0.1]:${gateway##*:} $1" >"$work/gateway_known_hosts"
	ssh -F none -N -T -n -i "$work/device" -o IdentitiesOnly=yes -o BatchMode=yes -o ExitOnForwardFailure=yes \
		-o StrictHostKeyChecking=yes -o "UserKnownHostsFile=$work/gateway_known_hosts" \
		-R "22222:localhost:$port" agent@127.0.0.1 -p "${gateway##*:}" 2>"$work/ssh.log" &
	ssh_pid=$!
}

# --- an MCP client over `docker compose exec … attach` ---

attach() {
	coproc CLIENT { exec docker compose -p "$project" "${files[@]}" exec -T mcp-frontend /mcp-frontend attach 2>>"$work/attach.log"; }
	# shellcheck disable=SC2153 # bash sets CLIENT_PID
	client_pid=$CLIENT_PID
	# Copies, because a coprocess's own descriptors are closed in subshells.
	exec {to_client}>&"${CLIENT[1]}" {from_client}<&"${CLIENT[0]}"
	eval "exec ${CLIENT[1]}>&- ${CLIENT[0]}<&-"
	request 1 initialize '{"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "compose-test", "version": "1"}}' >/dev/null
	echo '{"jsonrpc": "2.0", "method": "notifications/initialized"}' >&"$to_client"
}

request() { # ID METHOD PARAMS: sends the request, prints the answer
	local line
	jq -cn --argjson id "$1" --arg method "$2" --argjson params "$3" '{jsonrpc: "2.0", $id, $method, $params}' >&"$to_client"
	while IFS= read -r -t 20 line <&"$from_client"; do
		if jq -e --argjson id "$1" '.id == $id' <<<"$line" >/dev/null; then
			echo "$line"
			return
		fi
	done
	die "no answer to $2: $(cat "$work/attach.log")"
}

detach() {
	[ -n "$client_pid" ] || return 0
	exec {to_client}>&- {from_client}<&-
	wait "$client_pid" 2>/dev/null || true
	client_pid=''
}

attached() { docker top "$(container mcp-frontend)" -eo pid,args | grep -c '/mcp-frontend attach' || true; }

none_attached() { [ "$(attached)" = 0 ]; }

tunnel_is_up() {
	compose exec -T tunnel-acceptor /tunnel-acceptor list --json |
		jq -e '.tunnels[] | select(.device == "edge-vm-2" and .state == "up")'
}

# --- reading back what runs ---

container() { compose ps -aq "$1"; }

confined() { # SERVICE UID
	docker inspect "$(container "$1")" | jq -e --arg user "$2:65532" '.[0] | .Config.User == $user and .HostConfig.ReadonlyRootfs
		and .HostConfig.CapDrop == ["ALL"] and .HostConfig.CapAdd == null and (.HostConfig.Privileged | not)
		and .HostConfig.SecurityOpt == ["no-new-privileges:true"] and .HostConfig.PidsLimit > 0 and .HostConfig.Memory > 0' >/dev/null ||
		die "$1 runs with other settings than compose.yaml's"
	local status
	status=$(cat "/proc/$(pid "$1")/status")
	grep -q "^Uid:	$2	$2	$2	$2$" <<<"$status" || die "$1 runs as another user: $(grep ^Uid <<<"$status")"
	[ "$(grep -cE '^(CapEff|CapPrm|CapBnd):	0+$' <<<"$status")" = 3 ] || die "$1 has capabilities: $(grep ^Cap <<<"$status")"
	grep -q '^NoNewPrivs:	1$' <<<"$status" || die "$1 may gain privileges"
}

# The TCP ports on which a service listens, in hexadecimal; 0B00007F is Docker's own name server.
listening() {
	awk '$4 == "0A" && $2 !~ /^0B00007F/ {sub(/.*:/, "", $2); print $2}' "/proc/$(pid "$1")"/net/tcp{,6} | sort -u
}

pid() { docker inspect -f '{{.State.Pid}}' "$(container "$1")"; }

listed() { # SERVICE DIRECTORY PATTERN
	# Not grep -q: it would end the pipe at the first match, and pipefail would count that against tar.
	docker cp "$(container "$1"):$2" - | tar -tv --numeric-owner | grep -- "$3" >/dev/null || die "$1 has no $3 in $2"
}

public_key() { # SERVICE PATH
	rm -f "$work/key"
	docker cp "$(container "$1"):$2" "$work/key" >/dev/null 2>&1
	ssh-keygen -y -f "$work/key" | cut -d' ' -f1,2 || die "$2 of $1 is no private key"
	rm -f "$work/key"
}

# --- what the test itself needs ---

compose() { docker compose -p "$project" "${files[@]}" "$@"; }

start_engine() {
	local dockerd
	if docker info >/dev/null 2>&1; then return; fi
	[ "$(id -u)" = 0 ] || die "no Docker engine answers, and only root can start one"
	dockerd=$(PATH=$PATH:/usr/sbin command -v dockerd) || die "dockerd is missing: apt-get install docker.io iptables"
	"$dockerd" >"$work/dockerd.log" 2>&1 &
	dockerd_pid=$!
	within 30 docker info || die "dockerd does not start: $(tail -n 5 "$work/dockerd.log")"
}

# Compose v2 builds with an engine's own BuildKit; newer majors need the buildx plugin too.
find_plugin() {
	local plugin dir
	if docker compose version --short 2>/dev/null | grep -qE '^v?2\.'; then return; fi
	plugin=$cache/docker-compose-$compose_version
	if [ ! -x "$plugin" ]; then
		echo "building docker compose $compose_version from its module (some minutes, once)"
		mkdir -p "$cache"
		# Inside the module's own directory, because `go install` refuses a module with excludes.
		dir=$(GOWORK=off go mod download -json "github.com/docker/compose/v2@$compose_version" | jq -r .Dir)
		GOWORK=off go -C "$dir" build -trimpath -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$compose_version" \
			-o "$plugin.new" ./cmd
		mv "$plugin.new" "$plugin"
	fi
	export DOCKER_CONFIG=$work/docker
	mkdir -p "$DOCKER_CONFIG/cli-plugins"
	ln -s "$plugin" "$DOCKER_CONFIG/cli-plugins/docker-compose"
}

make_go_image() {
	local image root applet
	image=$(sed -n 's/^ARG GO_IMAGE=//p' compose/Dockerfile)
	if docker image inspect "$image" >/dev/null 2>&1; then return; fi
	echo "making an image named $image from this machine's $(go env GOVERSION); docker rmi $image removes it"
	root=$work/go-image
	mkdir -p "$root"/{bin,tmp,root,go,src,usr/local,etc/ssl/certs}
	chmod 1777 "$root/tmp"
	cp "$(command -v busybox)" "$root/bin/busybox"
	for applet in sh cat chmod mkdir printf; do ln -s busybox "$root/bin/$applet"; done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	cp -a "$(go env GOROOT)" "$root/usr/local/go"
	rm -rf "$root"/usr/local/go/{api,doc,test}
	tar -C "$root" -c . | docker import -c 'ENV PATH=/usr/local/go/bin:/bin GOPATH=/go' -c 'LABEL stand-in=true' - "$image" >/dev/null
	rm -rf "$root"
}

need() {
	local program
	for program in "$@"; do
		command -v "$program" >/dev/null || die "$program is missing (Debian: apt-get install golang make jq openssl openssh-client openssh-server docker.io iptables busybox-static)"
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

ok() {
	checks=$((checks + 1))
	echo "ok: $1"
}

die() {
	echo "compose-test: $1" >&2
	exit 1
}

clean_up() {
	local status=$?
	trap - EXIT
	[ $status = 0 ] || compose logs --no-color --tail 20 2>/dev/null || true
	detach
	[ -z "$ssh_pid" ] || kill "$ssh_pid" 2>/dev/null || true
	[ -z "$sshd_pid" ] || kill "$sshd_pid" 2>/dev/null || true
	compose down -v --rmi all -t 5 >/dev/null 2>&1 || true
	if [ -n "$dockerd_pid" ]; then
		kill "$dockerd_pid"
		wait "$dockerd_pid" || true
	fi
	rm -rf "$work"
	exit $status
}
trap clean_up EXIT

main
