#!/usr/bin/env bash
# Builds, once a machine, the programs that tests and demo run against, in sets:
#
#   control-plane   a real kube-apiserver, kube-controller-manager, etcd and kubectl, kstatus, the S3 server versitygw,
#                   and a Python with botocore; always there
#   chart           helm and promtool: what the chart's tests need
#   node            kubelet, kube-proxy, kube-scheduler: with containerd, a node with real pods
#   monitoring      prometheus itself
#   stores          MinIO, the last release of its source: a store that differs from versitygw; to test against only
#   tests           nothing to build: the programs that the tests run, for --check
#   clocks          nothing to build: the library that sets the operator's clock in one test, for --check
#   browser         nothing to build: the browser of one end-to-end story, for --check
#
# Prints the folder that holds them on standard output; progress goes to standard error.
#
#   hack/tools.sh [SET...]            build what is missing, print the folder
#   hack/tools.sh --check [SET...]    only say what this machine lacks (exit 1) and how to install it
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
module="$here/../tests/harness/tools"

versitygw=github.com/versity/versitygw/cmd/versitygw@v1.8.0
botocore=botocore==1.44.5
minio=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
helm=helm.sh/helm/v4/cmd/helm@v4.3.1
promtool=github.com/prometheus/prometheus/cmd/promtool@v0.316.0
prometheus=github.com/prometheus/prometheus/cmd/prometheus@v0.316.0
kubernetes=$(sed -n 's#^\tk8s.io/kubernetes v##p' "$module/go.mod" | tail -n 1)

if [ -t 2 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' off=$'\e[0m' tty=1; else bold='' dim='' red='' off='' tty=''; fi
say() { printf '%s\n' "$*" >&2; }

check='' sets=(control-plane)
for argument in "$@"; do
  case $argument in
    --check) check=1 ;;
    control-plane) ;;
    chart | node | monitoring | stores | tests | clocks | browser) sets+=("$argument") ;;
    *) say "hack/tools.sh: '$argument' is none of --check, control-plane, chart, node, monitoring, stores, tests, clocks, browser"; exit 2 ;;
  esac
done
wanted() { [[ " ${sets[*]} " == *" $1 "* ]]; }

# --- what the machine must have -------------------------------------------------------------------
lacking=0
need() { # program, what it is for, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "${red}missing${off}  ${bold}$1${off} ($2)"
  say "         install it:  $3"
}
# What is there, but too old: README.md names the same versions.
old() { # program, its version, the least that will do, how to install it
  [ "$(printf '%s\n' "$3" "$2" | sort --version-sort | head -n 1)" = "$3" ] && return
  lacking=1
  say "too old  ${bold}$1 $2${off} ($3 or newer)"
  say "         install it:  $4"
}
need cargo "builds Valet" "see https://rustup.rs   (1.95 or newer)"
need cc "links Rust programs" "apt-get update && apt-get install --yes gcc libc6-dev"
need go "builds kube-apiserver, etcd and the S3 server" "see https://go.dev/doc/install   (1.26.7 or newer)"
need python3 "runs the independent verifier of signed URLs" "apt-get update && apt-get install --yes python3 python3-venv"
need curl "is what a workload uses" "apt-get update && apt-get install --yes curl"
need openssl "makes the control plane's keys" "apt-get update && apt-get install --yes openssl"
need flock "lets two runs share one cache" "apt-get update && apt-get install --yes util-linux"
if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  lacking=1
  say "${red}missing${off}  ${bold}python3-venv${off} (holds the verifier's packages apart)"
  say "         install it:  apt-get update && apt-get install --yes python3-venv"
fi
if command -v cargo >/dev/null 2>&1; then
  old cargo "$(cargo --version | cut -d' ' -f2)" 1.95 "rustup update stable"
fi
# Since 1.21 Go fetches a newer one where a module asks for it, unless it is told not to.
if command -v go >/dev/null 2>&1; then
  least=1.21
  [ "$(go env GOTOOLCHAIN)" != local ] || least=1.26.7
  old go "$(go env GOVERSION | sed 's/^go//')" "$least" "see https://go.dev/doc/install   (1.26.7 or newer)"
fi
if wanted tests; then
  need busybox "is a shell that the upload script must run in" "apt-get update && apt-get install --yes busybox-static"
  need node "runs a client of the documentation" "see https://nodejs.org   (18 or newer)"
  if command -v node >/dev/null 2>&1; then
    old node "$(node --print process.versions.node)" 18 "see https://nodejs.org   (18 or newer)"
  fi
fi
if wanted clocks && ! compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; then
  need faketime "sets the operator's clock" "apt-get update && apt-get install --yes --no-install-recommends faketime"
fi
if wanted node; then
  node='apt-get update && apt-get install --yes --no-install-recommends containerd runc containernetworking-plugins iptables conntrack iproute2 buildah busybox-static'
  for program in containerd ctr runc iptables conntrack ip buildah busybox; do
    need "$program" "makes this machine a node with pods" "$node"
  done
  # Together they are what the story of lent credentials runs on.
  if wanted stores; then
    need rclone "is a stock S3 client" "apt-get update && apt-get install --yes --no-install-recommends rclone"
  fi
  if [ ! -x /usr/lib/cni/bridge ]; then
    lacking=1
    say "${red}missing${off}  ${bold}/usr/lib/cni/bridge${off} (gives pods their addresses)"
    say "         install it:  $node"
  fi
  if [ "$(id -u)" != 0 ]; then
    lacking=1
    say "${red}missing${off}  ${bold}root${off} (a node makes namespaces, mounts and a bridge); or use a cluster that you have: E2E_CONTEXT"
  fi
fi
if wanted browser && ! command -v chromium >/dev/null 2>&1; then
  need chromium-headless-shell "is a browser that posts a form" "apt-get update && apt-get install --yes --no-install-recommends chromium-headless-shell"
fi
if [ "$lacking" != 0 ]; then
  say "All packages of Debian at once, for demo, tests and end-to-end tests:"
  say "         $("$here/debian.sh")"
  exit 1
fi
[ -z "$check" ] || exit 0

# --- the cache -------------------------------------------------------------------------------------
# Keyed by everything that goes into the large programs, so that a change of version is a new folder.
key=$(cat "$module/go.mod" "$module/go.sum" - <<<"$versitygw $botocore $minio $helm $promtool $prometheus $(go env GOVERSION)" | sha256sum | cut -c1-12)
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/tools-$key"
bin="$cache/bin"
mkdir -p "$bin"

steps=6 step=0
wanted chart && steps=$((steps + 2))
wanted node && steps=$((steps + 3))
wanted monitoring && steps=$((steps + 1))
wanted stores && steps=$((steps + 1))
# Go names each package as it compiles it; against the number of packages that is a percentage.
# Packages that an earlier step has compiled are not named, so the count can end below the total.
build() { # program, package of the tools' module or package@version, extra arguments to go build
  local program=$1 package=$2; shift 2
  step=$((step + 1))
  [ -x "$bin/$program" ] && return
  local total=0 count=0 began=$SECONDS
  case $package in
    # go install makes a module of its own for it, and names the program after the package.
    *@*) compile() { GOBIN="$bin/.$program.new" go install -v -trimpath "$@" "$package"; } ;;
    *)
      total=$(cd "$module" && go list -deps "$package" 2>/dev/null | wc -l)
      compile() { mkdir -p "$bin/.$program.new" && cd "$module" && go build -v -trimpath -o "$bin/.$program.new/$program" "$@" "$package"; }
      ;;
  esac
  [ -n "$tty" ] || say "[$step/$steps] building $program ..."
  if ! { (compile "$@" 2>&1) | while IFS= read -r line; do
    count=$((count + 1))
    case $line in
      *' '*) printf '%s\n' "$line" >>"$cache/build.log" ;;
    esac
    [ -z "$tty" ] || printf '\r\e[K[%d/%d] building %s%s%s  %s  %ds  %s%.40s%s' "$step" "$steps" "$bold" "$program" "$off" \
      "$([ "$total" = 0 ] || printf '%3d%%' $((count * 100 / (total + 1))))" $((SECONDS - began)) "$dim" "$line" "$off" >&2
  done; }; then
    say ""
    say "${red}building $program failed${off}; the compiler said:"
    tail -n 20 "$cache/build.log" >&2 || true
    exit 1
  fi
  mv "$bin/.$program.new/"* "$bin/$program"
  rmdir "$bin/.$program.new"
  [ -z "$tty" ] || printf '\r\e[K' >&2
  say "[$step/$steps] $program built in $((SECONDS - began)) s"
}

exec 9>"$cache/lock"
if ! flock --nonblock 9; then
  say "another run is building the tools; waiting for it ..."
  flock 9
fi
# Our own small programs: built anew whenever their text has changed, which takes seconds.
small() { # folder of the tools' module
  local sum; sum=$(sha256sum <"$module/$1/main.go")
  [ "$(cat "$bin/.$1.sum" 2>/dev/null)" = "$sum" ] && return
  (cd "$module" && go build -trimpath -ldflags "-s -w" -o "$bin/$1" "./$1") >&2
  printf '%s' "$sum" >"$bin/.$1.sum"
}

small kstatus
small gitops

missing=''
for set in "${sets[@]}"; do
  [ -e "$cache/complete-$set" ] || missing=1
done
if [ -n "$missing" ]; then
  say "${bold}Building what the tests run against${off} (${sets[*]}; once a machine; ten minutes or more on two cores) into $cache"
  : >"$cache/build.log"
  k8s="-X k8s.io/component-base/version.gitVersion=v$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
  # Without symbol tables the programs take half the disk.
  build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver -ldflags "-s -w $k8s"
  build kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager -ldflags "-s -w $k8s"
  build kubectl k8s.io/kubernetes/cmd/kubectl -ldflags "-s -w $k8s"
  build etcd go.etcd.io/etcd/server/v3 -ldflags "-s -w"
  build versitygw "$versitygw" -ldflags "-s -w"
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
  if wanted node; then
    build kube-scheduler k8s.io/kubernetes/cmd/kube-scheduler -ldflags "-s -w $k8s"
    build kubelet k8s.io/kubernetes/cmd/kubelet -ldflags "-s -w $k8s"
    build kube-proxy k8s.io/kubernetes/cmd/kube-proxy -ldflags "-s -w $k8s"
  fi
  if wanted chart; then
    build helm "$helm" -ldflags "-s -w"
    build promtool "$promtool" -ldflags "-s -w"
  fi
  if wanted monitoring; then
    build prometheus "$prometheus" -ldflags "-s -w"
  fi
  if wanted stores; then
    build minio "$minio" -ldflags "-s -w"
  fi
  for set in "${sets[@]}"; do
    touch "$cache/complete-$set"
  done
fi
printf '%s\n' "$bin"
