#!/usr/bin/env bash
# The binary that needs no library (README, "Run it for real"): it is built, has no interpreter, takes an
# entry, ends on SIGTERM, and has lost nothing. Of the profile dev, since what is looked at is the linking:
# tests/static.sh [OPTION of cargo build…], --release for the one that is used.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly target=x86_64-unknown-linux-musl
export CARGO_PROFILE_DEV_DEBUG=none
cargo build --locked --quiet --bin trialog --target "$target" "$@"
profile=debug
[[ " $* " != *' --release '* ]] || profile=release
trialog=${CARGO_TARGET_DIR:-target}/$target/$profile/trialog
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

# The linker of the system says so of what it has nothing to do with.
needed=$(ldd "$trialog" 2>&1 || true)
grep -qE 'statically linked|not a dynamic executable' <<<"$needed" || fail "it needs $needed"

dir=$(mktemp -d)
server=
clean_up() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean_up EXIT
"$trialog" serve --data "$dir/store" --listen 127.0.0.1:0 >"$dir/stdout" 2>"$dir/stderr" &
server=$!
for _ in $(seq 600); do
  grep -q '^curl ' "$dir/stdout" && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
line=$(grep '^curl ' "$dir/stdout") || fail "it doesn't start: $(cat "$dir/stderr")"
answer=$(bash -c "$line")
grep -q '"logId"' <<<"$answer" || fail "the entry was answered: $answer"
kill -TERM "$server"
wait "$server" || fail "it ended with $?"
server=
"$trialog" verify "$dir/store" >"$dir/verified" 2>&1 || fail "verify: $(cat "$dir/verified")"
[ "$("$trialog" replay "$dir/store" | wc -l)" = 1 ] || fail 'the entry is not there'
echo "static, and works: $trialog"
