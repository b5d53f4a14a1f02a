#!/usr/bin/env bash
# Prints, sets or checks the version of the release. The crate, the chart, the image (the chart's appVersion) and the tags in the
# examples of docs/install.md have the same version.
#
#   hack/version.sh            print the version
#   hack/version.sh X.Y.Z      set the version everywhere
#   hack/version.sh --check    print each place with another version (exit 1)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
crate() { sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$1"; }
locked() { sed -n "/^name = \"$1\"$/{n;s/^version = \"\(.*\)\"$/\1/p}" Cargo.lock; }
chart() { sed -n "s/^$1: \"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p" charts/valet/Chart.yaml; }
tags() { grep -oE '(targetRevision|tag): v[0-9][0-9A-Za-z.-]*' docs/install.md | sed 's/.*: //'; }
version=$(crate Cargo.toml)

case ${1:-} in
  '') echo "$version" ;;
  --check)
    wrong=''
    is() { # place, version at that place
      [ "$2" = "$version" ] || { echo "$1 has version '$2', but Cargo.toml has $version; run: hack/version.sh $version" >&2; wrong=1; }
    }
    is Cargo.lock "$(locked valet)"
    is "charts/valet/Chart.yaml, version," "$(chart version)"
    is "charts/valet/Chart.yaml, appVersion," "$(chart appVersion)"
    while IFS= read -r tag; do
      is docs/install.md "${tag#v}"
    done < <(tags)
    [ -z "$wrong" ]
    ;;
  *)
    if [[ ! $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
      echo "hack/version.sh: '$1' is not a version; use for example 0.2.0 or 0.2.0-rc.1" >&2
      exit 2
    fi
    sed -i "/^\[package\]/,/^\[/s/^version = \".*\"$/version = \"$1\"/" Cargo.toml
    sed -i "/^name = \"valet\"$/{n;s/^version = .*$/version = \"$1\"/}" Cargo.lock
    sed -i -e "s/^version: .*$/version: $1/" -e "s/^appVersion: .*$/appVersion: \"$1\"/" charts/valet/Chart.yaml
    sed -i -E "s/(targetRevision|tag): v[0-9][0-9A-Za-z.-]*/\1: v$1/" docs/install.md
    echo "version $1: Cargo.toml, Cargo.lock, charts/valet/Chart.yaml, docs/install.md. Update CHANGELOG.md yourself."
    ;;
esac
