#!/usr/bin/env bash
# The command of README.md that installs from Debian what `make demo`, `make test` and `make e2e` need. CI installs by it, so
# that it cannot lack anything.
#
#   hack/debian.sh             print it
#   hack/debian.sh --install   run it, unless all of its packages are installed
set -euo pipefail
readme="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/README.md"
begin='apt-get update && apt-get install --yes --no-install-recommends '
# In the README it may go on over several lines.
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
  *) echo "hack/debian.sh: '$1' is not --install" >&2; exit 2 ;;
esac
