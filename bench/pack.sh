#!/usr/bin/env bash
# Makes v1 archives of the corpus the upstream way (`umoci unpack`, then the Go library's create) and
# with `clipwright pack`, by turns, and prints what it takes and whether that is what it must be.
#
#   BENCH_IMAGES   images of the corpus (default: pydata node torch)
#   BENCH_RUNS     measured runs of each, after one that is not (default: 3)
#
# Fails when something fails, not when something is slow. Figures: target/bench/pack.json
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra images <<< "${BENCH_IMAGES:-pydata node torch}"
corpus=${CLIPWRIGHT_CORPUS:-target/corpus}
out=$PWD/target/bench
command -v go > /dev/null || { echo "the bench needs Go, for upstream's writer" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "the bench needs root: umoci gives files to their owners" >&2; exit 1; }

scripts/corpus.sh "${images[@]}"
mkdir -p "$out"
cargo build --profile dist --locked
go build -C tests/interop -o "$out/interop" .

bench/pack.py --upstream "$out/interop" --ours "${CARGO_TARGET_DIR:-target}/dist/clipwright" \
  --corpus "$corpus/oci" --runs "${BENCH_RUNS:-3}" --json "$out/pack.json" "${images[@]}"
