#!/usr/bin/env bash
# Runs the tests. The images that they need are made while they are compiled.
#
#   usage: test.sh IMAGE...        images of the corpus (scripts/corpus.sh)
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
scripts/corpus.sh "$@" > "$log" 2>&1 &
corpus=$!
cargo test --locked --no-run
wait "$corpus" || { cat "$log" >&2; exit 1; }
cat "$log"
# Most tests wait for a server rather than for a processor.
RUST_TEST_THREADS=$((2 * $(nproc))) cargo test --locked
