#!/usr/bin/env bash
# Everything that can be said of the code without running its tests. Says what it checks; the first
# failure ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/postgres.sh
. scripts/postgres.sh
# shellcheck source=scripts/tool.sh
. scripts/tool.sh

check() { echo "lint: $*"; }

check "rustfmt"
cargo fmt --all --check
cargo fmt --manifest-path fuzz/Cargo.toml --check

check "clippy"
cargo clippy --quiet --locked --all-targets -- -D warnings

check "links in the documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps

check "the OpenAPI document is the code's (else: cargo run -- openapi > openapi/openapi.json)"
cargo run --quiet --locked -- openapi | diff -u openapi/openapi.json -

check "the checked-in queries (.sqlx) are the code's (else: cargo sqlx prepare -- --all-targets)"
tool sqlx-cli cargo-sqlx --no-default-features --features postgres,rustls
database=$(mktemp -d)
trap 'stop_postgres; rm -rf "$database"' EXIT
start_postgres "$database"
cargo sqlx migrate run > /dev/null
cargo sqlx prepare --check -- --quiet --all-targets

check "dependencies: licences, bans, sources (deny.toml)"
tool cargo-deny cargo-deny
cargo deny --log-level error check --hide-inclusion-graph bans licenses sources
if cargo deny --log-level off fetch db > /dev/null 2>&1; then
  check "dependencies: known vulnerabilities"
  cargo deny --log-level error check --hide-inclusion-graph advisories
else
  echo "lint: known vulnerabilities NOT checked: the advisory database can't be reached from here"
fi

check "the pages at /docs/ are what docs/ makes (else: scripts/site.sh)"
scripts/site.sh --check

if command -v npm > /dev/null && { [ -d console/node_modules ] || npm --prefix console ci --silent --no-audit --no-fund; }; then
  check "the console's types, and console/dist is what console/src makes (else: npm run build)"
  npm --prefix console run --silent check
else
  echo "lint: the console NOT checked: there is no npm here, or no registry"
fi

check "shell scripts"
shellcheck -x scripts/*.sh bench/*.sh .ci/run

if command -v go > /dev/null; then
  check "Go"
  unformatted=$(gofmt -l tests/interop tests/manifests clients/go examples)
  [ -z "$unformatted" ] || { echo "not gofmt's: $unformatted" >&2; exit 1; }
  for module in tests/interop tests/manifests clients/go examples/beta9-gateway examples/beta9-worker; do
    go -C "$module" vet .
  done
  check "the Go client is what the OpenAPI document makes (else: scripts/go_client.sh)"
  scripts/go_client.sh --check
else
  echo "lint: Go NOT checked: there is none here"
fi
echo "lint: all is well"
