#!/usr/bin/env bash
# Installs the system packages that a target needs and this machine lacks. Says what it installs;
# does nothing when all is there.
#
#   usage: setup.sh demo|test|bench|fuzz|lint
#
# Debian and Ubuntu, as root or with sudo. Rust itself (rustup) is assumed. Go is not installed:
# without it the tests against upstream's library skip themselves, and there is no bench.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
  demo)  need='buildah slirp4netns nft skopeo registry postgresql busybox curl python3' ;;
  test)  need='buildah git slirp4netns nft ip skopeo registry postgresql busybox curl python3 umoci runc fuse mmdebstrap cc pigz zopfli libdeflate-gzip igzip venv chromium chromedriver prometheus' ;;
  bench) need='buildah skopeo registry postgresql python3 umoci mmdebstrap cc igzip openssl fuse ip pgrep' ;;
  fuzz)  need='cc c++' ;;
  lint)  need='postgresql shellcheck cc' ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# The program that shows whether a need is met, and the package that brings it.
present() {
  case $1 in
    registry)   command -v docker-registry ;;
    fuse)       command -v fusermount3 ;;
    busybox)    [ -x /bin/busybox ] || [ -x /usr/bin/busybox ] ;;
    venv)       python3 -c 'import ensurepip' 2> /dev/null ;;
    postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' || command -v initdb ;;
    *)          command -v "$1" ;;
  esac > /dev/null
}
package() {
  case $1 in
    registry) echo docker-registry ;;
    fuse)     echo fuse3 ;;
    busybox)  echo busybox-static ;;
    cc)       echo gcc libc6-dev ;;
    nft)      echo nftables ;;
    libdeflate-gzip) echo libdeflate-tools ;;
    igzip)    echo isal ;;
    ip)       echo iproute2 ;;
    pgrep)    echo procps ;;
    chromedriver) echo chromium-driver ;;
    c++)      echo g++ ;;
    venv)     echo python3-venv ;;
    *)        echo "$1" ;;
  esac
}

missing=()
for tool in $need; do
  if ! present "$tool"; then
    read -ra names <<< "$(package "$tool")"
    missing+=("${names[@]}")
  fi
done

if [ ${#missing[@]} -gt 0 ]; then
  echo "installing system packages: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null || { echo "not root, and no sudo: install them yourself" >&2; exit 1; }
    as_root=(sudo)
  fi
  command -v apt-get > /dev/null || { echo "no apt-get here: install them yourself" >&2; exit 1; }
  # Nothing here wants a server that starts by itself: none is to start, and none that can't start
  # (as in a container) is to fail the installation. An administrator's own policy file stays.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" > /dev/null
    "${as_root[@]}" chmod +x "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

command -v cargo > /dev/null || { echo "no cargo here: install Rust with rustup first" >&2; exit 1; }
if [ "$1" = lint ]; then
  for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version > /dev/null 2>&1 || {
      echo "installing the Rust component $component"
      rustup component add "$component"
    }
  done
fi
if [ "$1" = test ]; then
  scripts/schemathesis.sh --install \
    || echo "schemathesis can't be had: its test skips itself, or fails where CI is true" >&2
  scripts/kubernetes_validate.sh --install \
    || echo "kubernetes-validate can't be had: its test fails" >&2
fi
if [ "$1" = test ] && ! target/tools/zlib-ng/bin/python3 -c 'import zlib_ng' 2> /dev/null; then
  echo "installing zlib-ng's Python module into target/tools"
  { python3 -m venv target/tools/zlib-ng \
    && target/tools/zlib-ng/bin/pip install --quiet --disable-pip-version-check zlib-ng; } \
    || echo "zlib-ng can't be had: its test skips itself, or fails where CI is true" >&2
fi
