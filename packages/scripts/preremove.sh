#!/bin/sh
# On removal everything ends; an upgrade (deb: "upgrade", rpm: 1) ends nothing.
set -e
case "${1:-}" in remove | 0) ;; *) exit 0 ;; esac
rm -f /usr/lib/systemd/system/wattle-*.d/50-systemd-*.conf
find /usr/lib/systemd/system -maxdepth 1 -name 'wattle-*.d' -empty -delete
[ -d /run/systemd/system ] || exit 0
systemctl --quiet disable wattle.target wattle-agent.service wattle-agent.socket wattle-server.service wattle-server.socket || :
systemctl stop 'wattle-workload@*.service' || : # they need the agent
systemctl stop wattle.target wattle-agent.socket wattle-agent.service wattle-server.socket wattle-server.service || :
/usr/bin/wattle capture remove || :
systemctl stop 'wattle-envoy@*.service' wattle-dns.service wattle-proxies.slice wattle.slice 'system-wattle*.slice' || :
