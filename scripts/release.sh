#!/usr/bin/env bash
# Makes a release on this machine: tags, and programs for Linux in dist/. Pushes nothing: it ends with the command that
# does.
#
#   scripts/release.sh v1.2.3 [--checked]
#
# It wants a clean tree on main whose CHANGELOG.md has a section "## v1.2.3 - YYYY-MM-DD", and runs .ci/run, or is told by
# --checked that it has passed for this very commit.
#
# The programs' go.mod replace proto by the folder beside them, and Go refuses to `go install` a module that does. So
# v1.2.3 and proto/v1.2.3 are tags of main's commit, and tunnel-acceptor/v1.2.3 and mcp-frontend/v1.2.3 of one commit after
# it, on no branch, in which they require proto v1.2.3 in place of the folder. The programs in dist/ are what
# `go install` makes of these tags, byte for byte.
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/mcp-ssh-gateway/mcp-ssh-gateway
programs=(tunnel-acceptor mcp-frontend)
version=${1:-}
tags=("$version" "proto/$version" "${programs[0]}/$version" "${programs[1]}/$version")
made=() # tags, which a failure takes back
here=$PWD
work=$(mktemp -d)
tree=$work/tree

main() {
	can_be_released "$@"
	[ "${2:-}" = --checked ] || .ci/run
	still_clean

	tag "$version" HEAD
	tag "proto/$version" HEAD
	commit_without_replace
	local program
	for program in "${programs[@]}"; do tag "$program/$version" "$(git -C "$tree" rev-parse HEAD)"; done
	build
	made=()
	echo "release: dist/ holds $version:"
	sed 's/^/  /' dist/SHA256SUMS
	echo "release: nothing was pushed; this does it:"
	echo "git push --atomic origin main ${tags[*]}"
}

can_be_released() {
	[[ $# -le 2 && ${2:---checked} == --checked ]] || die "usage: scripts/release.sh v1.2.3 [--checked]"
	# From v2 on, Go wants the major version in the modules' paths.
	[[ $version =~ ^v[01]\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$ ]] || die "'$version' is no version such as v1.2.3, or needs a new module path"
	[ "$(git symbolic-ref -q --short HEAD)" = main ] || die "this is not the branch main"
	still_clean
	local name
	for name in "${tags[@]}"; do
		! git rev-parse -q --verify "refs/tags/$name" >/dev/null || die "the tag $name exists already"
	done
	[[ $(section "$version - [0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]") == *[![:space:]]* ]] ||
		die "CHANGELOG.md has no section '## $version - YYYY-MM-DD' that says something"
	[[ $(section Unreleased) != *[![:space:]]* ]] || die "CHANGELOG.md still has something under Unreleased"
}

# The text below a heading of CHANGELOG.md, of which $1 is a regular expression.
section() {
	awk -v heading="^## ${1//./\\.}\$" '/^## / {inside = $0 ~ heading; next} inside' CHANGELOG.md
}

still_clean() {
	local changes
	changes=$(git status --porcelain)
	[ -z "$changes" ] || die "the tree is not clean: $changes"
}

tag() { # NAME COMMIT
	git tag -a -m "$version" "$1" "$2"
	made+=("$1")
}

commit_without_replace() {
	local program
	git worktree add -q --detach "$tree" HEAD
	for program in "${programs[@]}"; do
		(
			cd "$tree/$program"
			from_here go mod edit "-dropreplace=$module/proto" "-require=$module/proto@$version"
			from_here go mod tidy
		)
		! grep -q '^replace' "$tree/$program/go.mod" || die "$program/go.mod still replaces something"
	done
	git -C "$tree" commit -q -a -m "release: require proto $version

Go does not install a module whose go.mod replaces another."
}

build() {
	local program arch file
	rm -rf dist
	mkdir dist
	for arch in amd64 arm64; do
		for program in "${programs[@]}"; do
			file=dist/${program}_${version}_linux_$arch
			# With GOBIN set, Go refuses to install for another architecture. A GOPATH per program and architecture.
			from_here env GOBIN= GOPATH="$work/$arch" GOOS=linux GOARCH=$arch CGO_ENABLED=0 \
				go install -trimpath -ldflags "-s -w" "$module/$program/cmd/$program@$version"
			find "$work/$arch/bin" -type f -name "$program" -exec cp {} "$file" \;
			# What is inside: Go's version, each module's version and hash, the settings.
			go version -m "$file" | sed "1s|.*: |${file#dist/}: |" >"$file.sbom.txt"
		done
	done
	(cd dist && sha256sum -- * >../dist.sums && mv ../dist.sums SHA256SUMS)
}

# Runs a command in whose eyes our repository on GitHub is this one, with a module cache of its own: the tags may yet
# be taken back, and a module cache never forgets.
from_here() {
	env GOWORK=off GOFLAGS=-modcacherw GOPRIVATE=$module GOMODCACHE="$work/modules" \
		GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)" \
		GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$here.insteadOf" GIT_CONFIG_VALUE_0="https://$module" "$@"
}

die() {
	echo "release: $1" >&2
	exit 1
}

clean_up() {
	local status=$?
	[ ! -d "$tree" ] || git worktree remove --force "$tree"
	[ ${#made[@]} = 0 ] || git tag -d "${made[@]}" >/dev/null
	rm -rf "$work"
	exit $status
}
trap clean_up EXIT

main "$@"
