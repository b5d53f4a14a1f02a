#!/usr/bin/env bash
# Checks that the build can change only with a commit in this repository. Each action in a workflow must name a commit and, in a
# comment, its version. Each image must name a digest. Prints every violation (exit 1).
#
#   hack/pinned.sh [FOLDER]    default: this repository
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"
wrong=''
say() { printf '%s: %s\n' "$1" "$2" >&2; wrong=1; }
digest='@sha256:[0-9a-f]{64}'
shopt -s nullglob
for file in .github/workflows/*.y*ml; do
  while IFS= read -r line; do
    [[ $line =~ uses:\ *\./ ]] || [[ $line =~ uses:\ *[^@\ ]+@[0-9a-f]{40}\ +\#\ v[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
      say "$file" "'${line# }' names no commit with its version; write uses: OWNER/NAME@COMMIT # vX.Y.Z"
  done < <(grep -E '^[^#]*uses:' "$file" || true)
  while IFS= read -r line; do
    [[ $line =~ $digest ]] || say "$file" "'${line# }' names no digest; write IMAGE:TAG@sha256:DIGEST"
  done < <(grep -E '^[^#]*(container|image): *[^ {]*[a-z]+:[^ ]+' "$file" || true)
done
while IFS= read -r file; do
  stages=' '
  while read -r _ image _ name _; do
    [ "$image" = scratch ] || [[ $stages == *" $image "* ]] || [[ $image =~ $digest$ ]] ||
      say "$file" "FROM $image is neither scratch, nor a stage, nor an image with a digest; write FROM IMAGE:TAG@sha256:DIGEST"
    stages+="${name:-} "
  done < <(grep -iE '^FROM ' "$file")
done < <(find . -name Dockerfile -not -path './target/*' -not -path './.git/*')
# All files must use the same digest for a tag, so that Docker builds and releases use the same base image.
twice=$(grep -rhoE "[a-z]+:[^ @]+$digest" .github/workflows Dockerfile tests/e2e/images/Dockerfile 2>/dev/null | sort -u | cut -d@ -f1 | uniq -d)
[ -z "$twice" ] || say "$twice" "has more than one digest"
[ -z "$wrong" ]
