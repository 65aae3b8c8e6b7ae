#!/bin/sh
# The user and group that own files of the package, as systemd/sysusers.d says.
set -e
getent group wattle-proxy >/dev/null || groupadd --system wattle-proxy
getent group wattle >/dev/null || groupadd --system wattle
getent passwd wattle >/dev/null ||
	useradd --system --gid wattle --home-dir /var/lib/wattle --no-create-home --shell /usr/sbin/nologin --comment "Wattle control plane" wattle
