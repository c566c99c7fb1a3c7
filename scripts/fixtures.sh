#!/usr/bin/env bash
# Makes tests/fixtures again with upstream's library: three archives and what its reader says of
# each. Needed only when upstream's format grows; the times in the archives are those of the run.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/registry.sh
. scripts/registry.sh

work=$(mktemp -d)
trap 'kill "${REGISTRY_PID:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
interop=$work/interop
fixtures=$PWD/tests/fixtures
go build -C tests/interop -o "$interop" .

# v1: a directory.
tree=$work/tree
mkdir -p "$tree/usr/lib" "$tree/etc"
printf 'hello\n' > "$tree/etc/motd"
ln "$tree/etc/motd" "$tree/hard-link"
ln -s etc/motd "$tree/link"
printf 'library\n' > "$tree/usr/lib/library"
: > "$tree/empty"
printf 'UTF-8\n' > "$tree/café"
printf 'latin-1\n' > "$tree/caf"$'\xe9'
printf 'mine\n' > "$tree/private"
chown 1000:1000 "$tree/private"
chmod 600 "$tree/private"
chmod 4755 "$tree/usr/lib/library"
find "$tree" -exec touch -h -d @1600000000 {} +
"$interop" create "$tree" "$fixtures/v1-local.clip"
"$interop" create-remote --bucket images --region eu-west-1 --key v1-local.clip \
  --endpoint https://s3.example --path-style "$tree" "$fixtures/v1-s3.rclip"

# v2: an image.
scripts/make_image.py fixture "$work/image"
start_registry "$work"
push_layout "$work/image" fixture
"$interop" index --as registry.example/team/fixture:latest "$REGISTRY/fixture:latest" "$fixtures/v2.clip"

for archive in v1-local.clip v1-s3.rclip v2.clip; do
  "$interop" dump "$fixtures/$archive" > "$fixtures/$archive.jsonl"
done
