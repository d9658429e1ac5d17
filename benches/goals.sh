#!/usr/bin/env bash
# What we aim at, each figure beside its reference in the same run, as rows of a table. On an idle
# machine; some five minutes, and SIZES gigabytes of disk. Needs fio, gnuplot, jq and wrk. Loopback only. What does
# not depend on how much is sealed is plotted, too: benches/startup.svg.
#   benches/goals.sh [seconds for each run] [sealed sizes in GB]…
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-4}
shift $(($# < 1 ? $# : 1))
sizes=(${@:-1 4 16})
cargo build --release --quiet
trialog=${CARGO_TARGET_DIR:-target}/release/trialog
dir=$(mktemp -d) server=
trap '[ -z "$server" ] || kill -9 $server 2>/dev/null; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cat >"$dir/entry" <<'JSON'
{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}
JSON

row() { printf '| %s | %s | %s | %s | %s |\n' "$@"; }
# bench FILTER ARGS…: what a run of `trialog bench` says
bench() {
  local filter=$1; shift
  "$trialog" bench --duration "$seconds" --warm-up 1 --dir "$dir" --json "$dir/json" "$@" >/dev/null 2>"$dir/words" ||
    { cat "$dir/words" >&2; return 1; }
  jq -r "$filter" "$dir/json"
}
of() { awk "BEGIN{printf \"%.${3:-2}f\", $1 / $2}"; }
# start FLAGS…: a server on $dir/store; says after how many milliseconds it was ready
start() {
  local begun=$(date +%s%N)
  : >"$dir/log"
  "$trialog" serve --data "$dir/store" --listen 127.0.0.1:0 "$@" >/dev/null 2>"$dir/log" & server=$!
  until url=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log") && [ "$url" != http:// ] &&
    curl -sf -o /dev/null "$url/ready"; do sleep 0.005; done
  ready_ms=$((($(date +%s%N) - begun) / 1000000))
  key=$(cat "$dir/store/admin.key")
}
stop() { kill "$1" $server; wait $server 2>/dev/null || true; server=; }
# ask PATH: the median in microseconds of GETs on one connection, and of the constant answer's
ask() {
  wrk -t1 -c1 -d2s --latency -H "x-api-key: $key" "$url$1" |
    awk '/ 50%/ {v = $2; print v ~ /ms/ ? v * 1000 : v + 0}'
}

row what goal reached figure reference
row --- --- --- --- ---
read -r raw < <(bench '.results[1].latencyUs.p50' --clients 1 --against fdatasync)
read -r one noop < <(bench '[.results[].latencyUs.p50] | @tsv' --clients 1 --entry "$dir/entry" --against noop)
sum=$(awk "BEGIN{print $raw + $noop}")
row 'one client, median' '≤ 1.25' "$(of "$one" "$sum")" "$one µs" "fdatasync $raw µs + noop $noop µs"
for clients in 64 256; do
  read -r ratio t n < <(bench '[.ratio.median, .results[].entriesPerSecond] | @tsv' \
    --clients $clients --entry "$dir/entry" --against noop)
  goal=$([ $clients = 64 ] && echo 0.80 || echo 0.85)
  row "one experiment, $clients clients" "≥ $goal" "$(of "$ratio" 1)" "$(of "$t" 1 0)/s" "noop $(of "$n" 1 0)/s"
done
read -r ratio t n < <(bench '[.ratio.median, .results[].entriesPerSecond] | @tsv' \
  --clients 64 --entry "$dir/entry" --against noop -- --durability relaxed)
row 'relaxed, 64 clients' '≥ 0.90' "$(of "$ratio" 1)" "$(of "$t" 1 0)/s" "noop $(of "$n" 1 0)/s"
for experiments in 1000 10000; do
  read -r o op < <(bench '.results[0] | [.entriesPerSecond, .latencyUs.p99] | @tsv' --clients 256 --entry "$dir/entry")
  read -r m mp < <(bench '.results[0] | [.entriesPerSecond, .latencyUs.p99] | @tsv' --clients 256 --entry "$dir/entry" \
    --experiments $experiments)
  goal=$([ $experiments = 1000 ] && echo 0.95 || echo 0.90)
  row "$experiments experiments, 256 clients" "≥ $goal" "$(of "$m" "$o")" "$(of "$m" 1 0)/s, p99 $mp µs" \
    "one experiment $(of "$o" 1 0)/s, p99 $op µs"
done
read -r bytes entries < <(bench '[.results[0].entriesPerSecond * .entryBytesMean, .results[0].entriesPerSecond] | @tsv' \
  --clients 4 --batch 1000)
disk=$(fio --name=w --directory="$dir" --rw=write --bs=1M --size=1G --end_fsync=1 --output-format=json |
  jq '.jobs[0].write.bw_bytes')
rm -f "$dir"/w.*
row 'batches of 1,000, 4 clients' '≥ 0.80' "$(of "$bytes" "$disk")" "$(of "$bytes" 1e6 0) MB/s, $(of "$entries" 1 0) entries/s" \
  "fio $(of "$disk" 1e6 0) MB/s"

start --segment-bytes 8388608 --journal-bytes 8388608
load() { bench "$1" --server "$url" --api-key "$key" --create --experiment load "${@:2}"; }
most=$(load '.results[0].entriesPerSecond' --clients 64)
while curl -sf -o /dev/null -H "x-api-key: $key" "$url/experiment/load/logs?limit=200"; do sleep 0.05; done & queries=$!
p999=$(load '.results[0].latencyUs["p99.9"]' --clients 256 --rate "$(of "$most" 2 0)")
kill $queries; wait $queries 2>/dev/null || true
row 'p99.9 at half of the load, with checkpoints, seals, queries' '≤ 10' "$(of "$p999" "$raw")" "$p999 µs" "fdatasync $raw µs"
stop -TERM; rm -rf "$dir/store"

start
bytes=0
for gigabytes in "${sizes[@]}"; do
  while ((bytes < gigabytes * 1000000000)); do
    load '.settings.batch' --clients 4 --batch 1000 >/dev/null
    bytes=$(du -sb "$dir/store/experiments" | cut -f1)
  done
  entries=$(curl -sf -H "x-api-key: $key" "$url/experiment/load" | jq .count)
  stop -TERM; start; clean=$ready_ms
  load '.settings.batch' --clients 64 >/dev/null 2>&1 & loading=$!
  sleep 2; stop -KILL; wait $loading 2>/dev/null || true
  start
  id=$(curl -sf -H "x-api-key: $key" "$url/experiment/load/logs?limit=1" | jq -r '.logs[0].logId')
  curl -sf -o /dev/null -H "x-api-key: $key" "$url/experiment/load/stats"
  row "ready, $gigabytes GB sealed ($entries entries)" '≤ 1000, ≤ 2000 ms' "$clean, $ready_ms ms" 'after a clean end, after kill -9' ''
  by_id=$(($(ask "/experiment/load/log/$id" | cut -d. -f1) - $(ask /health | cut -d. -f1))) stats=$(ask /experiment/load/stats)
  row "one entry by id, $gigabytes GB" '≤ 50 µs' "$by_id µs" 'beyond a request of /health' ''
  row "/stats, $gigabytes GB" '≤ 1000 µs' "$stats µs" 'with HTTP, the second time' ''
  echo "$gigabytes $clean $ready_ms $by_id $stats" >>"$dir/startup"
done
stop -TERM
replay() { "$trialog" replay "$dir/store" --experiment load; }
out=$(replay | wc -c)
to_null() { replay >/dev/null; }
to_pipe() { replay | wc -c >/dev/null; }
for where in null pipe; do
  begun=$(date +%s%N)
  to_$where
  took=$(of "$(($(date +%s%N) - begun))" 1e9)
  row "replay to $where, ${sizes[-1]} GB" '≥ 1 GB/s' "$(of "$out" "($took * 1e9)") GB/s" "$(of "$out" 1e9) GB in $took s" ''
done
gnuplot <<PLOT
set terminal svg size 800,400 background "white"
set output "benches/startup.svg"
set xlabel "GB sealed"
set xrange [0:*]
set grid
set multiplot layout 1,2
set key bottom right
set title "until ready"
set ylabel "ms"
set yrange [0:2000]
plot "$dir/startup" using 1:2 with linespoints title "after a clean end", "" using 1:3 with linespoints title "after kill -9"
set title "median of one client"
set ylabel "µs"
set yrange [0:1000]
plot "$dir/startup" using 1:4 with linespoints title "one entry by id", "" using 1:5 with linespoints title "/stats, with HTTP"
PLOT
