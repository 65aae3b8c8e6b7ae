#!/usr/bin/env bash
# Makes the root file system of the lab's hosts, a minimal Debian with systemd, and links it as .bin/labroot. It is made once
# for a version of this file, in the cache. Needs root; what is missing to make and boot it is installed with apt-get.
set -euo pipefail

suite=bookworm
packages=systemd,systemd-sysv,dbus,nftables,iproute2,systemd-resolved,curl,ca-certificates,procps
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wattle
root=$cache/labroot-$suite-$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-12)

[[ $EUID == 0 ]] || { echo "labroot: the lab boots hosts, which needs root" >&2; exit 1; }
missing=()
for tool in debootstrap:debootstrap systemd-nspawn:systemd-container ip:iproute2 nsenter:util-linux mkfs.ext4:e2fsprogs rpm:rpm; do
	command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
if ((${#missing[@]})); then
	echo "labroot: installing ${missing[*]}"
	apt-get update -qq || true # what cannot be reached is said; the installation decides
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [[ ! -d $root ]]; then
	mkdir -p "$cache"
	tmp=$(mktemp -d "$cache/fetch-labroot.XXXXXX")
	# shellcheck disable=SC2064 # tmp is gone when the trap runs
	trap "rm -rf '$tmp'" EXIT
	echo "labroot: making a Debian $suite in $cache, which takes a minute or two"
	debootstrap --variant=minbase --include="$packages" "$suite" "$tmp/root" >"$tmp/log" 2>&1 || { tail -n 20 "$tmp/log" >&2; exit 1; }
	rm -rf "$tmp"/root/var/cache/apt/archives/*.deb "$tmp"/root/etc/machine-id
	mv -T "$tmp/root" "$root" 2>/dev/null || [[ -d $root ]] # another run was first
fi
mkdir -p "$here/../.bin"
ln -s "$root" "$here/../.bin/labroot.$$"
mv -Tf "$here/../.bin/labroot.$$" "$here/../.bin/labroot"
echo "labroot: .bin/labroot is $root"
