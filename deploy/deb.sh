#!/usr/bin/env bash
# Makes the Debian package of a binary that is built already: deploy/deb.sh [--profile dev] [OPTION…]
# (those of `cargo deb`, which `cargo install cargo-deb --locked` installs; it takes python3, too). Prints its path.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=release
[ "${1-} ${2-}" != '--profile dev' ] || folder=debug
target=${CARGO_TARGET_DIR:-target}/$folder
trialog=$target/trialog
[ -x "$trialog" ] || {
  echo "there is no $trialog: build it first (cargo build --release --locked)" >&2
  exit 1
}
# What the package has beside it comes from the binary itself, so it says what that does.
rm -rf "$target/packaged"
mkdir -p "$target/packaged/man" "$target/packaged/completions"
"$trialog" man "$target/packaged/man"
gzip -9n "$target/packaged/man/"*
for shell in bash zsh fish; do
  "$trialog" completions "$shell" >"$target/packaged/completions/trialog.$shell"
done
# What others have written of it, under their licences.
python3 deploy/licences.py | gzip -9n >"$target/packaged/third-party.txt.gz"
exec cargo deb --no-build --locked --quiet "$@"
