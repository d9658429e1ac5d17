#!/usr/bin/env bash
# What the load generator itself costs: the constant-answer server under `trialog bench`, and under
# `wrk -t1` with the same connections and the same entry, in turns. Needs wrk and jq. Loopback only.
#   benches/generator.sh [seconds for each run] [rounds] [connections]…
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-3} rounds=${2:-5}
shift $(($# < 2 ? $# : 2))
cargo build --release --quiet
trialog=${CARGO_TARGET_DIR:-target}/release/trialog
dir=$(mktemp -d) pid=
trap 'kill $pid 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

"$trialog" noop >"$dir/noop" & pid=$!
until [ -s "$dir/noop" ]; do sleep 0.1; done
cat >"$dir/entry" <<'JSON'
{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}
JSON
{ printf 'wrk.method = "POST"\nwrk.path = "/experiment/bench/log"\nwrk.headers["x-api-key"] = "none"\n'
  printf 'wrk.headers["content-type"] = "application/json"\nwrk.body = [[%s]]\n' "$(cat "$dir/entry")"
} >"$dir/wrk.lua"
printf '%11s %12s %12s %8s\n' connections wrk/s bench/s ratio
for connections in ${@:-64 256}; do
  for _ in $(seq "$rounds"); do
    w=$(wrk -t1 -c"$connections" -d"${seconds}s" -s "$dir/wrk.lua" "http://$(cat "$dir/noop")" |
      sed -n 's/^Requests.sec: *\([0-9]*\).*/\1/p')
    # The same server in a process of its own; the store beside it gets its round before, and is idle.
    b=$("$trialog" bench --against noop --clients "$connections" --entry "$dir/entry" --json - \
      --duration "$seconds" --warm-up 0.2 2>/dev/null | jq '.results[1].entriesPerSecond | floor')
    printf '%11s %12s %12s %8s\n' "$connections" "$w" "$b" "$(awk "BEGIN{printf \"%.3f\", $b/$w}")"
  done
done
