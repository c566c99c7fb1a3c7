#!/usr/bin/env bash
# Holds manifests against the schemas of Kubernetes.
#
#   usage: kubernetes_validate.sh FILE...
#          kubernetes_validate.sh --install     nothing but to set it up, in target/tools
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

version=1.37.0
tool=$root/target/tools/kubernetes-validate
if ! "$tool/bin/kubernetes-validate" --version 2> /dev/null | grep -qF "$version"; then
  python3 -m venv "$tool"
  "$tool/bin/pip" install --quiet --disable-pip-version-check "kubernetes-validate==$version"
fi
[ "$1" != --install ] || exit 0
exec "$tool/bin/kubernetes-validate" --strict "$@"
