#!/usr/bin/env bash
# Says what of the build could change without a commit here (exit 1): an action of a workflow that is not named by a commit, with
# its version beside it, and an image that is not named by a digest.
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
      say "$file" "FROM $image is neither scratch nor a stage nor named by a digest; write FROM IMAGE:TAG@sha256:DIGEST"
    stages+="${name:-} "
  done < <(grep -iE '^FROM ' "$file")
done < <(find . -name Dockerfile -not -path './target/*' -not -path './.git/*')
# One tag, one digest: what is built with Docker and what a release builds come from the same image.
twice=$(grep -rhoE "[a-z]+:[^ @]+$digest" .github/workflows Dockerfile tests/e2e/images/Dockerfile 2>/dev/null | sort -u | cut -d@ -f1 | uniq -d)
[ -z "$twice" ] || say "$twice" "has more than one digest"
[ -z "$wrong" ]
