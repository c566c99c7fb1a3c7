#!/usr/bin/env bash
# Indexes the corpus from a local registry with upstream's Go indexer and with `clipwright index`, by
# turns, and prints what it takes, what comes of it, and whether that is what it must be.
#
#   BENCH_IMAGES   images of the corpus (default: pydata node torch)
#   BENCH_RUNS     measured runs of each, after one that is not (default: 3)
#
# Fails when something fails, not when something is slow. Figures: target/bench/index.json
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/registry.sh
. scripts/registry.sh
read -ra images <<< "${BENCH_IMAGES:-pydata node torch}"
corpus=${CLIPWRIGHT_CORPUS:-target/corpus}
out=$PWD/target/bench
command -v go > /dev/null || { echo "the bench needs Go, for upstream's indexer" >&2; exit 1; }

scripts/corpus.sh "${images[@]}"
mkdir -p "$out"
cargo build --profile dist --locked
go build -C tests/interop -o "$out/interop" .
GOBIN=$out/toxiproxy go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0

work=$(mktemp -d -p "$out")
trap 'kill "${REGISTRY_PID:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
start_registry "$work"
for image in "${images[@]}"; do
  push_layout "$corpus/oci/$image" "$image"
done
bench/index.py --upstream "$out/interop" --ours "${CARGO_TARGET_DIR:-target}/dist/clipwright" \
  --toxiproxy "$out/toxiproxy/server" \
  --registry "$REGISTRY" --corpus "$corpus/oci" --runs "${BENCH_RUNS:-3}" --json "$out/index.json" "${images[@]}"
