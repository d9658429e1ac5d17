#!/usr/bin/env bash
# Builds of trialog beside each other, in turns: single entries a second from 64 and 256 clients, over one experiment
# and 1,000, each run of each build. For what a change costs or brings, on an idle machine. Needs wrk and curl.
# Loopback only.
#   benches/beside.sh SECONDS ROUNDS BINARY BINARY…
set -euo pipefail
seconds=$1 rounds=$2; shift 2
dir=$(mktemp -d) pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

urls=()
for n in $(seq $#); do
  "${!n}" serve --data "$dir/store-$n" --listen 127.0.0.1:0 2>"$dir/log-$n" >/dev/null & pids+=($!)
  until grep -qs 'address=' "$dir/log-$n"; do sleep 0.1; done
  url=http://$(sed -n 's/.*address=\([0-9.:]*\).*/\1/p' "$dir/log-$n") key=$(cat "$dir/store-$n/admin.key")
  urls[n]=$url
  curl -sf -o /dev/null -X PUT -H "x-api-key: $key" -H 'content-type: application/json' -d '{"variants":["A","B"]}' \
    "$url/experiment/load-[0-999]"
  for experiments in 1 1000; do
    cat >"$dir/$n-$experiments.lua" <<LUA
wrk.method = "POST"
wrk.headers["x-api-key"] = "$key"
wrk.headers["content-type"] = "application/json"
wrk.body = [[{"variantKey":"A","input":{"query":"What are the latest AI advancements?"},"output":{"response":"Recent AI advancements include improvements in large language models and generative AI."},"metrics":{"latency_ms":123,"token_count":78,"user_rating":5},"context":{"session_id":"session_abc_123","environment":"production"}}]]
local paths = {}
for n = 0, $experiments - 1 do paths[n] = wrk.format(nil, "/experiment/load-" .. n .. "/log") end
function request() return paths[math.random(0, $experiments - 1)] end
LUA
  done
done

printf '| experiments | clients | build | entries/s | median |\n| --- | --- | --- | --- | --- |\n'
for experiments in 1 1000; do
  for clients in 64 256; do
    rm -f "$dir"/rates-*
    for _ in $(seq "$rounds"); do
      for n in $(seq $#); do
        wrk -t1 -c"$clients" -d"${seconds}s" -s "$dir/$n-$experiments.lua" "${urls[n]}" >"$dir/wrk"
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
