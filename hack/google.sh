#!/usr/bin/env bash
# Builds, once a machine, what the tests of Google Cloud Storage run against: fake-gcs-server, and a Python with Google's
# own client. In a folder of its own, since nothing else needs them. Prints that folder; progress goes to standard error.
set -euo pipefail
server=github.com/fsouza/fake-gcs-server@v1.56.1
client=google-cloud-storage==3.17.1

say() { printf '%s\n' "$*" >&2; }
for program in go python3 flock; do
  command -v "$program" >/dev/null 2>&1 || { say "$program is missing; hack/tools.sh --check says how to install it"; exit 1; }
done
key=$(sha256sum <<<"$server $client $(go env GOVERSION)" | cut -c1-12)
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/google-$key"
bin="$cache/bin"
mkdir -p "$bin"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/complete" ]; then
  say "Building fake-gcs-server and installing Google's client (once a machine; two or three minutes on two cores) into $cache"
  GOBIN="$bin" go install -trimpath -ldflags "-s -w" "$server" >"$cache/build.log" 2>&1 || {
    say "building $server failed; the compiler said:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$client" >>"$cache/build.log" 2>&1 || {
    say "installing $client failed:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
  # A wrapper and not a link: Python finds its virtual environment by the path it was started with.
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$cache/venv/bin/python3" >"$bin/python3"
  chmod +x "$bin/python3"
  touch "$cache/complete"
fi
printf '%s\n' "$bin"
