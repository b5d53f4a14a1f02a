#!/usr/bin/env bash
# Reads the command in README.md that installs the Debian packages for `make demo`, `make test` and `make e2e`. CI runs this
# command, so CI fails if a package is missing in it.
#
#   hack/debian.sh             print the command
#   hack/debian.sh --install   run the command, unless all of its packages are installed
set -euo pipefail
readme="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/README.md"
begin='apt-get update && apt-get install --yes --no-install-recommends '
# The command in README.md can have several lines.
line=$(sed -e ':a' -e '/\\$/{N;s/ *\\\n */ /;ba' -e '}' "$readme" | grep -F "$begin" || true)
if [ -z "$line" ] || [ "$(wc -l <<<"$line")" != 1 ] || [[ $line != "$begin"* ]]; then
  echo "hack/debian.sh: README.md must have exactly one command that begins with '$begin'" >&2
  exit 1
fi
case ${1:-} in
  '') printf '%s\n' "$line" ;;
  --install)
    read -ra packages <<<"${line#"$begin"}"
    for package in "${packages[@]}"; do
      [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] && continue
      bash -euc "$line"
      break
    done
    ;;
  *) echo "hack/debian.sh: unknown argument '$1'; use --install or no argument" >&2; exit 2 ;;
esac
