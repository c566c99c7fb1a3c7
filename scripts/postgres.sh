# shellcheck shell=bash
# A PostgreSQL of our own on a unix socket, to be sourced:
#
#   start_postgres DIR     starts it over DIR, a new short path; sets DATABASE_URL
#   stop_postgres          stops it
#
# PostgreSQL refuses to run as root: there it runs as the user that its package made.

as_postgres() {
  if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

start_postgres() {
  local dir=$1
  PG_BIN=$(command -v pg_ctl || compgen -G '/usr/lib/postgresql/*/bin/pg_ctl' | sort -V | tail -n 1)
  PG_BIN=$(dirname "$(realpath "$PG_BIN")")
  PG_DATA=$dir/data
  mkdir -p "$dir"
  chmod 755 "$dir"
  [ "$(id -u)" != 0 ] || chown postgres "$dir"
  as_postgres "$PG_BIN/initdb" --no-sync --auth=trust --username=postgres -D "$PG_DATA" > "$dir/initdb.log"
  # Nothing here outlives the run, so nothing needs to reach the disk (-F).
  as_postgres "$PG_BIN/pg_ctl" -s -w -D "$PG_DATA" -l "$dir/log" -o "-F -c listen_addresses= -k $dir" start
  export DATABASE_URL="postgresql://postgres@localhost/postgres?host=$dir"
}

stop_postgres() {
  [ -z "${PG_DATA:-}" ] || as_postgres "$PG_BIN/pg_ctl" -s -m immediate -D "$PG_DATA" stop
}
