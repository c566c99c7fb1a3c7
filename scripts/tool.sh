# shellcheck shell=bash
# Cargo subcommands that this machine may lack, to be sourced:
#
#   tool CRATE BINARY [CARGO INSTALL FLAGS...]   builds it once, into target/tools, unless it is there
#
# Built to be there soon rather than to be fast: they run for seconds.

export PATH="$PWD/target/tools/bin:$PATH"

tool() {
  local crate=$1 binary=$2
  shift 2
  command -v "$binary" > /dev/null || {
    echo "installing $crate into target/tools (some minutes, once)"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
      CARGO_PROFILE_RELEASE_DEBUG=0 cargo install --quiet --locked --root target/tools "$@" "$crate"
  }
}
