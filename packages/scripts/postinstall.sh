#!/bin/sh
# Server, agent and resolver go over to the new version, if they run; Envoys run on untouched.
set -e

# What only newer systemds know is linked to where the one that is installed reads it.
units=/usr/lib/systemd/system
version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
rm -f "$units"/wattle-*.d/50-systemd-*.conf
for file in /usr/share/wattle/systemd/*/*/*.conf; do
	folder=${file%/*}
	since=${folder%/*}
	if [ "${version:-0}" -ge "${since##*/}" ]; then
		mkdir -p "$units/${folder##*/}"
		ln -sf "$file" "$units/${folder##*/}/"
	fi
done

[ -d /run/systemd/system ] || exit 0
systemd-tmpfiles --create wattle.conf
systemctl daemon-reload
systemctl try-restart wattle-server.service wattle-agent.service wattle-dns.service || :
