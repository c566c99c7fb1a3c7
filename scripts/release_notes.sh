#!/usr/bin/env bash
# Prints what CHANGELOG.md says of a version: its release notes.
#
#   usage: release_notes.sh VERSION|unreleased
set -euo pipefail
changelog=$(cd "$(dirname "$0")/.." && pwd)/CHANGELOG.md
version=${1:?usage: release_notes.sh VERSION|unreleased}
notes=$(awk -v version="$version" '
  /^## / { found = tolower($2) == tolower(version) || $2 == "[" version "]"; next }
  found { print }
' "$changelog")
if [ -z "$notes" ]; then
  echo "release_notes.sh: there is nothing on $version in $changelog" >&2
  exit 1
fi
echo "$notes"
