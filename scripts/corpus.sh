#!/usr/bin/env bash
# Makes a corpus of real, multi-layer container images, each as an OCI image layout.
#
#   usage: corpus.sh [IMAGE...]        IMAGE: debian pydata node torch (large), tiny odd opaque (small)
#                                      default: pydata tiny odd
#
# Result: DIR/oci/IMAGE/ (one OCI layout an image, tag "latest", gzip layers) and DIR/corpus.tsv (image,
# layers, compressed bytes, uncompressed bytes, entries, regular files); DIR is $CLIPWRIGHT_CORPUS or
# target/corpus. An image whose layout is there already is left alone: remove its folder to make it again.
#
# The small ones take a second (make_image.py). The large ones need root, network, and Debian's packages
# buildah and mmdebstrap; nothing is pulled from a container registry: the base is bootstrapped from the
# mirror that this machine's own apt uses, and the layers come from apt, PyPI and npm by their ordinary clients.
#
# RUN steps use `--isolation chroot`, which shares the host's network and needs no cgroup set-up. What the
# machine's clients are configured with (a CA bundle, pip and npm settings, proxy variables) is mounted or
# passed for the RUN steps only, and so does not end up in a layer.
set -euo pipefail

cd "$(dirname "$0")/.."
OUT=${CLIPWRIGHT_CORPUS:-target/corpus}
IMAGES=("$@"); [ ${#IMAGES[@]} -gt 0 ] || IMAGES=(pydata tiny odd)
SUITE=${SUITE:-bookworm}
mkdir -p "$OUT/oci" "$OUT/work"; OUT=$(realpath "$OUT"); WORK=$OUT/work

# Storage of our own, so that the machine's own images are left alone.
export STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
B=(buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver "$STORAGE_DRIVER")

# ---- client configuration of this machine, for RUN steps only ------------------------------------------
# They are mounted under /run/build rather than in their usual places, which packages installed in a
# RUN step write to (the set-up of ca-certificates fails on a file that is mounted read-only).
CFG=$WORK/cfg; rm -rf "$CFG"; mkdir -p "$CFG"
for f in "${SSL_CERT_FILE:-}" "${PIP_CERT:-}" /etc/ssl/certs/ca-certificates.crt; do
  [ -s "$f" ] && { cp "$f" "$CFG/ca.crt"; break; }
done
if [ -s /etc/pip.conf ]; then cp /etc/pip.conf "$CFG/pip.conf"; else : > "$CFG/pip.conf"; fi
{ r=$(npm config get registry 2>/dev/null || true)
  case $r in ''|null|undefined) ;; *) echo "registry=$r";; esac; } > "$CFG/npmrc"   # no credential is copied
MOUNTS=(--volume "$CFG:/run/build:ro")
ENVS=(--env DEBIAN_FRONTEND=noninteractive --env PIP_CONFIG_FILE=/run/build/pip.conf --env PIP_DISABLE_PIP_VERSION_CHECK=1
      --env PIP_ROOT_USER_ACTION=ignore --env npm_config_userconfig=/run/build/npmrc)
[ -s "$CFG/ca.crt" ] && for v in PIP_CERT SSL_CERT_FILE NODE_EXTRA_CA_CERTS npm_config_cafile; do
  ENVS+=(--env "$v=/run/build/ca.crt"); done
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY \
         PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
  [ -n "${!v:-}" ] && ENVS+=(--env "$v=${!v}")
done

step() { # step CONTAINER COMMAND: one RUN
  "${B[@]}" run --isolation chroot "${MOUNTS[@]}" "${ENVS[@]}" "$1" -- /bin/sh -ec "$2"
}
commit() { # commit CONTAINER NAME -> a new container on top of the committed layer, in $C
  "${B[@]}" commit --rm --quiet "$1" "corpus/$2" >/dev/null
  C=$("${B[@]}" from --pull-never "localhost/corpus/$2")
}
finish() { # finish NAME: the image of the last commit, into its layout
  "${B[@]}" rm "$C" >/dev/null
  rm -rf "$OUT/oci/$1.tmp"
  "${B[@]}" push --quiet --format oci "localhost/corpus/$1" "oci:$OUT/oci/$1.tmp:latest" >/dev/null
  mv "$OUT/oci/$1.tmp" "$OUT/oci/$1"
}

# ---- images --------------------------------------------------------------------------------------------
base() { # a minbase Debian in $C: the one in the corpus, or bootstrapped from the mirror that this machine's apt uses
  [ "$(id -u)" = 0 ] || { echo "corpus.sh: the large images are made as root only" >&2; exit 1; }
  if [ ! -d "$OUT/oci/debian" ]; then
    # "deb URI SUITE main" lines of this machine; apt-get indextargets reads both source formats
    # shellcheck disable=SC2016  # the $() are apt's own
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Created-By: Packages' 'Component: main' \
      | grep -E " $SUITE(-updates|-security)? main\$" | sort -u > "$WORK/sources.list" || true
    [ -s "$WORK/sources.list" ] || { echo "no apt source for $SUITE on this machine" >&2; exit 1; }
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1700000000} \
      mmdebstrap --quiet --variant=minbase "$SUITE" "$WORK/base.tar" - < "$WORK/sources.list"
    C=$("${B[@]}" from scratch)
    "${B[@]}" add --quiet "$C" "$WORK/base.tar" / >/dev/null
    "${B[@]}" config --cmd /bin/bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$C"
    commit "$C" debian
    finish debian
    rm -f "$WORK/base.tar"
  fi
  "${B[@]}" inspect --type image localhost/corpus/debian >/dev/null 2>&1 \
    || "${B[@]}" tag "$("${B[@]}" pull --quiet "oci:$OUT/oci/debian:latest")" localhost/corpus/debian
  C=$("${B[@]}" from --pull-never localhost/corpus/debian)
}
APT='apt-get update -qq && apt-get install -y -qq --no-install-recommends'
CLEAN='&& rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin'

make_debian() { base; "${B[@]}" rm "$C" >/dev/null; }
make_pydata() { # 1 base, 2 python3 + venv, 3 numpy + pandas, 4 scikit-learn + matplotlib, 5 an application
  base
  step "$C" "$APT python3 python3-venv $CLEAN" >/dev/null;                                     commit "$C" pydata
  step "$C" "python3 -m venv /opt/v && /opt/v/bin/pip install -q --no-cache-dir numpy pandas"; commit "$C" pydata
  step "$C" "/opt/v/bin/pip install -q --no-cache-dir scikit-learn matplotlib";                commit "$C" pydata
  step "$C" "mkdir /app && printf 'import sklearn, pandas\nprint(pandas.__version__)\n' > /app/main.py"
  "${B[@]}" config --cmd '["/opt/v/bin/python","/app/main.py"]' --workingdir /app "$C";        commit "$C" pydata
  finish pydata
}
make_node() { # 1 base, 2 nodejs + npm of Debian (many small files), 3 front-end packages, 4 an application
  base
  step "$C" "$APT nodejs npm $CLEAN" >/dev/null;                                               commit "$C" node
  step "$C" "mkdir /app && cd /app && npm init -y >/dev/null && npm install --silent --no-audit --no-fund --ignore-scripts \
     react@18 react-dom@18 typescript@5 webpack@5 lodash@4 express@4 @babel/core@7 @babel/preset-env@7 eslint@8 date-fns@2 rxjs@7 \
     && rm -rf /root/.npm";                                                             commit "$C" node
  step "$C" "printf 'console.log(Object.keys(require(\"lodash\")).length)\n' > /app/main.js"
  "${B[@]}" config --cmd '["node","/app/main.js"]' --workingdir /app "$C";                     commit "$C" node
  finish node
}
make_torch() { # the big one: PyPI's torch without the GPU libraries that it names as dependencies
  base
  step "$C" "$APT python3 python3-venv $CLEAN" >/dev/null;                                     commit "$C" torch
  step "$C" "python3 -m venv /opt/v && /opt/v/bin/pip install -q --no-cache-dir numpy filelock typing-extensions sympy networkx jinja2 fsspec"
  commit "$C" torch
  step "$C" "TMPDIR=/var/tmp /opt/v/bin/pip install -q --no-cache-dir --no-deps 'torch==${TORCH_VERSION:-2.4.1}'"
  commit "$C" torch
  finish torch
}

small() { # small NAME
  rm -rf "$OUT/oci/$1.tmp"
  scripts/make_image.py "$1" "$OUT/oci/$1.tmp"
  mv "$OUT/oci/$1.tmp" "$OUT/oci/$1"
}
make_tiny() { small tiny; }
make_odd() { small odd; }
make_opaque() { small opaque; }

# ---- figures -------------------------------------------------------------------------------------------
figures() { python3 - "$1" "$2" <<'PY'
import gzip, json, os, sys, tarfile
d, name = sys.argv[1], sys.argv[2]
blob = lambda dg: os.path.join(d, "blobs", *dg.split(":"))
m = json.load(open(blob(json.load(open(d + "/index.json"))["manifests"][0]["digest"])))
comp = unc = ents = files = 0
for l in m["layers"]:
    comp += l["size"]
    with tarfile.open(blob(l["digest"]), "r|*") as t:
        for e in t:
            ents += 1
            if e.isreg(): files += 1; unc += e.size
print(name, len(m["layers"]), comp, unc, ents, files, sep="\t", end="")
PY
}
for i in "${IMAGES[@]}"; do
  declare -F "make_$i" >/dev/null || { echo "corpus.sh: no such image: $i" >&2; exit 2; }
  [ -d "$OUT/oci/$i" ] || { echo "making image $i"; "make_$i"; }
done
printf 'image\tlayers\tcompressed\tuncompressed\tentries\tfiles\n' > "$OUT/corpus.tsv.new"
for layout in "$OUT"/oci/*/oci-layout; do
  layout=${layout%/oci-layout}
  grep -s "^$(basename "$layout")	" "$OUT/corpus.tsv" || { figures "$layout" "$(basename "$layout")"; echo; }
done >> "$OUT/corpus.tsv.new"
mv "$OUT/corpus.tsv.new" "$OUT/corpus.tsv"; cat "$OUT/corpus.tsv"

# The build store is no part of the corpus; KEEP_STORE=1 keeps it.
if [ -d "$WORK/storage" ] && [ "${KEEP_STORE:-0}" != 1 ]; then
  "${B[@]}" rm --all >/dev/null 2>&1 || true
  "${B[@]}" rmi --all --force >/dev/null 2>&1 || true
  umount "$WORK/storage/overlay" 2>/dev/null || true
fi
[ "${KEEP_STORE:-0}" = 1 ] || rm -rf "$WORK"
