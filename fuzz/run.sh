#!/usr/bin/env bash
# Runs each fuzz target over its whole corpus, and then for a while: `fuzz/run.sh [SECONDS] [TARGET…]`.
# Two at a time. Needs cargo-fuzz and a C++ compiler; stable Rust is enough, with AddressSanitizer.
# What fails is kept in fuzz/artifacts; `fuzz/run.sh 0` runs the corpus alone.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
shift || true
# The sanitizer's flags are unstable ones; this lets a stable compiler take them.
export RUSTC_BOOTSTRAP=1
readonly triple=x86_64-unknown-linux-gnu
target_dir=${CARGO_TARGET_DIR:-fuzz/target}

cargo fuzz --version >/dev/null || { echo 'FAILED: cargo install cargo-fuzz --locked' >&2; exit 1; }
begun=$SECONDS
cargo fuzz build --target "$triple" --target-dir "$target_dir" --codegen-units 16
echo "built in $((SECONDS - begun)) s"
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list)

scratch=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT
mkdir -p fuzz/artifacts

# One target: the corpus as it is, then new inputs, which stay outside of the project.
fuzz_one() {
  local target=$1 log=$scratch/$1.log
  local binary=$target_dir/$triple/release/$target
  local new=$scratch/$target.new
  local options=(-timeout=20 -malloc_limit_mb=512 -rss_limit_mb=2048 -max_len=4608 -len_control=0
    "-artifact_prefix=fuzz/artifacts/$target-")
  [ -f "fuzz/dictionaries/$target" ] && options+=("-dict=fuzz/dictionaries/$target")
  mkdir -p "$new" "$scratch/$target.tmp"
  export TMPDIR=$scratch/$target.tmp
  "$binary" "${options[@]}" -runs=0 "fuzz/corpus/$target" >"$log" 2>&1 &&
    { [ "$seconds" = 0 ] ||
      "$binary" "${options[@]}" -max_total_time="$seconds" "$new" "fuzz/corpus/$target" >>"$log" 2>&1; } ||
    { tail -n 60 "$log" >&2; echo "FAILED: $target" >&2; return 1; }
  printf '%-12s %s\n' "$target" "$(grep -h DONE "$log" | tail -n 1)"
}
export -f fuzz_one
export scratch seconds target_dir triple
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz_one {}'
