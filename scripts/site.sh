#!/usr/bin/env bash
# Makes site/ of docs/ by mdBook: the pages that the service has at /docs/. They are checked in, since
# mdBook takes minutes to build; site/sources.txt says of which sources they are made.
#
#   usage: site.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/tool.sh
. scripts/tool.sh

sources() {
  find book.toml docs -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
}
if [ "${1:-}" = --check ]; then
  sources | diff - site/sources.txt > /dev/null || {
    echo "site/ is not what docs/ makes: run scripts/site.sh" >&2
    exit 1
  }
  exit
fi
tool mdbook mdbook --no-default-features --features search
mdbook build
rm -f site/.nojekyll site/404.html site/CNAME site/site.css
sources > site/sources.txt
