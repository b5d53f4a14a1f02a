#!/usr/bin/env bash
# Builds, once a machine, kube-router, which enforces NetworkPolicies on the tests' own node with iptables and ipset. In a folder
# of its own, since nothing else needs it. Prints that folder on standard output; progress goes to standard error.
#
#   hack/network.sh           build what is missing, print the folder
#   hack/network.sh --check   only say what this machine lacks (exit 1) and how to install it
set -euo pipefail
router=github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v2.1.0

say() { printf '%s\n' "$*" >&2; }
lacking=0
need() { # program, what it is for, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "missing  $1 ($2)"
  say "         install it:  $3"
}
need go "builds kube-router" "see https://go.dev/doc/install   (1.24 or newer)"
need ipset "holds the addresses of the pods that a policy chooses" "apt-get update && apt-get install --yes --no-install-recommends ipset"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
[ "$lacking" = 0 ] || exit 1
[ "${1:-}" != --check ] || exit 0

key=$(sha256sum <<<"$router $(go env GOVERSION)" | cut -c1-12)
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/network-$key"
bin="$cache/bin"
mkdir -p "$bin"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/complete" ]; then
  say "Building kube-router (once a machine; two minutes or so on two cores) into $cache"
  CGO_ENABLED=0 GOBIN="$bin" go install -trimpath -ldflags "-s -w" "$router" >"$cache/build.log" 2>&1 || {
    say "building $router failed; the compiler said:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
  touch "$cache/complete"
fi
printf '%s\n' "$bin"
