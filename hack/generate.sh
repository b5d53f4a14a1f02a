#!/usr/bin/env bash
# Writes the files that are generated from the code: crds/valet.yaml and docs/reference/api.md.
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
hack/api-reference.py <"$new/crds/valet.yaml" >"$new/api.md"
if [ "${1:-}" = --check ]; then
  if ! diff -u crds/valet.yaml "$new/crds/valet.yaml" || ! diff -u docs/reference/api.md "$new/api.md"; then
    echo "these files are not what the code says; run: make generate" >&2
    exit 1
  fi
else
  cp "$new/crds/valet.yaml" crds/valet.yaml
  cp "$new/api.md" docs/reference/api.md
fi
