#!/usr/bin/env bash
# Builds, as beta9's worker does them and as ours does, by turns. First everything after the last RUN (buildah
# push into a layout, then skopeo copy beside the Go indexer), out of the same storage: the image is one of
# the corpus, whose lowest layer is the base; "changed" has one small layer more, "unchanged" nothing new. Then whole
# builds on that image, from the Dockerfile to the archive, one of them with the base behind a slow link.
#
#   BENCH_IMAGE    image of the corpus (default: pydata)
#   BENCH_RUNS     measured runs of each (default: 3)
#   BENCH_LEVEL    gzip's level of ours (default: as it is by default)
#   BENCH_PROFILE  cargo's profile (default: dist)
#
# Fails when something fails, not when something is slow. Figures: target/bench/build.json, whole_build.json
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/registry.sh
. scripts/registry.sh
image=${BENCH_IMAGE:-pydata}
corpus=${CLIPWRIGHT_CORPUS:-target/corpus}
out=$PWD/target/bench
command -v go > /dev/null || { echo "the bench needs Go, for upstream's indexer" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "the bench needs root, as builds do" >&2; exit 1; }

scripts/corpus.sh "$image"
mkdir -p "$out"
go build -C tests/interop -o "$out/interop" .
GOBIN=$out/toxiproxy go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0
clipwright=$(cargo build --locked --profile "${BENCH_PROFILE:-dist}" --bin clipwright --message-format json |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "clipwright":
        print(message["executable"])')
ours=$(cargo bench --locked --profile "${BENCH_PROFILE:-dist}" --bench export --no-run --message-format json |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "export":
        print(message["executable"])')

work=$(mktemp -d -p "$out")
trap 'kill "${target_pid:-}" "${REGISTRY_PID:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
start_registry "$work/target"; target=$REGISTRY target_pid=$REGISTRY_PID
# What the Go indexer reads while skopeo copies: it takes no layout.
start_registry "$work/aside"
bench/build.py --upstream "$out/interop" --ours "$ours" --layout "$corpus/oci/$image" --work "$work" \
  --target "$target" --aside "$REGISTRY" --runs "${BENCH_RUNS:-3}" --level "${BENCH_LEVEL:-}" --json "$out/build.json"
bench/whole_build.py --upstream "$out/interop" --ours "$clipwright" --layout "$corpus/oci/$image" --work "$work" \
  --target "$target" --aside "$REGISTRY" --toxiproxy "$out/toxiproxy/server" --runs "${BENCH_RUNS:-3}" \
  --json "$out/whole_build.json"
