#!/usr/bin/env bash
# Makes what is published of a version, in target/package: the program, a Debian package, manual pages,
# completions, the SBOM of what the program is made of, release notes, and checksums of all of them.
#
#   usage: package.sh [PROFILE]      dist unless told
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/tool.sh
. scripts/tool.sh
profile=${1:-dist}
tool cargo-deb cargo-deb
tool cargo-cyclonedx cargo-cyclonedx

out=target/package
rm -rf "$out"
mkdir -p "$out/man"
cargo build --locked --profile "$profile" --bin clipwright
directory=$profile
[ "$profile" != dev ] || directory=debug
program=${CARGO_TARGET_DIR:-target}/$directory/clipwright
cp "$program" "$out/clipwright"
"$program" man "$out/man"
"$program" completion bash > "$out/clipwright.bash"
"$program" completion zsh > "$out/_clipwright"
"$program" completion fish > "$out/clipwright.fish"

# Of what is compiled in for this machine, and not of what tests need.
target=$(rustc -vV | sed -n 's/^host: //p')
cargo cyclonedx --format json --target "$target" --describe binaries --spec-version 1.5 --quiet
mv clipwright_bin.cdx.json "$out/clipwright.cdx.json" 2> /dev/null || mv ./*.cdx.json "$out/clipwright.cdx.json"
rm -f ./*.cdx.json

cargo deb --locked --no-build --profile "$profile" --output "$out"
version=$("$program" --version | cut -d' ' -f2)
scripts/release_notes.sh "$version" > "$out/RELEASE_NOTES.md" 2> /dev/null \
  || scripts/release_notes.sh unreleased > "$out/RELEASE_NOTES.md"
sums=$(cd "$out" && find . -maxdepth 1 -type f -exec sha256sum {} +)
echo "$sums" > "$out/SHA256SUMS"
ls -l "$out"
