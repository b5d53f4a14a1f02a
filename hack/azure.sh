#!/usr/bin/env bash
# Installs the programs for the Azure tests, once per machine: Azurite (Microsoft's emulator, an npm package), and a Python with
# Microsoft's package azure-storage-blob. The tests compare its signatures with Valet's.
#
# Prints the folder with the programs on standard output, and progress on standard error.
#
#   hack/azure.sh           install missing programs, print the folder
#   hack/azure.sh --check   only print which programs this machine needs and how to install them (exit 1)
set -euo pipefail

azurite=azurite@3.35.0
# The last version of Microsoft's package that signs with the same service version as Valet (src/provider/azure/sas.rs).
package=azure-storage-blob==12.19.1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache

need node "runs Azurite" "see https://nodejs.org   (18 or newer)"
need npm "installs Azurite" "it comes with Node.js, https://nodejs.org"
need python3 "runs Microsoft's package" "apt-get update && apt-get install --yes python3 python3-venv"
need flock "locks the cache while a run uses it" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache azure <<<"$azurite $package"
if [ ! -e "$cache/complete" ]; then
  say "Installing Azurite and Microsoft's Python package (once per machine; about a minute) into $cache"
  : >"$cache/build.log"
  step npm install --prefix "$cache" --no-audit --no-fund --no-save "$azurite"
  python_with "$package"
  printf '#!/bin/sh\nexec node "%s" "$@"\n' "$cache/node_modules/azurite/dist/src/blob/main.js" >"$cache/bin/azurite-blob"
  chmod +x "$cache/bin/azurite-blob"
  touch "$cache/complete"
fi
printf '%s\n' "$cache/bin"
