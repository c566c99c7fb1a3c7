#!/usr/bin/env bash
# Starts containers from lazily mounted images over a shaped link (200 Mbit/s, 20 ms) with upstream's mount,
# by pulling and unpacking, and with `clipwright mount`, and prints whether it is what it must be.
#
#   BENCH_IMAGES   images of the corpus (default: pydata node torch)
#   BENCH_RUNS     measured runs of each (default: 3)
#
# Fails when something fails, not when something is slow. Figures: target/bench/mount.json
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/registry.sh
. scripts/registry.sh
read -ra images <<< "${BENCH_IMAGES:-pydata node torch}"
corpus=${CLIPWRIGHT_CORPUS:-target/corpus}
out=$PWD/target/bench
command -v go > /dev/null || { echo "the bench needs Go, for upstream's mount" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "the bench needs root: it makes a network of its own" >&2; exit 1; }

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
bench/mount.py --upstream "$out/interop" --ours "${CARGO_TARGET_DIR:-target}/dist/clipwright" \
  --toxiproxy "$out/toxiproxy/server" --registry "$REGISTRY" --corpus "$corpus/oci" \
  --runs "${BENCH_RUNS:-3}" --json "$out/mount.json" "${images[@]}"
