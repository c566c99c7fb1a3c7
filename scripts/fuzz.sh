#!/usr/bin/env bash
# Runs every fuzz target (fuzz/) for a while, each from its seeds and from what earlier runs found.
#
#   usage: fuzz.sh [TARGET...]        default: all of them
#
#   FUZZ_SECONDS   how long each runs (default: 10)
#
# Stable Rust: RUSTC_BOOTSTRAP lets it take the address sanitizer, which comes with it. An input that
# makes a target fail is in target/fuzz/failures; it belongs into a test beside the code that it broke.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/tool.sh
. scripts/tool.sh
tool cargo-fuzz cargo-fuzz
export RUSTC_BOOTSTRAP=1
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
cargo fetch --quiet --locked --manifest-path fuzz/Cargo.toml
cargo fuzz build --target-dir target/fuzz

fuzz() { # fuzz TARGET: its last words, or all of them and its failure
  local target=$1 log=target/fuzz/$1.log from=("target/fuzz/corpus/$1")
  mkdir -p "${from[0]}" target/fuzz/failures
  [ ! -d "fuzz/seeds/$target" ] || from+=("fuzz/seeds/$target")
  [ "$target" != archive ] || from+=(tests/fixtures)
  "$built/$target" -artifact_prefix="target/fuzz/failures/$target-" -max_len=8192 -len_control=10 \
    -max_total_time="${FUZZ_SECONDS:-10}" -timeout=60 -rss_limit_mb=2048 "${from[@]}" > "$log" 2>&1 || {
    tail -n 40 "$log"
    echo "fuzz: $target FAILED"
    return 1
  }
  echo "fuzz: $target: $(sed -n 's/^#\([0-9]*\).*DONE *cov: \([0-9]*\).*/\1 inputs, \2 places covered/p' "$log")"
}
built=$(echo target/fuzz/*/release)
failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
for target in "${targets[@]}"; do
  # As many at a time as there are cores.
  [ "$(jobs -rp | wc -l)" -lt "$(nproc)" ] || wait -n || true
  { fuzz "$target" || echo "$target" >> "$failed"; } &
done
wait
[ ! -s "$failed" ]
