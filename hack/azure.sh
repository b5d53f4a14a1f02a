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
# The last of Microsoft's packages that signs by the version of the service that Valet does (src/provider/azure/sas.rs).
package=azure-storage-blob==12.19.1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache

need node "runs Azurite" "see https://nodejs.org   (18 or newer)"
need npm "installs Azurite" "it comes with Node.js, https://nodejs.org"
need python3 "runs Microsoft's package" "apt-get update && apt-get install --yes python3 python3-venv"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache azure <<<"$azurite $package"
if [ ! -e "$cache/complete" ]; then
  say "Installing Azurite and Microsoft's Python package (once a machine, about a minute) into $cache"
  : >"$cache/build.log"
  step npm install --prefix "$cache" --no-audit --no-fund --no-save "$azurite"
  python_with "$package"
  printf '#!/bin/sh\nexec node "%s" "$@"\n' "$cache/node_modules/azurite/dist/src/blob/main.js" >"$cache/bin/azurite-blob"
  chmod +x "$cache/bin/azurite-blob"
  touch "$cache/complete"
fi
printf '%s\n' "$cache/bin"
