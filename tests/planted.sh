#!/usr/bin/env bash
# Plants bugs between the store and its machine, and in the code of frames and footers, and says by
# how many seeds each is caught. Fails if one isn't.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --release --locked --quiet --features planted --test it -- --nocapture planted::
# The binary in its place is the one without switches again.
cargo build --release --locked --quiet
