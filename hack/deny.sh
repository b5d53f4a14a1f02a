#!/usr/bin/env bash
# Checks the crates in Cargo.lock with cargo-deny against deny.toml: licences, banned crates and sources, which needs no
# network; and security advisories, which needs RustSec's database. cargo-deny is built once a machine, into the cache.
#
#   hack/deny.sh                check; without the database, say that the advisories were not checked
#   hack/deny.sh --advisories   the same, but without a fresh database fail (a release does this)
#   hack/deny.sh --build        only build cargo-deny
set -euo pipefail
version=0.20.2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache
cd "$here/.."
case ${1:-} in
  '' | --advisories | --build) ;;
  *) say "hack/deny.sh: '$1' is neither --advisories nor --build"; exit 2 ;;
esac

open_cache deny <<<"$version $(rustc --version)"
if [ ! -x "$cache/bin/cargo-deny" ]; then
  say "Building cargo-deny $version (once a machine; about three minutes on two cores) into $cache"
  : >"$cache/build.log"
  # The crate's own release profile optimises for a download, and takes three times as long.
  export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
  CARGO_TARGET_DIR="$cache/target" step cargo install --locked --root "$cache" "cargo-deny@$version"
  rm -rf "$cache/target"
fi
[ "${1:-}" != --build ] || exit 0
deny() { "$cache/bin/cargo-deny" --locked "$@"; }

deny --log-level error check --hide-inclusion-graph licenses bans sources >&2

# A database that cannot be reached is no reason to stop somebody who works offline, and no reason to be silent.
if timeout 120 "$cache/bin/cargo-deny" --log-level error fetch db >"$cache/fetch.log" 2>&1; then
  deny --log-level error check --hide-inclusion-graph advisories >&2
elif [ "${1:-}" = --advisories ]; then
  say "hack/deny.sh: the advisory database cannot be fetched, and a release needs it:"
  tail -n 5 "$cache/fetch.log" >&2
  exit 1
else
  say "NOT CHECKED: security advisories. RustSec's database cannot be fetched from here: $(grep -v '^$' "$cache/fetch.log" | tail -n 1)"
fi
