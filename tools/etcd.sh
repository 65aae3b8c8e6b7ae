#!/usr/bin/env bash
# Links etcd's server, for tests, as .bin/etcd: $ETCD if that is set, else an etcd of 3.4 or later on the PATH, else
# the one in the cache. Debian's package is unpacked there once; nothing is installed. Several runs at once do not
# disturb each other.
set -euo pipefail

least=3.4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
link=$here/../.bin/etcd
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wattle

say() { echo "etcd: $*"; }
die() { echo "etcd: $*" >&2; exit 1; }

# version FILE: prints the version of an etcd server, nothing if it is none.
version() { "$1" --version 2>/dev/null | sed -n 's/^etcd Version: //p' || true; }

# right FILE: whether FILE is an etcd server of a sufficient version.
right() {
	local v
	[[ -x $1 ]] && v=$(version "$1") && [[ $v =~ ^3\.[0-9]+\.[0-9]+ ]] &&
		[[ $(printf '%s\n' "$least" "$v" | sort -V | head -n 1) == "$least" ]]
}

# place FILE: makes the link in one step.
place() {
	mkdir -p "$(dirname "$link")"
	ln -s "$1" "$link.$$"
	mv -Tf "$link.$$" "$link"
}

# cached: prints the newest one in the cache.
cached() {
	local file
	while read -r file; do
		right "$file" && { echo "$file"; return; }
	done < <(printf '%s\n' "$cache"/etcd-*/etcd | sort -rV)
	return 1
}

# fetch: puts the binary in the cache, whole or not at all.
fetch() {
	local tmp v other="or set ETCD to an etcd $least or later"
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || die "apt-get and dpkg-deb are needed to fetch it; $other"
	mkdir -p "$cache"
	tmp=$(mktemp -d "$cache/fetch-etcd.XXXXXX")
	# shellcheck disable=SC2064 # tmp is gone when the trap runs
	trap "rm -rf '$tmp'" EXIT
	say "fetching Debian's etcd-server into $cache; it is not installed"
	if ! (cd "$tmp" && apt-get download -qq etcd-server) 2>/dev/null; then
		if [[ $EUID == 0 ]]; then
			say "updating the package lists: a new machine has none"
			apt-get update -qq || true # what cannot be reached is said; the download decides
		fi
		(cd "$tmp" && apt-get download -qq etcd-server) || die "apt-get could not fetch it, see above; $other"
	fi
	dpkg-deb -x "$tmp"/etcd-server_*.deb "$tmp/content"
	right "$tmp/content/usr/bin/etcd" || die "what the package holds does not run here as etcd $least or later; $other"
	v=$(version "$tmp/content/usr/bin/etcd")
	mkdir "$tmp/done"
	install -m 755 "$tmp/content/usr/bin/etcd" "$tmp/done/etcd"
	mv -T "$tmp/done" "$cache/etcd-$v" 2>/dev/null || right "$cache/etcd-$v/etcd" || # another run was first
		die "$cache/etcd-$v is in the way: remove it and try again"
}

if [[ -n ${ETCD:-} ]]; then
	path=$(command -v "$ETCD") || die "ETCD=$ETCD is no program"
	path=$(realpath "$path")
	right "$path" || die "ETCD=$ETCD is no etcd of $least or later; unset ETCD to fetch one"
	place "$path"
	say ".bin/etcd is \$ETCD, $path"
	exit
fi
if right "$link"; then
	say ".bin/etcd is $(realpath "$link") ($(version "$link"))"
	exit
fi
path=$(command -v etcd || true)
if [[ -n $path ]] && right "$(realpath "$path")"; then
	path=$(realpath "$path")
else
	cached >/dev/null || fetch
	path=$(cached)
fi
place "$path"
say ".bin/etcd is $path ($(version "$path"))"
