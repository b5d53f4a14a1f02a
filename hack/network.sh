#!/usr/bin/env bash
# Builds kube-router once per machine. It enforces NetworkPolicies on the node of the end-to-end tests, with iptables and ipset.
# Prints the folder with the program on standard output, and progress on standard error.
#
#   hack/network.sh           build the program if it is missing, print the folder
#   hack/network.sh --check   only print which programs this machine needs and how to install them (exit 1)
set -euo pipefail
router=github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v2.1.0

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache

need go "builds kube-router" "see https://go.dev/doc/install   (1.26.7 or newer)"
need ipset "stores the addresses of the pods that a NetworkPolicy selects" "apt-get update && apt-get install --yes --no-install-recommends ipset"
need flock "locks the cache while a run uses it" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache network <<<"$router $(go env GOVERSION)"
if [ ! -e "$cache/complete" ]; then
  say "Building kube-router (once per machine; about two minutes on two cores) into $cache"
  : >"$cache/build.log"
  CGO_ENABLED=0 GOBIN="$cache/bin" step go install -trimpath -ldflags "-s -w" "$router"
  touch "$cache/complete"
fi
printf '%s\n' "$cache/bin"
