#!/usr/bin/env bash
# Makes container images without a container engine (buildah only), and prints the folder with their archives: NAME.tar, which
# `ctr images import`, `kind load image-archive` and `docker load` read, and NAME.oci.tar, which goes to a registry as it is.
#
#   hack/images.sh [IMAGE...]      valet, e2e, pause, stores, flux; without a name: valet, e2e, pause
#
#   valet   the operator: its static binary and a CA bundle, nothing else
#   e2e     what the end-to-end tests run as a workload: busybox, curl and the S3 server versitygw
#   pause   holds a pod's namespaces on the tests' own node
#   stores  for the story of lent credentials: busybox and curl, the S3 server MinIO and the S3 client rclone
#   flux    for the stories of Flux: busybox and curl, Flux's controllers and git with its server
#
# The same sources give the same image, to the digest: SOURCE_DATE_EPOCH (default: 0, 1970) is every time in it.
# An image whose parts are the same as last time is not made again.
#
#   VALET_IMAGE   the operator's image's name, default ghcr.io/valetkey/valet:VERSION
#   VALET_BIN     a static binary that is there already; else hack/static.sh builds it
#   TARGET        another processor than this machine's, as hack/static.sh takes it; the archive is then valet-ARCH.tar
#   VALET_TOOLS   the folder that hack/tools.sh prints, for versitygw and MinIO
#   VALET_FLUX    the folder that hack/flux.sh prints, for flux
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
epoch="${SOURCE_DATE_EPOCH:-0}"
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/Cargo.toml")
mkdir -p "${CARGO_TARGET_DIR:-$here/target}"
out="$(cd "${CARGO_TARGET_DIR:-$here/target}" && pwd -P)/images"
mkdir -p "$out"
# buildah keeps what it works on in a folder of its own, which goes in the end.
work=$(mktemp -d)
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
trap 'rm -rf "$work"' EXIT

# Makes NAME.tar of a folder, unless the one that is there was made of the same.
image() { # name, reference, folder, arguments of `buildah config`
  local name=$1 reference=$2 root=$3 container key began=$SECONDS; shift 3
  key=$(cd "$root" && { find . -printf '%P %m %l\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum; printf '%s\n' "$reference" "$epoch" "$@"; } | sha256sum)
  if [ -s "$out/$name.tar" ] && [ "$(cat "$out/$name.key" 2>/dev/null)" = "$key" ]; then return; fi
  rm -f "$out/$name.key"
  container=$(buildah from scratch)
  buildah copy --quiet "$container" "$root" / >/dev/null
  buildah config --created-by hack/images.sh "$@" "$container"
  buildah commit --quiet --timestamp "$epoch" --format oci --identity-label=false "$container" "$reference" >/dev/null
  rm -f "$out/$name.tar"
  buildah push --quiet "$reference" "docker-archive:$out/$name.tar:$reference"
  # What goes to a registry, byte for byte, and what the digest is of.
  rm -f "$out/$name.oci.tar"
  buildah push --quiet --digestfile "$out/$name.digest" "$reference" "oci-archive:$out/$name.oci.tar"
  printf '%s\n' "$reference" >"$out/$name.name"
  printf '%s' "$key" >"$out/$name.key"
  printf '%s: %s, %.1f MB, %s, made in %d s\n' "$name" "$reference" \
    "$(du --bytes --summarize "$root" | awk '{ print $1 / 1e6 }')" "$(cat "$out/$name.digest")" $((SECONDS - began)) >&2
}

label() { printf 'org.opencontainers.image.%s' "$1"; }

valet() {
  local root="$work/valet" binary="${VALET_BIN:-}" name=valet arch
  case ${TARGET:-$(uname -m)} in
    x86_64*) arch=amd64 ;;
    aarch64*) arch=arm64 ;;
    *) echo "hack/images.sh: images are made for x86_64 and aarch64, not for ${TARGET:-$(uname -m)}" >&2; exit 2 ;;
  esac
  [ -z "${TARGET:-}" ] || name="valet-$arch"
  [ -n "$binary" ] || binary=$("$here/hack/static.sh")
  install -D --mode 0755 "$binary" "$root/valet"
  # The CA bundle of the machine that builds, as every distribution has it.
  install -D --mode 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  image "$name" "${VALET_IMAGE:-ghcr.io/valetkey/valet:$version}" "$root" --arch "$arch" --user 65532:65532 --workingdir / \
    --entrypoint '["/valet"]' --cmd controller --port 8080 \
    --label "$(label title)=valet" --label "$(label version)=$version" --label "$(label licenses)=Apache-2.0" \
    --label "$(label source)=https://github.com/valetkey/valet" \
    --label "$(label description)=Hands out valet keys: signed, scoped, time-limited URLs for one object in an object store"
}

# A program and the shared libraries that it names.
with_libraries() { # folder, program, place in the folder
  local library
  install -D --mode 0755 "$2" "$1$3"
  for library in $(ldd "$2" 2>/dev/null | grep -o '/[^ ]*'); do
    [ -e "$1$library" ] || install -D --mode 0755 "$library" "$1$library"
  done
}

# An image of busybox, curl and more programs: what the end-to-end tests run.
workload() { # name, reference, programs
  local name=$1 reference=$2 root="$work/$1" applet program; shift 2
  for program in "$(command -v curl)" "$@"; do with_libraries "$root" "$program" "/usr/bin/${program##*/}"; done
  install -D --mode 0755 "$(command -v busybox)" "$root/bin/busybox"
  for applet in $(busybox --list | grep -vx busybox); do ln -s busybox "$root/bin/$applet"; done
  install -d --mode 1777 "$root/tmp"
  image "$name" "$reference" "$root" --user 65532:65532 --entrypoint '["curl"]' --cmd --help --env PATH=/usr/bin:/bin
}

e2e() { workload e2e localhost/valet-e2e:1 "${VALET_TOOLS:?the folder that hack/tools.sh prints}/versitygw"; }

stores() {
  workload stores localhost/valet-e2e-stores:1 "${VALET_TOOLS:?the folder that hack/tools.sh stores prints}/minio" "$(command -v rclone)"
}

flux() {
  local bin="${VALET_FLUX:?the folder that hack/flux.sh prints}/bin"
  workload flux localhost/valet-e2e-flux:1 "$bin"/{source,helm,kustomize}-controller "$(command -v git)" "$(git --exec-path)/git-http-backend"
}

pause() {
  local root="$work/pause"
  mkdir -p "$root"
  cc -Os -static -s -o "$root/pause" "$here/tests/e2e/images/pause.c"
  image pause localhost/valet-pause:1 "$root" --user 65535:65535 --entrypoint '["/pause"]'
}

[ $# -gt 0 ] || set -- valet e2e pause
for name in "$@"; do
  case $name in
    valet | e2e | pause | stores | flux) "$name" ;;
    *) echo "hack/images.sh: '$name' is none of valet, e2e, pause, stores, flux" >&2; exit 2 ;;
  esac
done
printf '%s\n' "$out"
