#!/bin/sh
# What packages do not own goes too: on purge (deb), or on removal (rpm, which knows no purge, keeps state and configuration).
set -e
case "${1:-}" in
purge)
	rm -rf /var/lib/wattle /etc/wattle
	if getent passwd wattle >/dev/null; then userdel wattle; fi
	for g in wattle wattle-proxy; do
		if getent group "$g" >/dev/null; then groupdel "$g"; fi
	done
	;;
remove | 0) ;;
*) exit 0 ;;
esac
rm -rf /run/wattle /run/wattle-envoy
rm -rf /run/systemd/system/wattle-* /run/systemd/system.control/wattle-*
for f in /etc/systemd/system/*.d/60-wattle.conf; do # the agent's, for units of workloads
	rm -f "$f"
	rmdir --ignore-fail-on-non-empty "${f%/*}" 2>/dev/null || :
done
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl reset-failed 'wattle*' 2>/dev/null || :
fi
