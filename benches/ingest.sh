#!/usr/bin/env bash
# Single entries beside the server that stores nothing, in one run, alternating: for each number of
# clients and of experiments the throughput of both and their ratio. Needs wrk. Loopback only.
#   benches/ingest.sh [seconds for each run] [rounds]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5} rounds=${2:-3}
cargo build --release --quiet
trialog=${CARGO_TARGET_DIR:-target}/release/trialog
dir=$(mktemp -d) pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

"$trialog" noop >"$dir/noop" & pids+=($!)
"$trialog" serve --data "$dir/store" --listen 127.0.0.1:0 --log-level info 2>"$dir/log" >/dev/null & pids+=($!)
until [ -s "$dir/noop" ] && grep -q 'address=' "$dir/log"; do sleep 0.1; done
reference=http://$(cat "$dir/noop")
server=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log")
key=$(cat "$dir/store/admin.key")

define() { # define COUNT: experiments load-0 … load-(COUNT-1)
  seq 0 $(($1 - 1)) | xargs -P 8 -I{} curl -sS -o /dev/null -X PUT -H "x-api-key: $key" \
    -d '{"variants":["A","B"]}' -H 'content-type: application/json' "$server/experiment/load-{}"
}
rate() { # rate URL COUNT CLIENTS: requests a second
  wrk -t1 -c"$3" -d"${seconds}s" -s benches/entries.lua "$1" -- "$key" "$2" >"$dir/wrk"
  if grep -q 'Non-2xx' "$dir/wrk"; then cat "$dir/wrk" >&2; exit 1; fi
  sed -n 's/^Requests.sec: *\([0-9]*\).*/\1/p' "$dir/wrk"
}
define "${EXPERIMENTS_MAX:-1000}"
printf '%12s %8s %12s %12s %8s\n' experiments clients noop/s trialog/s ratio
for count in 1 "${EXPERIMENTS_MAX:-1000}"; do
  for clients in 1 64 256; do
    for _ in $(seq "$rounds"); do
      n=$(rate "$reference" "$count" "$clients"); t=$(rate "$server" "$count" "$clients")
      printf '%12s %8s %12s %12s %8s\n' "$count" "$clients" "$n" "$t" "$(awk "BEGIN{printf \"%.3f\", $t/$n}")"
    done
  done
done
