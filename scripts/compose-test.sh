#!/usr/bin/env bash
# Prepares what the tests in scripts/e2e/containers need, runs them, and removes what they made.
#
# No container registry is asked. A Docker engine is used if one runs; else, as root, dockerd is started and stopped
# again. Where a base image that a Dockerfile names is missing, one under its name is made: from this machine's own Go,
# or by debootstrap from Debian's archive. The compose plugin is built from its Go module. What takes minutes is kept in
# ~/.cache/mcp-ssh-gateway-ci.
set -euo pipefail
cd "$(dirname "$0")/.."

compose_version=v2.40.3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mcp-ssh-gateway-ci
export COMPOSE_TEST_PROJECT=mcp-ssh-gateway-test-$$
version=compose-test # as in scripts/e2e/containers
work=$(mktemp -d)
dockerd_pid='' base_images_pid=''

main() {
	need go make jq ssh-keygen tar docker busybox
	start_engine
	# Both at once, because the one waits for the network most of the time.
	timed "base images" make_base_images &
	base_images_pid=$!
	find_plugin
	wait $base_images_pid
	base_images_pid=''
	timed "images" make_images
	timed "programs" make -s build VERSION=$version
	timed "tests" go test -count=1 -v -timeout 5m ./scripts/e2e/containers
	echo "compose-test: all passed in $SECONDS s"
}

start_engine() {
	local dockerd
	if docker info >/dev/null 2>&1; then return; fi
	[ "$(id -u)" = 0 ] || die "no Docker engine answers, and only root can start one"
	dockerd=$(PATH=$PATH:/usr/sbin command -v dockerd) || die "dockerd is missing: apt-get install docker.io iptables"
	"$dockerd" >"$work/dockerd.log" 2>&1 &
	dockerd_pid=$!
	until docker info >/dev/null 2>&1; do
		if [ $SECONDS -ge 60 ] || ! kill -0 "$dockerd_pid" 2>/dev/null; then
			die "dockerd does not start: $(tail -n 5 "$work/dockerd.log")"
		fi
		sleep 0.1
	done
}

# Compose v2 builds with an engine's own BuildKit; newer majors need the buildx plugin too.
find_plugin() {
	local plugin dir start=$SECONDS
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
		echo "compose-test: compose plugin: $((SECONDS - start)) s"
	fi
	export DOCKER_CONFIG=$work/docker
	mkdir -p "$DOCKER_CONFIG/cli-plugins"
	ln -s "$plugin" "$DOCKER_CONFIG/cli-plugins/docker-compose"
}

make_base_images() {
	local image
	image=$(sed -n 's/^ARG GO_IMAGE=//p' compose/Dockerfile)
	docker image inspect "$image" >/dev/null 2>&1 || make_go_image "$image"
	image=$(sed -n 's/^ARG DEBIAN_IMAGE=//p' compose/demo/Dockerfile)
	docker image inspect "$image" >/dev/null 2>&1 || make_debian_image "$image"
}

make_go_image() { # IMAGE
	local root=$work/go-image applet
	echo "making an image named $1 from this machine's $(go env GOVERSION); docker rmi $1 removes it"
	mkdir -p "$root"/{bin,tmp,root,go,src,usr/local,etc/ssl/certs}
	chmod 1777 "$root/tmp"
	cp "$(command -v busybox)" "$root/bin/busybox"
	for applet in sh cat chmod mkdir printf; do ln -s busybox "$root/bin/$applet"; done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	cp -a "$(go env GOROOT)" "$root/usr/local/go"
	rm -rf "$root"/usr/local/go/{api,doc,test}
	tar -C "$root" -c . | docker import -c 'ENV PATH=/usr/local/go/bin:/bin GOPATH=/go' -c 'LABEL stand-in=true' - "$1" >/dev/null
	rm -rf "$root"
}

make_debian_image() { # IMAGE
	local suite=${1#*:} archive
	suite=${suite%-slim}
	archive=$cache/debian-$suite.tar
	echo "making an image named $1 from Debian's archive; docker rmi $1 removes it"
	if [ ! -e "$archive" ]; then
		PATH=$PATH:/usr/sbin need debootstrap
		mkdir -p "$cache"
		as_root "$(PATH=$PATH:/usr/sbin command -v debootstrap)" --variant=minbase "$suite" "$work/debian" http://deb.debian.org/debian \
			>"$work/debootstrap.log" 2>&1 || die "debootstrap failed: $(tail -n 5 "$work/debootstrap.log")"
		as_root tar -C "$work/debian" --exclude='./dev/*' --exclude='./var/cache/apt/archives/*.deb' -c . >"$archive.new"
		mv "$archive.new" "$archive"
		as_root rm -rf "$work/debian"
	fi
	docker import -c 'LABEL stand-in=true' "$archive" "$1" >/dev/null
}

make_images() {
	{
		make -s images VERSION=$version REVISION=0123456789abcdef0123456789abcdef01234567 &&
			GATEWAY_VERSION=$version docker compose -f compose/compose.yaml -f compose/demo.yaml build keys
	} >"$work/images.log" 2>&1 || die "building the images failed: $(tail -n 30 "$work/images.log")"
	grep '^mcp-ssh-gateway/.*MB$' "$work/images.log" || die "make images prints no sizes"
}

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

need() {
	local program
	for program in "$@"; do
		command -v "$program" >/dev/null ||
			die "$program is missing (Debian: apt-get install golang make jq tar openssh-client docker.io iptables busybox-static debootstrap)"
	done
}

timed() { # WHAT COMMAND…
	local start=$SECONDS what=$1
	shift
	"$@"
	echo "compose-test: $what: $((SECONDS - start)) s"
}

die() {
	echo "compose-test: $1" >&2
	exit 1
}

# By name, so that it also removes what tests left that were ended themselves.
clean_up() {
	local status=$? project found
	trap - EXIT
	[ -z "$base_images_pid" ] || wait "$base_images_pid" || true
	if docker info >/dev/null 2>&1; then
		found=$(docker ps -aq --filter "label=$COMPOSE_TEST_PROJECT")
		# shellcheck disable=SC2086 # lists of words
		[ -z "$found" ] || docker rm -f $found >/dev/null
		for project in "$COMPOSE_TEST_PROJECT" "$COMPOSE_TEST_PROJECT-demo"; do
			[ $status = 0 ] || docker compose -p "$project" logs --no-color --tail 20 2>/dev/null || true
			docker compose -p "$project" down -v -t 5 >/dev/null 2>&1 || true
		done
		found=$(docker network ls -q --filter "label=$COMPOSE_TEST_PROJECT")
		# shellcheck disable=SC2086
		[ -z "$found" ] || docker network rm $found >/dev/null
		found=$(docker image ls -q --filter "reference=mcp-ssh-gateway/*:$version*")
		# shellcheck disable=SC2086
		[ -z "$found" ] || docker rmi -f $found >/dev/null
	fi
	if [ -n "$dockerd_pid" ]; then
		kill "$dockerd_pid" 2>/dev/null || true
		wait "$dockerd_pid" || true
	fi
	rm -rf "$work"
	exit $status
}
trap clean_up EXIT

main
