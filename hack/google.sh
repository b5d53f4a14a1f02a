#!/usr/bin/env bash
# Builds the programs for the tests of Google Cloud Storage, once per machine: fake-gcs-server, and a Python with Google's client
# library. Prints the folder with the programs on standard output, and progress on standard error.
set -euo pipefail
server=github.com/fsouza/fake-gcs-server@v1.56.1
client=google-cloud-storage==3.17.1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache

need go "builds fake-gcs-server" "see https://go.dev/doc/install   (1.26.7 or newer)"
need python3 "runs Google's client" "apt-get update && apt-get install --yes python3 python3-venv"
need flock "locks the cache while a run uses it" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache google <<<"$server $client $(go env GOVERSION)"
if [ ! -e "$cache/complete" ]; then
  say "Building fake-gcs-server and installing Google's client (once per machine; two or three minutes on two cores) into $cache"
  : >"$cache/build.log"
  GOBIN="$cache/bin" step go install -trimpath -ldflags "-s -w" "$server"
  python_with "$client"
  touch "$cache/complete"
fi
printf '%s\n' "$cache/bin"
