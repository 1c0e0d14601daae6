# shellcheck shell=bash
# Sourced by the scripts that run programs from the npm registry. Nothing of it gets into the tree: all lies in
# ~/.cache/mcp-ssh-gateway-ci, by version, and is fetched once.

npm_cache=${XDG_CACHE_HOME:-$HOME/.cache}/mcp-ssh-gateway-ci
node_version=22.23.3 # Debian's Node is too old for the programs

# install_from_npm NAME PACKAGE@VERSION… fetches the packages and Node, and prints the directory that holds them.
install_from_npm() {
	local name=$1 dir=$npm_cache/$1 arch new
	shift
	arch=$(uname -m)
	case $arch in
	x86_64) arch=x64 ;;
	aarch64) arch=arm64 ;;
	*) echo "no Node $node_version for $arch is on the npm registry" >&2 && return 1 ;;
	esac
	if [ ! -d "$dir" ]; then
		command -v npm >/dev/null || { echo "npm is missing: apt-get install npm" >&2 && return 1; }
		mkdir -p "$npm_cache"
		new=$(mktemp -d "$npm_cache/$name.XXXXXX")
		if ! timeout 300 npm install --prefix "$new" --no-audit --no-fund --ignore-scripts --loglevel error \
			"$@" "node-linux-$arch@$node_version" >"$new/npm.log" 2>&1; then
			echo "npm cannot install $*: $(tail -n 1 "$new/npm.log")" >&2
			rm -rf "$new"
			return 1
		fi
		ln -s "node-linux-$arch" "$new/node_modules/node-linux"
		mv -T "$new" "$dir" 2>/dev/null || rm -rf "$new" # another run was faster
	fi
	echo "$dir"
}
