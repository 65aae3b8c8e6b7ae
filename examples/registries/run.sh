#!/usr/bin/env bash
# Runs the demo in the foreground until Ctrl-C: three registries and a name server, what is registered in them, and the mesh.
# Everything listens on loopback addresses; nothing is left behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=examples/registries
unset AWS_CA_BUNDLE # Nomad's fingerprinting fails with it
((EUID == 0)) || { echo "Nomad's client needs root: sudo make demo-registries" >&2; exit 1; }
work=$(mktemp -d)
export TMPDIR=$work # what the others keep goes with it

nomad=http://127.0.2.2:4646
cgroups=$(ls -d /sys/fs/cgroup/nomad* /sys/fs/cgroup/*/nomad 2>/dev/null || true) # of another Nomad: they stay

# stop ends all, Nomad's job before Nomad: a Nomad that ends leaves its tasks behind.
stop() {
	trap '' INT TERM EXIT
	timeout 20 .bin/nomad job stop -address "$nomad" -purge reviews >/dev/null 2>&1 || true
	local i
	for ((i = 0; i < 100; i++)); do
		pgrep -f "$work/.*/executor.out" >/dev/null || break
		sleep 0.1
	done
	kill $(jobs -p) 2>/dev/null || true
	[[ ! -f $work/consul.pid ]] || kill -CONT "$(cat "$work/consul.pid")" 2>/dev/null || true # it may hang on purpose
	wait
	grep -o " $work/[^ ]*" /proc/mounts | xargs -r umount || true
	rm -rf "$work" 2>/dev/null || { sleep 1; rm -rf "$work"; }
	for i in /sys/fs/cgroup/nomad* /sys/fs/cgroup/*/nomad; do
		[[ ! -d $i || " $cgroups " == *"$i"* ]] || find "$i" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
}
trap stop EXIT
trap 'exit 130' INT TERM

# start runs a program in the background, in a session of its own: a terminal's Ctrl-C is for this script alone, which ends all
# in order. Its output is kept for when it fails.
start() {
	local name=$1
	shift
	setsid "$@" >"$work/$name.log" 2>&1 </dev/null &
}

# until_it waits until a command succeeds, for a minute.
until_it() {
	local what=$1 i
	shift
	for ((i = 0; i < 600; i++)); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	echo "waited a minute for $what; what was printed:" >&2
	tail -n 5 "$work"/*.log >&2
	exit 1
}

# consul runs in memory, and starts again with an empty catalog when it ends.
consul() {
	trap 'kill "$pid"; wait "$pid"; exit' TERM
	while true; do
		.bin/consul agent -dev -bind 127.0.2.1 -client 127.0.2.1 -log-level warn -disable-host-node-id &
		pid=$!
		echo "$pid" >"$work/consul.pid"
		wait "$pid" || true
		sleep 2 &
		wait $!
	done
}

echo "starting Consul, Nomad, etcd and a name server"
export work
export -f consul
start consul bash -c consul
start nomad .bin/nomad agent -dev -config "$here/nomad/agent.json"
start etcd .bin/etcd --data-dir "$work/etcd" --listen-client-urls http://127.0.2.3:2379 --advertise-client-urls http://127.0.2.3:2379 \
	--listen-peer-urls http://127.0.2.3:2380 --initial-advertise-peer-urls http://127.0.2.3:2380 --initial-cluster default=http://127.0.2.3:2380
start dns bin/demo-dns -zone "$here/dns/demo.example.zone" -listen 127.0.2.4:5353

app() { start "$1-$2" bin/bookinfo -service "$1" -version "$2" -host "$3" -listen "$4:9080" -upstream ratings=127.0.1.3:9081; }
app reviews v1 consul 127.0.3.1
app reviews v3 etcd 127.0.3.3
app ratings v1 dns 127.0.3.4
app details v1 h2 127.0.1.2

echo "starting the mesh"
start wattle bin/wattle dev -http 127.0.0.1:7500 -agents 127.0.0.1:7501 -registries "$here/registries.hcl" "$here/mesh"
until_it "the mesh" grep -q "ready in" "$work/wattle.log"
socket=$(echo "$work"/wattle-dev-*/h2/run/agent.sock)
token=$(echo "$work"/wattle-dev-*/server/admin.token)

echo "registering reviews v1 in Consul, v2 as a Nomad job, v3 in etcd, and details at its agent; ratings is in the DNS"
until_it "Consul" .bin/consul services register -http-addr http://127.0.2.1:8500 -id reviews-v1 -name reviews -address 127.0.3.1 -port 9080 -meta version=v1
until_it "Nomad" bash -c ".bin/nomad node status -address http://127.0.2.2:4646 | grep -q ready"
until_it "Nomad's job" .bin/nomad job run -address http://127.0.2.2:4646 -detach -var "app=$PWD/bin/bookinfo" "$here/nomad/reviews.nomad"
bin/wattle service register -registry etcd -endpoint http://127.0.2.3:2379 -name reviews -instance v3 -address 127.0.3.3 -port 9080 -meta version=v3
bin/wattle service register -socket "$socket" -name details -port 9080 -local 127.0.1.2:9080 -meta version=v1 -check http=/healthz
page() { curl -sf -H 'Accept: application/json' http://127.0.0.1:8080/productpage; }
sees() { page | grep -q "\"service\":\"reviews\",\"version\":\"$1\""; }
for version in v1 v2 v3; do until_it "reviews $version on the page" sees "$version"; done

cat <<TEXT

The page is at http://127.0.0.1:8080/productpage, from five registries and a file. Try in another terminal:

  bin/wattle catalog describe reviews        three sources
  bin/wattle registry status
  kill -STOP \$(cat $work/consul.pid)         Consul hangs: within 20 s its registry is stale, nothing fails; kill -CONT ends that
  kill \$(cat $work/consul.pid)               Consul comes back and has forgotten all: reviews v1 is held
  export WATTLE_TOKEN_FILE=$token
  bin/wattle registry accept consul          then it is meant: reviews v1 goes

Ctrl-C ends everything.
TEXT
wait -n
