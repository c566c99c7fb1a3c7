#!/usr/bin/env bash
# Measures the queue over a PostgreSQL of its own, and prints whether it is what it must be. Fails when
# something fails, not when something is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/postgres.sh
. scripts/postgres.sh
database=$(mktemp -d)
trap 'stop_postgres; rm -rf "$database"' EXIT
cargo build --profile dist --locked --bench queue
start_postgres "$database"
cargo bench --quiet --profile dist --locked --bench queue
# Beside it what the database does by itself: one small transaction of an UPDATE, a SELECT and an INSERT.
export PGHOST=$database PGUSER=postgres PGDATABASE=postgres
"$PG_BIN/pgbench" --quiet --initialize --scale 10 2> "$database/pgbench.log" || { cat "$database/pgbench.log"; exit 1; }
"$PG_BIN/pgbench" --builtin simple-update --no-vacuum --client 4 --jobs 2 --time 10 2> /dev/null |
  sed -n 's/^tps = \([0-9.]*\).*/transactions a second of pgbench (simple-update)      \1/p'
# And what event streams cost.
cargo build --profile dist --locked
"$PG_BIN/createdb" followers
DATABASE_URL="postgresql://postgres@localhost/followers?host=$database" \
  bench/followers.py --ours "${CARGO_TARGET_DIR:-target}/dist/clipwright"
