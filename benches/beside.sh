#!/usr/bin/env bash
# Builds of trialog beside each other, in turns: single entries a second from 64 and 256 clients, over one experiment
# and 1,000, each run of each build. For what a change costs or brings, on an idle machine. Needs wrk and curl.
# Loopback only.
#   benches/beside.sh SECONDS ROUNDS BINARY BINARY…
set -euo pipefail
seconds=$1 rounds=$2 entries=$(dirname "$0")/entries.lua; shift 2
dir=$(mktemp -d) pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

urls=() keys=()
for n in $(seq $#); do
  "${!n}" serve --data "$dir/store-$n" --listen 127.0.0.1:0 2>"$dir/log-$n" >/dev/null & pids+=($!)
  until grep -qs 'address=' "$dir/log-$n"; do sleep 0.1; done
  url=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log-$n") key=$(cat "$dir/store-$n/admin.key")
  urls[n]=$url keys[n]=$key
  curl -sf -o /dev/null -X PUT -H "x-api-key: $key" -H 'content-type: application/json' -d '{"variants":["A","B"]}' \
    "$url/experiment/load-[0-999]"
done

printf '| experiments | clients | build | entries/s | median |\n| --- | --- | --- | --- | --- |\n'
for experiments in 1 1000; do
  for clients in 64 256; do
    rm -f "$dir"/rates-*
    for _ in $(seq "$rounds"); do
      for n in $(seq $#); do
        wrk -t1 -c"$clients" -d"${seconds}s" -s "$entries" "${urls[n]}" -- "${keys[n]}" "$experiments" \
          >"$dir/wrk"
        if grep -q 'Non-2xx' "$dir/wrk"; then cat "$dir/wrk" >&2; exit 1; fi
        sed -n 's/^Requests.sec: *\([0-9]*\).*/\1/p' "$dir/wrk" >>"$dir/rates-$n"
      done
    done
    for n in $(seq $#); do
      printf '| %s | %s | %s | %s | %s |\n' "$experiments" "$clients" "$(basename "${!n}")" \
        "$(paste -sd' ' "$dir/rates-$n" | sed 's/ / · /g')" "$(sort -n "$dir/rates-$n" | sed -n "$(((rounds + 1) / 2))p")"
    done
  done
done
