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
# Most tests wait for a server rather than for a processor. One that never ends would take the whole run
# with it and not say which it is.
limit=${TEST_MINUTES:-45}
ended=0
RUST_TEST_THREADS=$((2 * $(nproc))) timeout --kill-after 30 "${limit}m" cargo test --locked 2>&1 |
  tee "$log" || ended=$?
if [ "$ended" = 124 ] || [ "$ended" = 137 ]; then
  echo "the tests were ended after $limit minutes; of those that ran for more than one these had not ended:" >&2
  sed -n 's/^test \(.*\) has been running for over 60 seconds$/\1/p' "$log" | while read -r name; do
    grep -q "^test $name \.\.\. " "$log" || echo "  $name" >&2
  done
fi
exit "$ended"
