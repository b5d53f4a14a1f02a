#!/usr/bin/env bash
# Builds Flux's controllers once per machine, from the Go modules in tests/e2e/flux/go.mod, and copies their manifests from the
# same modules.
#
# Prints the folder with the result on standard output, and progress on standard error.
#
#   bin/                 source-controller, helm-controller, kustomize-controller: static binaries, as in Flux's images
#   manifests/crds/      CRDs of Flux, and the CRDs of the Prometheus operator that the chart uses
#   manifests/manager/   a Deployment for each controller, and Services
#   manifests/rbac/      the permissions that `flux install` gives to the controllers
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache
module="$here/../tests/e2e/flux"
controllers=(source-controller helm-controller kustomize-controller)
# The script uses only manifests of these two modules: RBAC manifests of Flux, and CRDs that the chart uses.
flux=github.com/fluxcd/flux2/v2@v2.9.5
prometheus=github.com/prometheus-operator/prometheus-operator@v0.85.0

need go "builds Flux's controllers" "see https://go.dev/doc/install   (1.26.7 or newer)"
need flock "locks the cache while a run uses it" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache flux < <(cat "$module/go.mod" "$module/go.sum" "${BASH_SOURCE[0]}" - <<<"$(go env GOVERSION)")
mkdir -p "$cache/manifests"/{crds,manager,rbac}
if [ ! -e "$cache/complete" ]; then
  say "Building Flux's controllers (once per machine; about ten minutes on two cores) into $cache"
  cd "$module"
  folder() { # prints the folder of a module after the download
    step go mod download "$1"
    go list -m -f '{{.Dir}}' "$1"
  }
  : >"$cache/build.log"
  for controller in "${controllers[@]}"; do
    began=$SECONDS
    CGO_ENABLED=0 step go build -trimpath -ldflags "-s -w" -o "$cache/bin/$controller" "github.com/fluxcd/$controller"
    from=$(folder "github.com/fluxcd/$controller")
    # Files in Go's module cache are read-only, so set the mode of the copies.
    install --mode 0644 -t "$cache/manifests/crds" "$from"/config/crd/bases/*.yaml
    for kind in deployment service; do
      [ ! -e "$from/config/manager/$kind.yaml" ] ||
        install --mode 0644 "$from/config/manager/$kind.yaml" "$cache/manifests/manager/$controller-$kind.yaml"
    done
    say "$controller $(go list -m -f '{{.Version}}' "github.com/fluxcd/$controller") built in $((SECONDS - began)) s"
  done
  from=$(folder "$flux")
  install --mode 0644 -t "$cache/manifests/rbac" "$from"/manifests/rbac/{controller,reconciler}.yaml
  from=$(folder "$prometheus")
  install --mode 0644 -t "$cache/manifests/crds" \
    "$from"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml
  go list -m -f '{{.Path}} {{.Version}}' "$flux" "${controllers[@]/#/github.com/fluxcd/}" >"$cache/versions"
  touch "$cache/complete"
fi
printf '%s\n' "$cache"
