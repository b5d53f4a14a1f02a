#!/usr/bin/env bash
# Builds the programs for the tests and the demo, once per machine. The programs form sets:
#
#   control-plane   kube-apiserver, kube-controller-manager, etcd, kubectl, kstatus, the S3 server versitygw, and a Python with
#                   botocore; always included
#   chart           helm and promtool, for the tests of the chart
#   node            kubelet, kube-proxy and kube-scheduler; with containerd they form a node with real pods
#   monitoring      prometheus
#   stores          MinIO, built from its last source release, as a second S3 server for tests
#   tests           only for --check: programs that the tests run
#   clocks          only for --check: the library that sets the operator's clock in one test
#   browser         only for --check: the browser of one end-to-end test
#
# Prints the folder with the programs on standard output, and progress on standard error.
#
#   hack/tools.sh [SET...]            build missing programs, print the folder
#   hack/tools.sh --check [SET...]    only print which programs this machine needs and how to install them (exit 1)
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
    *) say "hack/tools.sh: unknown argument '$argument'; use --check, control-plane, chart, node, monitoring, stores, tests, clocks or browser"; exit 2 ;;
  esac
done
wanted() { [[ " ${sets[*]} " == *" $1 "* ]]; }

# --- programs that the machine needs ------------------------------------------------------------------
lacking=0
need() { # program, purpose, how to install it
  command -v "$1" >/dev/null 2>&1 && return
  lacking=1
  say "${red}missing${off}  ${bold}$1${off} ($2)"
  say "         install it:  $3"
}
# Reports an installed program that is too old. README.md names the same minimum versions.
old() { # program, its version, minimum version, how to install it
  [ "$(printf '%s\n' "$3" "$2" | sort --version-sort | head -n 1)" = "$3" ] && return
  lacking=1
  say "too old  ${bold}$1 $2${off} ($3 or newer)"
  say "         install it:  $4"
}
need cargo "builds Valet" "see https://rustup.rs   (1.95 or newer)"
need cc "links Rust programs" "apt-get update && apt-get install --yes gcc libc6-dev"
need go "builds kube-apiserver, etcd and the S3 server" "see https://go.dev/doc/install   (1.26.7 or newer)"
need python3 "runs the independent verifier of signed URLs" "apt-get update && apt-get install --yes python3 python3-venv"
need curl "uploads and downloads as a workload does" "apt-get update && apt-get install --yes curl"
need openssl "creates the certificates of the control plane" "apt-get update && apt-get install --yes openssl"
need flock "locks the cache while a run uses it" "apt-get update && apt-get install --yes util-linux"
if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  lacking=1
  say "${red}missing${off}  ${bold}python3-venv${off} (installs the verifier's packages in a separate environment)"
  say "         install it:  apt-get update && apt-get install --yes python3-venv"
fi
if command -v cargo >/dev/null 2>&1; then
  old cargo "$(cargo --version | cut -d' ' -f2)" 1.95 "rustup update stable"
fi
# Since 1.21, Go downloads a newer toolchain if a module requires it, unless GOTOOLCHAIN is local.
if command -v go >/dev/null 2>&1; then
  least=1.21
  [ "$(go env GOTOOLCHAIN)" != local ] || least=1.26.7
  old go "$(go env GOVERSION | sed 's/^go//')" "$least" "see https://go.dev/doc/install   (1.26.7 or newer)"
fi
if wanted tests; then
  need busybox "is a shell in which the upload script must work" "apt-get update && apt-get install --yes busybox-static"
  need node "runs an example client of the documentation" "see https://nodejs.org   (18 or newer)"
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
    need "$program" "runs pods on this machine" "$node"
  done
  # The end-to-end test of temporary credentials needs both sets, and rclone.
  if wanted stores; then
    need rclone "is a standard S3 client" "apt-get update && apt-get install --yes --no-install-recommends rclone"
  fi
  if [ ! -x /usr/lib/cni/bridge ]; then
    lacking=1
    say "${red}missing${off}  ${bold}/usr/lib/cni/bridge${off} (assigns addresses to pods)"
    say "         install it:  $node"
  fi
  if [ "$(id -u)" != 0 ]; then
    lacking=1
    say "${red}missing${off}  ${bold}root${off} (a node creates namespaces, mounts and a bridge); or use an existing cluster: E2E_CONTEXT"
  fi
fi
if wanted browser && ! command -v chromium >/dev/null 2>&1; then
  need chromium-headless-shell "is a browser that sends a form" "apt-get update && apt-get install --yes --no-install-recommends chromium-headless-shell"
fi
if [ "$lacking" != 0 ]; then
  say "To install all Debian packages for the demo, the tests and the end-to-end tests:"
  say "         $("$here/debian.sh")"
  exit 1
fi
[ -z "$check" ] || exit 0

# --- the cache -------------------------------------------------------------------------------------
# The folder name is a hash of all versions of the large programs, so that another version uses a new folder.
key=$(cat "$module/go.mod" "$module/go.sum" - <<<"$versitygw $botocore $minio $helm $promtool $prometheus $(go env GOVERSION)" | sha256sum | cut -c1-12)
cache="${VALET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valet}/tools-$key"
bin="$cache/bin"
mkdir -p "$bin"

steps=6 step=0
wanted chart && steps=$((steps + 2))
wanted node && steps=$((steps + 3))
wanted monitoring && steps=$((steps + 1))
wanted stores && steps=$((steps + 1))
# Go prints each package that it compiles, so the number of printed packages gives the progress in percent. Go does not print
# packages that an earlier step has compiled, so the progress can end below 100 %.
build() { # program, package in the module of the tools or package@version, additional arguments for go build
  local program=$1 package=$2; shift 2
  step=$((step + 1))
  [ -x "$bin/$program" ] && return
  local total=0 count=0 began=$SECONDS
  case $package in
    # go install uses a separate module, and names the program after the package.
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
    say "${red}building $program failed${off}. The output of the compiler:"
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
  say "another run builds the tools; waiting until it is done ..."
  flock 9
fi
# Builds a small program of this repository again if its source has changed. This takes seconds.
small() { # folder in the module of the tools
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
  say "${bold}Building the programs for the tests${off} (${sets[*]}; once per machine; ten minutes or more on two cores) into $cache"
  : >"$cache/build.log"
  k8s="-X k8s.io/component-base/version.gitVersion=v$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
  # Without symbol tables, the programs need half the disk space.
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
    # A wrapper script and not a link, because Python finds its virtual environment by the path that started it.
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
