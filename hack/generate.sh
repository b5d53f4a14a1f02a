#!/usr/bin/env bash
# Writes the files that are generated from the code: crds/valet.yaml.
#
#   hack/generate.sh           write them
#   hack/generate.sh --check   only say what is out of date (exit 1)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --quiet --bin valet
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
mkdir -p "$new/crds"
"${CARGO_TARGET_DIR:-target}/debug/valet" crds >"$new/crds/valet.yaml"
if [ "${1:-}" = --check ]; then
  if ! diff -ru crds "$new/crds"; then
    echo "crds/ is not what the code says; run: make generate" >&2
    exit 1
  fi
else
  cp "$new/crds/valet.yaml" crds/valet.yaml
fi
