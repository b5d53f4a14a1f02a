#!/usr/bin/env bash
# Builds, once a machine, Flux's own controllers from the Go modules that Flux publishes (tests/e2e/flux/go.mod says which), and
# lays their manifests beside them as they are in those modules. In a folder of its own, since nothing else needs them.
#
# Prints that folder on standard output; progress goes to standard error.
#
#   bin/                 source-controller, helm-controller, kustomize-controller: static, as Flux's images have them
#   manifests/crds/      Flux's kinds, and those of the Prometheus operator that the chart has objects of
#   manifests/manager/   a Deployment each, and Services
#   manifests/rbac/      what `flux install` lets the controllers do
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/once.sh" # sets $cache
module="$here/../tests/e2e/flux"
controllers=(source-controller helm-controller kustomize-controller)
# Only their manifests are used: the rights that Flux gives its controllers, and kinds that the chart has objects of.
flux=github.com/fluxcd/flux2/v2@v2.9.5
prometheus=github.com/prometheus-operator/prometheus-operator@v0.85.0

need go "builds Flux's controllers" "see https://go.dev/doc/install   (1.26.7 or newer)"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
needed "$@"

open_cache flux < <(cat "$module/go.mod" "$module/go.sum" "${BASH_SOURCE[0]}" - <<<"$(go env GOVERSION)")
mkdir -p "$cache/manifests"/{crds,manager,rbac}
if [ ! -e "$cache/complete" ]; then
  say "Building Flux's controllers (once a machine; ten minutes or so on two cores) into $cache"
  cd "$module"
  folder() { # of a module, unpacked
    step go mod download "$1"
    go list -m -f '{{.Dir}}' "$1"
  }
  : >"$cache/build.log"
  for controller in "${controllers[@]}"; do
    began=$SECONDS
    CGO_ENABLED=0 step go build -trimpath -ldflags "-s -w" -o "$cache/bin/$controller" "github.com/fluxcd/$controller"
    from=$(folder "github.com/fluxcd/$controller")
    # What comes out of Go's module cache cannot be written to.
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
