#!/usr/bin/env bash
# Tests under sanitizers: `tests/sanitizers.sh [address|thread|miri]`; `address`, if nothing is said.
#
# address  the mapping of segments (`fs/real.rs`, the only unsafe code) and all that reads through
#          it; stable Rust
# thread   actors, journal and sealer on real threads; stable Rust with the component rust-src, since
#          std has to be built with it, too
# miri     the codec and what it reads; nightly Rust with the component miri
set -euo pipefail
cd "$(dirname "$0")/.."
readonly triple=x86_64-unknown-linux-gnu
sanitizer=${1:-address}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitizers/$sanitizer
# Lets a stable compiler take the unstable flags.
[ "$sanitizer" = miri ] || export RUSTC_BOOTSTRAP=1

case $sanitizer in
  address)
    # Not for leaks: a process may end while a thread of it begins, which is none. Memory that grows is what
    # benches/memory.sh looks for.
    export ASAN_OPTIONS=detect_leaks=0
    RUSTFLAGS=-Zsanitizer=address cargo test --locked --target "$triple" --lib --test it -- \
      log:: journal:: fs:: http::json offline golden torn
    ;;
  thread)
    RUSTFLAGS=-Zsanitizer=thread cargo test --locked -Zbuild-std --target "$triple" --test it -- \
      store:: idle:: group_commit::
    ;;
  miri)
    # It is a thousand times slower: few cases, and no system calls such as mmap.
    export PROPTEST_CASES=2 MIRIFLAGS=-Zmiri-disable-isolation
    cargo +nightly miri test --locked --lib -- log::frame log::record log::segment::tests::counts \
      log::footer::tests::what journal::format::tests::what journal::format::tests::numbers \
      http::json::guard http::framing
    ;;
  *)
    echo "unknown: $sanitizer" >&2
    exit 2
    ;;
esac
