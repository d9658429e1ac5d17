#!/usr/bin/env bash
# A store of at least N entries of the generator's mix, ended cleanly, and exported in each format to /dev/null: seconds,
# megabytes of segments a second, and the most memory that the process had (GNU time's maximum resident
# set, which has the mapped segment in it). Needs GNU time, jq and curl. Loopback only.
#   benches/export.sh [entries]
set -euo pipefail
cd "$(dirname "$0")/.."
entries=${1:-2000000}
cargo build --release --quiet
trialog=${CARGO_TARGET_DIR:-target}/release/trialog
dir=$(mktemp -d) server=
trap '[ -z "$server" ] || kill $server 2>/dev/null; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

"$trialog" serve --data "$dir/store" --listen 127.0.0.1:0 >/dev/null 2>"$dir/log" & server=$!
until grep -qs "address=" "$dir/log"; do sleep 0.1; done
url=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log")
TRIALOG_API_KEY=$(cat "$dir/store/admin.key")
export TRIALOG_API_KEY
count() { curl -sf -H "x-api-key: $TRIALOG_API_KEY" "$url/experiment/bench" | jq '.count // 0' || echo 0; }

until [ "$(count)" -ge "$entries" ]; do
  "$trialog" bench --server "$url" --create --experiment bench --batch 1000 --clients 4 \
    --duration 1 --warm-up 0 >/dev/null 2>"$dir/words" || { cat "$dir/words" >&2; exit 1; }
done
there=$(count)
kill $server && wait $server && server=
bytes=$(cat "$dir"/store/experiments/bench/*.segment | wc -c) # and so they are in the page cache

row() { printf '| %s | %s | %s | %s | %s | %s |\n' "$@"; }
row entries format seconds 'MB/s of segments' 'peak memory' 'output'
row --- --- --- --- --- ---
for format in jsonl csv parquet; do
  command time -f '%e %M' -o "$dir/time" "$trialog" replay "$dir/store" --format $format >/dev/null
  read -r seconds kilobytes <"$dir/time"
  output=$("$trialog" replay "$dir/store" --format $format | wc -c)
  row "$there" $format "$seconds" "$(awk "BEGIN{printf \"%.0f\", $bytes / 1e6 / $seconds}")" \
    "$((kilobytes / 1000)) MB" "$((output / 1000000)) MB"
done
