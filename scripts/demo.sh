#!/usr/bin/env bash
# The service from end to end: starts it on its defaults and sends it a pull job, reads a file back
# out of the archive, mounts it and runs the image's program there, and then makes the other kinds of archive: v1, v1 as the fallback for an image
# that workers can't read as v2, and the migration of one version to the other and back.
#
#   IMAGE=reference   any image; by default a small one, made here and served by a registry of our own
#   FILE=path         the file to read back (default: one of the small image, else /etc/os-release)
#   KEEP=1            stays, with the service running, until Ctrl-C
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/registry.sh
. scripts/registry.sh
scripts/setup.sh demo
cargo build --release --locked
clipwright=${CARGO_TARGET_DIR:-target}/release/clipwright

work=$(mktemp -d)
chmod 755 "$work" # the service runs its PostgreSQL as a user who must get through here
stop() {
  if [ -n "${SERVICE_PID:-}" ]; then
    kill "$SERVICE_PID" 2> /dev/null || true
    wait "$SERVICE_PID" 2> /dev/null || true
  fi
  [ -z "${REGISTRY_PID:-}" ] || kill "$REGISTRY_PID" 2> /dev/null || true
  umount -l "$work/mount" 2> /dev/null || true
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

start_registry "$work"
if [ -z "${IMAGE:-}" ]; then
  echo "== a small image, from busybox and Debian's packages on this machine"
  scripts/make_image.py tiny "$work/image"
  push_layout "$work/image" demo/tiny
  IMAGE=$REGISTRY/demo/tiny:latest
  FILE=${FILE:-/app/hello.txt}
fi
file=${FILE:-/etc/os-release}

echo "== the service: clipwright serve --clip-version 2 --listen 127.0.0.1:0 --data-dir ... --build-registry $REGISTRY"
"$clipwright" serve --clip-version 2 --listen 127.0.0.1:0 --data-dir "$work/data" --build-registry "$REGISTRY" \
  > "$work/out" 2> "$work/log" &
SERVICE_PID=$!
for _ in $(seq 600); do
  base=$(sed -n 's/^clipwright is ready at \(http:[^ ]*\).*/\1/p' "$work/out")
  [ -z "$base" ] || break
  kill -0 "$SERVICE_PID" 2> /dev/null || break
  sleep 0.1
done
if [ -z "$base" ]; then
  echo "the service did not start; the end of its log:" >&2
  tail -n 20 "$work/log" >&2
  exit 1
fi
head -n 1 "$work/out"

# Runs a job and sets `archive` to the file that came of it.
job() {
  scripts/demo_job.py "$base" "$1" > "$work/key"
  archive=$(find "$work/data" -type f -path "*/$(cat "$work/key")" | head -n 1)
}
read_back() {
  echo "\$ clipwright cat ARCHIVE $file"
  "$clipwright" cat "$archive" "$file"
}

echo "== a job: pull $IMAGE"
image_id=$(printf %s "$IMAGE" | sha256sum | cut -c 1-16)
job "{\"kind\": \"pull\", \"image_id\": \"$image_id\", \"source\": \"$IMAGE\"}"
echo "== the archive: $archive"
dir=$(dirname "$file")
echo "\$ clipwright ls ARCHIVE $dir"
"$clipwright" ls "$archive" "$dir" | head -n 20
read_back

echo "== the archive as a file system: what is read is fetched when it is read"
if [ "$(id -u)" = 0 ] && [ -e /dev/fuse ]; then
  mkdir "$work/mount"
  export CLIPWRIGHT_SPAN_CACHE_DIR=$work/spans
  echo "\$ clipwright mount --daemon --report ... ARCHIVE MOUNTPOINT"
  "$clipwright" mount --daemon --report "$work/report" --log "$work/mount.log" "$archive" "$work/mount"
  "$clipwright" mounts
  if [ -x "$work/mount/app/run" ]; then
    echo "\$ chroot MOUNTPOINT /app/run"
    chroot "$work/mount" /app/run
  else
    echo "\$ cat MOUNTPOINT$file"
    cat "$work/mount$file"
  fi
  "$clipwright" unmount "$work/mount"
  for _ in $(seq 100); do [ ! -s "$work/report" ] || break; sleep 0.05; done
  scripts/demo_mount.py "$work/report" "$("$clipwright" inspect --json "$archive")"
else
  echo "(takes root and /dev/fuse: left out)"
fi

echo "== the same image as v1, which carries all data"
packed=$(printf %s "v1 of $IMAGE" | sha256sum | cut -c 1-16)
job "{\"kind\": \"pull\", \"image_id\": \"$packed\", \"source\": \"$IMAGE\", \"clip_version\": 1}"
file=/rootfs$file read_back

echo "== an image that workers would misread as v2: v1 instead"
scripts/make_image.py misread "$work/misread"
push_layout "$work/misread" demo/misread
job "{\"kind\": \"pull\", \"image_id\": \"00000000000000f1\", \"source\": \"$REGISTRY/demo/misread:latest\"}"

echo "== a migration: the v1 archive becomes v2, compared before the switch"
job "{\"kind\": \"migrate\", \"image_id\": \"$packed\", \"to\": 2}"
read_back
echo "== and back again: what was kept returns"
job "{\"kind\": \"migrate\", \"image_id\": \"$packed\", \"to\": 1}"

echo "== a build: a Dockerfile on top of the same image, and a file out of its archive"
if [ "$(id -u)" = 0 ] && command -v buildah > /dev/null; then
  built=$(printf %s "built on $IMAGE" | sha256sum | cut -c 1-16)
  printf 'FROM %s\nRUN echo built > /built\n' "$IMAGE" > "$work/Dockerfile"
  "$clipwright" submit --server "$base" build -f "$work/Dockerfile" --image-id "$built"
  archive=$(find "$work/data" -type f -name "$built.clip" | head -n 1)
  file=/built read_back
else
  echo "(takes root and buildah: left out)"
fi

echo "== the console: $base/   the documentation: $base/docs/   the API: $base/docs/api/"
if [ "${KEEP:-}" = 1 ]; then
  echo "== running until Ctrl-C"
  wait "$SERVICE_PID"
fi
