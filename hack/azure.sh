#!/usr/bin/env bash
# Installs, once a machine, what Azure is tested against: Azurite, Microsoft's emulator (an npm package), and a Python with
# Microsoft's own azure-storage-blob, whose signatures those of Valet are compared with.
#
# Prints the folder that holds them on standard output; progress goes to standard error.
#
#   hack/azure.sh           install what is missing, print the folder
#   hack/azure.sh --check   only say what this machine lacks (exit 1) and how to install it
set -euo pipefail

azurite=azurite@3.35.0
# The last of Microsoft's packages that signs by the version of the service that Valet does (src/sign/azure/sas.rs).
package=azure-storage-blob==12.19.1

say() { printf '%s\n' "$*" >&2; }

lacking=0
need() { # program, what it is for, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "missing  $1 ($2)"
  say "         install it:  $3"
}
need node "runs Azurite" "apt-get update && apt-get install --yes nodejs   (18 or newer)"
need npm "installs Azurite" "apt-get update && apt-get install --yes npm"
need python3 "runs Microsoft's package" "apt-get update && apt-get install --yes python3 python3-venv"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
[ "$lacking" = 0 ] || exit 1
[ "${1:-}" != --check ] || exit 0

key=$(sha256sum <<<"$azurite $package" | cut -c1-12)
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/azure-$key"
mkdir -p "$cache/bin"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/complete" ]; then
  say "Installing Azurite and Microsoft's Python package (once a machine, about a minute) into $cache"
  log="$cache/install.log"
  run() { "$@" >>"$log" 2>&1 || { say "$* failed:"; tail -n 20 "$log" >&2; exit 1; }; }
  : >"$log"
  run npm install --prefix "$cache" --no-audit --no-fund --no-save "$azurite"
  run python3 -m venv "$cache/venv"
  run "$cache/venv/bin/pip" install --disable-pip-version-check "$package"
  printf '#!/bin/sh\nexec node "%s" "$@"\n' "$cache/node_modules/azurite/dist/src/blob/main.js" >"$cache/bin/azurite-blob"
  # A wrapper and not a link: Python finds its virtual environment by the path it was started with.
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$cache/venv/bin/python3" >"$cache/bin/python3"
  chmod +x "$cache/bin/azurite-blob" "$cache/bin/python3"
  touch "$cache/complete"
fi
printf '%s\n' "$cache/bin"
