#!/usr/bin/env bash
# Sends a service what its API document allows, and what it doesn't, and looks whether it answers as
# promised. The service should do no work: `clipwright serve --role api`, on a database of its own.
#
#   usage: schemathesis.sh URL [OPTION...]     options of `schemathesis run`
#          schemathesis.sh --install           nothing but to set it up, in target/tools
set -euo pipefail
cd "$(dirname "$0")/.."

version=4.32.5
tool=target/tools/schemathesis
if ! "$tool/bin/schemathesis" --version 2> /dev/null | grep -qF "$version"; then
  python3 -m venv "$tool"
  "$tool/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi
[ "$1" != --install ] || exit 0

url=$1
shift
# Where it writes what it found, which is no part of the tree.
cd "$(mktemp -d)"
export PYTHONPATH="$OLDPWD/scripts" SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONDONTWRITEBYTECODE=1
exec "$OLDPWD/$tool/bin/schemathesis" --config-file "$OLDPWD/openapi/schemathesis.toml" \
  run "$OLDPWD/openapi/openapi.json" --url "$url" --seed 1 --max-examples 30 \
  --continue-on-failure --request-timeout 20 --no-color "$@"
