#!/usr/bin/env bash
# Makes a release of this tree in a scratch repository, pushes it to a bare one by the command that release.sh prints,
# and installs both programs from its tags as a user does. Nothing leaves the machine; Go's module proxy is asked for
# the dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."

module=github.com/mcp-ssh-gateway/mcp-ssh-gateway
version=v0.0.7
work=$(mktemp -d)
source=$PWD
downloaded=$(go env GOMODCACHE)
repo=$work/repo
checks=0
export GOFLAGS=-modcacherw
# Git takes no settings and no hooks of this machine.
export GIT_CONFIG_GLOBAL=$work/gitconfig GIT_CONFIG_NOSYSTEM=1

main() {
	scratch_repository
	refusals
	release
	installs
	echo "release-test: $checks checks passed in $SECONDS s"
}

# What is here, committed or not, is main's only commit.
scratch_repository() {
	printf '[user]\n\tname = Release Test\n\temail = release@test.invalid\n' >"$GIT_CONFIG_GLOBAL"
	git init -q -b main "$repo"
	git -C "$source" ls-files -z --cached --others --exclude-standard |
		tar -C "$source" -c --null --ignore-failed-read -T - -f - 2>/dev/null | tar -x -C "$repo" # without those deleted here
	cd "$repo"
	git add -A
	git commit -q -m "everything"
}

refusals() {
	refuses "is no version" 0.0.7
	refuses "is no version" v2.0.0
	refuses "usage:" $version --force
	refuses "no section" $version
	# Before a release, what stands under Unreleased moves below the version's heading.
	sed -i "s/^## Unreleased\$/&\n\n## $version - 2026-01-02/" CHANGELOG.md
	refuses "not clean" $version
	git commit -q -a -m "changelog: $version"
	sed -i "s/^## Unreleased\$/&\n\n- One more thing./" CHANGELOG.md
	git commit -q -a -m "one more thing"
	refuses "under Unreleased" $version
	git reset -q --hard HEAD^
	git switch -q -c another
	refuses "not the branch main" $version
	git switch -q main
	git branch -q -D another
	git tag tunnel-acceptor/$version
	refuses "tunnel-acceptor/$version exists" $version
	git tag -d tunnel-acceptor/$version >/dev/null
	# CI that fails ends the release.
	printf '#!/bin/sh\necho CI says no\nexit 1\n' >.ci/run
	git commit -q -a -m "CI fails"
	refuses "CI says no" $version
	git reset -q --hard HEAD^
	# A release that fails half way takes its tags back.
	sed -i 's|^go 1.*|&\nbroken|' mcp-frontend/go.mod
	git commit -q -a -m "a module that cannot be read"
	refuses "broken" $version --checked
	git reset -q --hard HEAD^
	ok "release.sh refuses other versions, branches, changelogs, unclean trees, tags that exist and commits that fail, and leaves nothing behind"
}

refuses() { # TEXT ARGUMENT…
	local text=$1 said
	shift
	if said=$(scripts/release.sh "$@" 2>&1); then die "release.sh $* succeeded: $said"; fi
	[[ $said == *"$text"* ]] || die "release.sh $*: it does not say '$text' but: $said"
	[[ -n $(git tag -l "tunnel-acceptor/$version") && $text == *exists ]] || [ -z "$(git tag -l)" ] || die "release.sh $* left tags: $(git tag -l)"
	[ "$(git worktree list | wc -l)" = 1 ] || die "release.sh $* left a worktree: $(git worktree list)"
	[ ! -e dist ] || die "release.sh $* left dist/"
}

release() {
	local before program
	before=$(git rev-parse main)
	scripts/release.sh $version --checked >"$work/release.log" 2>&1 || die "release.sh: $(cat "$work/release.log")"
	[ "$(git rev-parse main)" = "$before" ] || die "the release moved main"
	[ -z "$(git status --porcelain)" ] || die "the release left the tree unclean: $(git status --porcelain)"
	[ "$(git rev-parse "$version^{commit}" "proto/$version^{commit}" | uniq)" = "$before" ] || die "$version or proto/$version is not main's commit"
	for program in tunnel-acceptor mcp-frontend; do
		[ "$(git rev-parse "$program/$version^{commit}^")" = "$before" ] || die "$program/$version is not one commit after main"
		! git show "$program/$version:$program/go.mod" | grep -q '^replace' || die "$program/$version has a replace"
	done
	[ "$(git diff --name-only $version tunnel-acceptor/$version | sort | tr '\n' ' ')" = "mcp-frontend/go.mod mcp-frontend/go.sum tunnel-acceptor/go.mod tunnel-acceptor/go.sum " ] ||
		die "the commit without replace changes other files: $(git diff --name-only $version tunnel-acceptor/$version)"
	ok "main's commit has the tags $version and proto/$version, and only go.mod and go.sum differ in the programs'"

	(cd dist && sha256sum --quiet -c SHA256SUMS) || die "dist/SHA256SUMS is wrong"
	for program in tunnel-acceptor mcp-frontend; do
		for arch in amd64 arm64; do
			grep -q "	build	GOARCH=$arch" "dist/${program}_${version}_linux_$arch.sbom.txt" || die "dist/ has no $program for $arch"
			grep -q "	dep	$module/proto	$version	h1:" "dist/${program}_${version}_linux_$arch.sbom.txt" || die "the SBOM of $program does not name proto $version"
		done
	done
	ok "dist/ holds both programs for both architectures, their hashes, and what is in them"

	git init -q --bare "$work/remote.git"
	git remote add origin "$work/remote.git"
	eval "$(tail -n 1 "$work/release.log")" 2>"$work/push.log" || die "the printed command does not push: $(cat "$work/push.log")"
	[ "$(git -C "$work/remote.git" tag | wc -l)" = 4 ] || die "pushed were: $(git -C "$work/remote.git" tag)"
	ok "the command that release.sh prints pushes main and the four tags"
}

installs() {
	local program said dir=$work/user
	for program in tunnel-acceptor mcp-frontend; do
		# As in the README, with the repository on GitHub replaced by the bare one.
		(
			cd /
			export GOWORK=off GOPRIVATE=$module GOPATH=$dir GOMODCACHE=$dir/modules GOBIN=$dir/bin
			GOPROXY="file://$downloaded/cache/download,$(go env GOPROXY)"
			export GOPROXY
			git config --global "url.file://$work/remote.git.insteadOf" "https://$module"
			CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "$module/$program/cmd/$program@$version"
			[ "$(go list -m -f '{{.Version}}' "$module/$program@latest")" = $version ] || echo "it is not the latest version" >&2
		) >"$work/install.log" 2>&1 || die "go install $program: $(cat "$work/install.log")"
		if grep -v '^go: downloading' "$work/install.log"; then die "go install $program says more than what it downloads, see above"; fi
		said=$("$dir/bin/$program" --version)
		[ "$said" = "$program $version" ] || die "$program --version says '$said'"
		if [ "$(go env GOHOSTARCH)" = amd64 ]; then
			cmp "$dir/bin/$program" "dist/${program}_${version}_linux_amd64" || die "go install made another $program than dist/ holds"
		fi
		ok "go install $module/$program/cmd/$program@$version makes the program of dist/, which says $version"
	done

	mkdir "$work/data"
	echo '[]' >"$work/data/connections.json"
	said=$(printf '%s\n' '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "release-test", "version": "1"}}}' |
		"$dir/bin/mcp-frontend" stdio --connections "$work/data/connections.json" --acceptor-dir '' 2>"$work/stdio.log")
	[[ $said == *"\"version\":\"$version\""* ]] || die "MCP's initialize does not say $version: $said $(cat "$work/stdio.log")"
	ok "the installed frontend tells MCP clients its version"
}

ok() {
	checks=$((checks + 1))
	echo "ok: $1"
}

die() {
	echo "release-test: $1" >&2
	exit 1
}

trap 'rm -rf "$work"' EXIT
main
