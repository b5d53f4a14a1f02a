#!/usr/bin/env bash
# Checks the prose in the documentation and in the comments of src/ with Vale (.vale.ini, hack/vale). The script builds
# Vale once per machine.
#
#   hack/prose.sh           check
#   hack/prose.sh --build   only build Vale
set -euo pipefail
version=3.22.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache
cd "$here/.."
case ${1:-} in
  '' | --build) ;;
  *) say "hack/prose.sh: unknown argument '$1'; use --build"; exit 2 ;;
esac

open_cache vale <<<"$version"
if [ ! -x "$cache/bin/vale" ]; then
  say "Building Vale $version (once per machine; about two minutes on two cores) into $cache"
  : >"$cache/build.log"
  GOBIN="$cache/bin" step go install "github.com/vale-cli/vale/v3/cmd/vale@v$version"
fi
[ "${1:-}" != --build ] || exit 0
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.md' 'src/*.rs')
"$cache/bin/vale" --no-global --output line "${files[@]}" >&2 || {
  say 'hack/prose.sh: docs/style.md explains the rules'
  exit 1
}
