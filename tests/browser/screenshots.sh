#!/usr/bin/env bash
# Makes the pictures of the dashboard in docs/dashboard, from a real server with the real entries:
# `tests/browser/screenshots.sh`. Needs chromium, node and pngquant.
set -euo pipefail
cd "$(dirname "$0")/../.."
for command in cargo chromium node pngquant; do
  command -v "$command" >/dev/null || { echo "$command is missing: install it first" >&2; exit 1; }
done
pictures=$(mktemp -d)
trap 'rm -rf "$pictures"' EXIT
TRIALOG_TEST_ALL=1 TRIALOG_TEST_SCREENSHOTS="$pictures" cargo test "$@" --test it browser:: -- --nocapture
mkdir -p docs/dashboard
for page in experiments experiment experiment-small metric entries entry compare operation keys new-experiment; do
  for colors in light dark; do
    pngquant --strip --force --speed 1 32 --output "docs/dashboard/$page-$colors.png" \
      "$pictures/$page-$colors.png"
  done
done
du -ch docs/dashboard/*.png | tail -1
