# shellcheck shell=bash
# A registry of our own on a free loopback port, to be sourced:
#
#   start_registry DIR        starts it over DIR/registry; sets REGISTRY (host:port) and REGISTRY_PID
#   push_layout LAYOUT NAME   copies an OCI layout's tag "latest" to $REGISTRY/NAME:latest, bytes unchanged
#
# The caller stops it: kill "$REGISTRY_PID".

start_registry() {
  local dir=$1 log=$1/registry.log _
  mkdir -p "$dir/registry"
  cat > "$dir/registry.yml" <<YML
version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: "$dir/registry"}
  delete: {enabled: true}
http: {addr: "127.0.0.1:0"}
YML
  docker-registry serve "$dir/registry.yml" > "$log" 2>&1 &
  REGISTRY_PID=$!
  for _ in $(seq 100); do
    # The kernel chose the port; the log says which.
    REGISTRY=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$log" | head -n 1)
    [ -z "$REGISTRY" ] || return 0
    kill -0 "$REGISTRY_PID" 2>/dev/null || break
    sleep 0.05
  done
  echo "the registry did not start; the end of its log:" >&2
  tail -n 5 "$log" >&2
  return 1
}

push_layout() {
  skopeo copy --quiet --preserve-digests --dest-tls-verify=false \
    "oci:$1:latest" "docker://$REGISTRY/$2:latest"
}
