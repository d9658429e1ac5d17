#!/usr/bin/env bash
# A server's memory while it is loaded for a long time: a row for each tenth of it, and a plot, benches/memory.svg.
# Segments are small, so that all that a long run does (roll, seal, checkpoint, drop) is done often, and each
# experiment keeps its last 256 KiB: what there is of them levels off. On an idle machine; some 20 GB of disk. Needs
# gnuplot, jq and curl. Loopback only.
#   benches/memory.sh [minutes] [experiments]
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-30} experiments=${2:-10000}
seconds=$((minutes * 60))
cargo build --release --quiet
trialog=${CARGO_TARGET_DIR:-target}/release/trialog
dir=$(mktemp -d) pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cat >"$dir/entry" <<'JSON'
{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}
JSON

"$trialog" serve --data "$dir/store" --listen 127.0.0.1:0 --segment-bytes 131072 >/dev/null 2>"$dir/log" & server=$!
pids+=($server)
until url=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log") && [ "$url" != http:// ] &&
  curl -sf -o /dev/null "$url/ready"; do sleep 0.01; done
key=$(cat "$dir/store/admin.key")
curl -sf -o /dev/null -X PUT -H "x-api-key: $key" -H 'content-type: application/json' \
  -d '{"openVariants":true,"retention":{"maxBytes":262144}}' "$url/experiment/load-[0-$((experiments - 1))]"

"$trialog" bench --server "$url" --api-key "$key" --experiment load --experiments "$experiments" --clients 256 \
  --entry "$dir/entry" --warm-up 5 --duration "$seconds" --json "$dir/json" >/dev/null 2>"$dir/words" & load=$!
pids+=($load)
# metric NAME: its value now
metric() { curl -sf -H "x-api-key: $key" "$url/metrics" | awk -v name="$1" '$1 == name {print $2}'; }
begun=$SECONDS
while kill -0 $load 2>/dev/null; do
  printf '%s\t%s\t%s\n' $((SECONDS - begun)) \
    "$(awk '/^VmRSS/ {rss = $2} /^RssFile/ {file = $2} END {printf "%.1f\t%.1f", rss / 1024, file / 1024}' "/proc/$server/status")" \
    "$(metric trialog_journal_batch_entries_sum)"
  sleep 5
done >"$dir/memory.tsv"
wait $load || { cat "$dir/words" >&2; exit 1; }

printf '| minute | memory | of it mapped files | entries so far |\n| --- | --- | --- | --- |\n'
awk -v step=$((seconds / 10)) '$1 >= next_at {printf "| %.0f | %.0f MB | %.0f MB | %d |\n", $1 / 60, $2, $3, $4; next_at += step}' \
  "$dir/memory.tsv"
printf '\n%s experiments, 256 clients: %s entries/s over %s minutes, p99 %s ms; VmHWM %s MB; %s segments sealed, %s of them left.\n' "$experiments" \
  "$(jq '.results[0].entriesPerSecond | floor' "$dir/json")" "$minutes" \
  "$(jq '.results[0].latencyUs.p99 / 1000 | floor' "$dir/json")" \
  "$(awk '/^VmHWM/ {printf "%d", $2 / 1024}' "/proc/$server/status")" "$(metric trialog_segments_sealed_total)" \
  "$(find "$dir/store/experiments" -name '*.segment' | wc -l)"
gnuplot <<PLOT
set terminal svg size 800,400 background "white"
set output "benches/memory.svg"
set title "Memory of the server: $experiments experiments, 256 clients that send as fast as they are answered"
set xlabel "minutes"
set ylabel "MB"
set yrange [0:*]
set grid
set key bottom right
plot "$dir/memory.tsv" using (\$1/60):2 with lines lw 2 title "resident", "" using (\$1/60):3 with lines title "of it mapped files"
PLOT
