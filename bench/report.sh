#!/usr/bin/env bash
# Measures the report of a rollout over a PostgreSQL of its own, and prints whether it is as fast as it must be. Fails when
# something fails, not when something is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/postgres.sh
. scripts/postgres.sh
database=$(mktemp -d)
trap 'stop_postgres; rm -rf "$database"' EXIT
cargo build --profile dist --locked --bench report
start_postgres "$database"
cargo bench --quiet --profile dist --locked --bench report
