#!/usr/bin/env bash
# Builds, once a machine, the programs that the tests and the demo run against: a real kube-apiserver,
# kube-controller-manager, etcd and kubectl, kstatus, the S3 server versitygw, and a Python with botocore.
# Prints the folder that holds them on standard output; progress goes to standard error.
#
#   hack/tools.sh            build what is missing, print the folder
#   hack/tools.sh --check    only say what this machine lacks (exit 1) and how to install it
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module="$here/../tests/harness/tools"

versitygw=github.com/versity/versitygw@v1.8.0
botocore=botocore==1.44.5
kubernetes=$(sed -n 's#^\tk8s.io/kubernetes v##p' "$module/go.mod" | tail -n 1)

if [ -t 2 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' off=$'\e[0m' tty=1; else bold='' dim='' red='' off='' tty=''; fi
say() { printf '%s\n' "$*" >&2; }

# --- what the machine must have -------------------------------------------------------------------
lacking=0
need() { # program, what it is for, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "${red}missing${off}  ${bold}$1${off} ($2)"
  say "         install it:  $3"
}
need cargo "builds Valet" "curl https://sh.rustup.rs -sSf | sh   (or: apt-get install rustup && rustup default stable)"
need cc "links Rust programs" "apt-get update && apt-get install --yes gcc libc6-dev"
need go "builds kube-apiserver, etcd and the S3 server" "see https://go.dev/doc/install   (1.24 or newer)"
need python3 "runs the independent verifier of signed URLs" "apt-get update && apt-get install --yes python3 python3-venv"
need curl "is what a workload uses" "apt-get update && apt-get install --yes curl"
need openssl "makes the control plane's keys" "apt-get update && apt-get install --yes openssl"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  lacking=1
  say "${red}missing${off}  ${bold}python3-venv${off} (holds the verifier's packages apart)"
  say "         install it:  apt-get update && apt-get install --yes python3-venv"
fi
[ "$lacking" = 0 ] || exit 1
[ "${1:-}" != --check ] || exit 0

# --- the cache -------------------------------------------------------------------------------------
# Keyed by everything that goes into the programs, so that a change of version is a new folder.
key=$(cat "$module/go.mod" "$module/go.sum" "$module/kstatus/main.go" - <<<"$versitygw $botocore $(go env GOVERSION)" | sha256sum | cut -c1-12)
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/tools-$key"
bin="$cache/bin"
mkdir -p "$bin"

steps=7 step=0
# Go names each package as it compiles it; against the number of packages that is a percentage.
# Packages that an earlier step has compiled are not named, so the count can end below the total.
build() { # program, package, extra arguments to go build
  local program=$1 package=$2; shift 2
  step=$((step + 1))
  [ -x "$bin/$program" ] && return
  local total count=0 began=$SECONDS
  total=$(cd "$module" && go list -deps "$package" 2>/dev/null | wc -l)
  [ -n "$tty" ] || say "[$step/$steps] building $program ..."
  if ! { (cd "$module" && go build -v -trimpath -o "$bin/.$program.new" "$@" "$package" 2>&1) | while IFS= read -r line; do
    count=$((count + 1))
    case $line in
      *' '*) printf '%s\n' "$line" >>"$cache/build.log" ;;
    esac
    [ -z "$tty" ] || printf '\r\e[K[%d/%d] building %s%s%s  %3d%%  %ds  %s%.40s%s' "$step" "$steps" "$bold" "$program" "$off" \
      $((count * 100 / (total + 1))) $((SECONDS - began)) "$dim" "$line" "$off" >&2
  done; }; then
    say ""
    say "${red}building $program failed${off}; the compiler said:"
    tail -n 20 "$cache/build.log" >&2 || true
    exit 1
  fi
  mv "$bin/.$program.new" "$bin/$program"
  [ -z "$tty" ] || printf '\r\e[K' >&2
  say "[$step/$steps] $program built in $((SECONDS - began)) s"
}

exec 9>"$cache/lock"
if ! flock --nonblock 9; then
  say "another run is building the tools; waiting for it ..."
  flock 9
fi
if [ ! -e "$cache/complete" ]; then
  say "${bold}Building a real control plane and an S3 server${off} (once a machine; about ten minutes on two cores) into $cache"
  : >"$cache/build.log"
  k8s="-X k8s.io/component-base/version.gitVersion=v$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
  # Without symbol tables the five programs take half the disk.
  build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver -ldflags "-s -w $k8s"
  build kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager -ldflags "-s -w $k8s"
  build kubectl k8s.io/kubernetes/cmd/kubectl -ldflags "-s -w $k8s"
  build kstatus ./kstatus -ldflags "-s -w"
  build etcd go.etcd.io/etcd/server/v3 -ldflags "-s -w"
  step=$((step + 1))
  if [ ! -x "$bin/versitygw" ]; then
    began=$SECONDS
    say "[$step/$steps] building versitygw, the S3 server ..."
    GOBIN="$bin" GOFLAGS=-trimpath go install "${versitygw%@*}/cmd/versitygw@${versitygw#*@}" >>"$cache/build.log" 2>&1 || {
      say "${red}building versitygw failed${off}:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
    say "[$step/$steps] versitygw built in $((SECONDS - began)) s"
  fi
  step=$((step + 1))
  if [ ! -x "$bin/python3" ]; then
    say "[$step/$steps] installing botocore, the independent verifier ..."
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$botocore" >>"$cache/build.log" 2>&1 || {
      say "${red}installing $botocore failed${off}:"; tail -n 20 "$cache/build.log" >&2; exit 1; }
    # A wrapper and not a link: Python finds its virtual environment by the path it was started with.
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$cache/venv/bin/python3" >"$bin/python3"
    chmod +x "$bin/python3"
  fi
  touch "$cache/complete"
fi
printf '%s\n' "$bin"
