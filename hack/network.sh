#!/usr/bin/env bash
# Builds, once a machine, kube-router, which enforces NetworkPolicies on the tests' own node with iptables and ipset. In a folder
# of its own, since nothing else needs it. Prints that folder on standard output; progress goes to standard error.
#
#   hack/network.sh           build what is missing, print the folder
#   hack/network.sh --check   only say what this machine lacks (exit 1) and how to install it
set -euo pipefail
router=github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v2.1.0

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache

need go "builds kube-router" "see https://go.dev/doc/install   (1.26.7 or newer)"
need ipset "holds the addresses of the pods that a policy chooses" "apt-get update && apt-get install --yes --no-install-recommends ipset"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache network <<<"$router $(go env GOVERSION)"
if [ ! -e "$cache/complete" ]; then
  say "Building kube-router (once a machine; two minutes or so on two cores) into $cache"
  : >"$cache/build.log"
  CGO_ENABLED=0 GOBIN="$cache/bin" step go install -trimpath -ldflags "-s -w" "$router"
  touch "$cache/complete"
fi
printf '%s\n' "$cache/bin"
