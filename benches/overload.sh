#!/usr/bin/env bash
# What a server does with ten times what it can take, and what a good client gets beside bad ones, as rows of
# a table. The disk is slow on purpose (each sync of the journal takes 20 ms longer, by a preloaded library), and
# few requests may be worked on at once: so ten times its rate can be sent from the same machine. On an idle
# machine. Needs cc, jq, python3 and wrk. Loopback only.
#   benches/overload.sh [seconds of overload] [seconds of each abuse]
set -euo pipefail
cd "$(dirname "$0")/.."
overload_seconds=${1:-120} abuse_seconds=${2:-10}
requests=48
cargo build --release --quiet
trialog=${CARGO_TARGET_DIR:-target}/release/trialog
dir=$(mktemp -d) pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

row() { printf '| %s | %s | %s | %s |\n' "$@"; }
of() { awk "BEGIN{printf \"%.${3:-2}f\", $1 / $2}"; }
peak_mb() { awk '/^VmHWM/ {printf "%d", $2 / 1024}' "/proc/$1/status"; }
# start STORE FLAGS…: a server; sets url, key and server
start() {
  local store=$1; shift
  : >"$dir/log"
  "$trialog" serve --data "$store" --listen 127.0.0.1:0 "$@" >/dev/null 2>"$dir/log" & server=$!
  pids+=($server)
  until url=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log") && [ "$url" != http:// ] &&
    curl -sf -o /dev/null "$url/ready"; do sleep 0.01; done
  key=$(cat "$store/admin.key")
}

cc -shared -fPIC -O1 -o "$dir/shim.so" tests/it/faults/shim.c
touch "$dir/armed"
export SHIM_ARMED=$dir/armed SHIM_CALL=fdatasync SHIM_PATH=.journal SHIM_DO=delay
LD_PRELOAD=$dir/shim.so start "$dir/slow" --max-requests $requests
load() { # load FILTER ARGS…: what a run of `trialog bench` says
  "$trialog" bench --server "$url" --api-key "$key" --create --experiment load --warm-up 1 --json "$dir/json" "${@:2}" \
    >/dev/null 2>"$dir/words" || { cat "$dir/words" >&2; return 1; }
  jq -r "$1" "$dir/json"
}
row what goal trialog 'beside it'
row --- --- --- ---
most=$(load '.results[0].entriesPerSecond | floor' --clients $((requests - 1)) --duration 5)
unloaded=$(load '.results[0].latencyUs.p99 | floor' --rate $((most / 10)) --clients 256 --duration 10)
read -r accepted p99 refused unsent good < <(load '[(.results[0].entriesPerSecond | floor),
  (.results[0].latencyUs.p99 | floor), (.results[0].errors.overloaded // 0), .results[0].unsent,
  (.check | .lost + .doubled + .changed // 0)] | @tsv' \
  --rate $((most * 10)) --clients 256 --duration "$overload_seconds" --check)
row "p99 of what is accepted at 10 times the load, $overload_seconds s" '≤ 5' "$(of "$p99" "$unloaded")" \
  "$p99 µs; $unloaded µs at a tenth of the load"
row 'accepted meanwhile' '' "$accepted/s" "$most/s without overload; $refused refused with 503, $unsent not sent in time"
row 'acknowledged and not there' 0 "$good" 'counts and 256 entries, through the API'
row 'memory at its highest' '' "$(peak_mb $server) MB" "$requests requests at once"
kill -TERM $server; wait $server || true

start "$dir/fast"
cat >"$dir/good.lua" <<LUA
wrk.method = "POST"
wrk.headers["x-api-key"] = "$key"
wrk.body = [[{"variantKey":"A","metrics":{"latency_ms":123}}]]
LUA
rate() { wrk -t1 -c8 -d"${abuse_seconds}s" -s "$dir/good.lua" "$url/experiment/demo/log" | sed -n 's/^Requests.sec: *\([0-9]*\).*/\1/p'; }
rate >/dev/null
for abuse in idle slow_heads slow_bodies huge_heads gzip_bombs pipelining random_bytes rapid_reset continuations; do
  alone=$(rate)
  timeout $((abuse_seconds + 30)) python3 benches/abuse.py $abuse "${url#http://}" "$key" >"$dir/ready" & abuser=$!
  pids+=($abuser)
  until [ -s "$dir/ready" ]; do sleep 0.01; done
  beside=$(rate)
  kill $abuser 2>/dev/null || true; wait $abuser 2>/dev/null || true
  : >"$dir/ready"
  row "a good client beside: ${abuse//_/ }" '≥ 0.50' "$(of "$beside" "$alone")" "$beside/s; $alone/s alone"
done
row 'memory at its highest' '' "$(peak_mb $server) MB" ''
