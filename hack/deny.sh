#!/usr/bin/env bash
# Checks the crates in Cargo.lock with cargo-deny and deny.toml. The checks of licences, banned crates and sources need no
# network. The check of security advisories needs RustSec's database. The script builds cargo-deny once per machine.
#
#   hack/deny.sh                check; without the database, print that advisories were not checked
#   hack/deny.sh --advisories   check; fail without a current database (a release uses this)
#   hack/deny.sh --build        only build cargo-deny
set -euo pipefail
version=0.20.2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache
cd "$here/.."
case ${1:-} in
  '' | --advisories | --build) ;;
  *) say "hack/deny.sh: unknown argument '$1'; use --advisories or --build"; exit 2 ;;
esac

open_cache deny <<<"$version $(rustc --version)"
if [ ! -x "$cache/bin/cargo-deny" ]; then
  say "Building cargo-deny $version (once per machine; about three minutes on two cores) into $cache"
  : >"$cache/build.log"
  # With the release profile of cargo-deny, the build takes three times as long.
  export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
  CARGO_TARGET_DIR="$cache/target" step cargo install --locked --root "$cache" "cargo-deny@$version"
  rm -rf "$cache/target"
fi
[ "${1:-}" != --build ] || exit 0
deny() { "$cache/bin/cargo-deny" --locked "$@"; }

deny --log-level error check --hide-inclusion-graph licenses bans sources >&2

# Without the database, only a release fails. A developer who works offline gets a message.
if timeout 120 "$cache/bin/cargo-deny" --log-level error fetch db >"$cache/fetch.log" 2>&1; then
  deny --log-level error check --hide-inclusion-graph advisories >&2
elif [ "${1:-}" = --advisories ]; then
  say "hack/deny.sh: cannot fetch the advisory database, which a release needs:"
  tail -n 5 "$cache/fetch.log" >&2
  exit 1
else
  say "NOT CHECKED: security advisories. Cannot fetch RustSec's database: $(grep -v '^$' "$cache/fetch.log" | tail -n 1)"
fi
