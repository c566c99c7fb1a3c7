#!/usr/bin/env bash
# Generates the Go client from the API document, or says whether it is up to date.
#
#   usage: go_client.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/../clients/go"

generator=github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2
made=$(mktemp)
trap 'rm -f "$made"' EXIT
# From elsewhere: the generator is no part of the client's module.
(cd / && GOFLAGS=-mod=mod go run "$generator" \
  -config "$OLDPWD/oapi-codegen.yaml" -o "$made" "$OLDPWD/../../openapi/openapi.json")
case ${1:-} in
  --check) diff -u client.gen.go "$made" > /dev/null || {
      echo "clients/go is not what openapi/openapi.json makes: run scripts/go_client.sh" >&2
      exit 1
    } ;;
  *) cp "$made" client.gen.go && chmod 644 client.gen.go ;;
esac
