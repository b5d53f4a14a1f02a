#!/usr/bin/env bash
# Builds the S3 server Garage from its published crate, once per machine. Only `make conformance` uses Garage. Garage has the AGPL
# licence; it is only a server for tests, and no part of any release.
#
# Prints the path of the program on standard output, and progress on standard error.
set -euo pipefail
version=2.5.0
# A debug build takes a quarter of the time, and its speed is sufficient for a few hundred requests.
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
  echo "Building Garage $version into $cache (once per machine; ten minutes or more on two cores) ..." >&2
  began=$SECONDS
  # A separate build folder, because this repository and Garage share no crates.
  CARGO_TARGET_DIR="$cache/target" cargo install --locked --debug --quiet --root "$cache" \
    --no-default-features --features bundled-libs,sqlite "garage@$version" >"$cache/build.log" 2>&1 || {
    echo "building Garage failed. The output of cargo:" >&2
    tail -n 20 "$cache/build.log" >&2
    exit 1
  }
  rm -rf "$cache/target"
  echo "Garage built in $((SECONDS - began)) s" >&2
fi
printf '%s\n' "$program"
