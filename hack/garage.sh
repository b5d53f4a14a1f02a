#!/usr/bin/env bash
# Builds, once a machine, the third store of `make conformance`: Garage, from its published crate. It is AGPL: a peer to test
# against, never shipped and no part of anything that is. Nothing else needs it.
#
# Prints the program's path on standard output; progress goes to standard error.
set -euo pipefail
version=2.5.0
# Without optimisation it is built in a quarter of the time, and a few hundred requests do not mind.
export CARGO_PROFILE_DEV_DEBUG=0

if ! { command -v cargo && command -v cc && command -v make; } >/dev/null; then
  echo "hack/garage.sh needs cargo, a C compiler and make: apt-get update && apt-get install --yes gcc libc6-dev make" >&2
  exit 1
fi
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/garage-$version"
program="$cache/bin/garage"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || { echo "another run is building Garage; waiting for it ..." >&2; flock 9; }
if [ ! -x "$program" ]; then
  echo "Building Garage $version into $cache (once a machine; ten minutes or more on two cores) ..." >&2
  began=$SECONDS
  # Not this repository's folder for builds: the crates have nothing in common.
  CARGO_TARGET_DIR="$cache/target" cargo install --locked --debug --quiet --root "$cache" \
    --no-default-features --features bundled-libs,sqlite "garage@$version" >"$cache/build.log" 2>&1 || {
    echo "building Garage failed; cargo said:" >&2
    tail -n 20 "$cache/build.log" >&2
    exit 1
  }
  rm -rf "$cache/target"
  echo "Garage built in $((SECONDS - began)) s" >&2
fi
printf '%s\n' "$program"
