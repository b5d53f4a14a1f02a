#!/usr/bin/env bash
# Builds container images with buildah, without a container engine, and prints the folder with their archives. `ctr images
# import`, `kind load image-archive` and `docker load` can read NAME.tar. NAME.oci.tar can be pushed to a registry unchanged.
#
#   hack/images.sh [IMAGE...]      valet, e2e, pause, stores or flux; default: valet, e2e and pause
#
#   valet   the operator: its static binary and a CA bundle, nothing else
#   e2e     workloads of the end-to-end tests: busybox, curl and the S3 server versitygw
#   pause   the pause container of pods on the node of the tests
#   stores  end-to-end test of temporary credentials: busybox, curl, the S3 server MinIO and the S3 client rclone
#   flux    end-to-end tests of Flux: busybox, curl, Flux's controllers, and git with its server
#
# Builds are reproducible: the same sources give the same digest. All times in the image are SOURCE_DATE_EPOCH (default: 0,
# the year 1970). The script does not build an image again if its content has not changed.
#
#   VALET_IMAGE   the name of the operator's image, default ghcr.io/valetkey/valet:VERSION
#   VALET_BIN     an existing static binary of the operator; default: hack/static.sh builds it
#   TARGET        the target of hack/static.sh for another architecture; the archive is then valet-ARCH.tar
#   VALET_TOOLS   the folder that hack/tools.sh prints, for versitygw and MinIO
#   VALET_FLUX    the folder that hack/flux.sh prints, for the image flux
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
epoch="${SOURCE_DATE_EPOCH:-0}"
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/Cargo.toml")
mkdir -p "${CARGO_TARGET_DIR:-$here/target}"
out="$(cd "${CARGO_TARGET_DIR:-$here/target}" && pwd -P)/images"
mkdir -p "$out"
# buildah works in a temporary folder, which is deleted at the end.
work=$(mktemp -d)
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
trap 'rm -rf "$work"' EXIT

# Builds NAME.tar from a folder, unless the existing archive has the same content.
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
  # This archive goes to a registry byte for byte. The digest belongs to this archive.
  rm -f "$out/$name.oci.tar"
  buildah push --quiet --digestfile "$out/$name.digest" "$reference" "oci-archive:$out/$name.oci.tar"
  printf '%s\n' "$reference" >"$out/$name.name"
  printf '%s' "$key" >"$out/$name.key"
  printf '%s: %s, %.1f MB, %s, built in %d s\n' "$name" "$reference" \
    "$(du --bytes --summarize "$root" | awk '{ print $1 / 1e6 }')" "$(cat "$out/$name.digest")" $((SECONDS - began)) >&2
}

label() { printf 'org.opencontainers.image.%s' "$1"; }

valet() {
  local root="$work/valet" binary="${VALET_BIN:-}" name=valet arch
  case ${TARGET:-$(uname -m)} in
    x86_64*) arch=amd64 ;;
    aarch64*) arch=arm64 ;;
    *) echo "hack/images.sh: cannot build an image for ${TARGET:-$(uname -m)}; use x86_64 or aarch64" >&2; exit 2 ;;
  esac
  [ -z "${TARGET:-}" ] || name="valet-$arch"
  [ -n "$binary" ] || binary=$("$here/hack/static.sh")
  install -D --mode 0755 "$binary" "$root/valet"
  # The CA bundle of the build machine.
  install -D --mode 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  image "$name" "${VALET_IMAGE:-ghcr.io/valetkey/valet:$version}" "$root" --arch "$arch" --user 65532:65532 --workingdir / \
    --entrypoint '["/valet"]' --cmd controller --port 8080 \
    --label "$(label title)=valet" --label "$(label version)=$version" --label "$(label licenses)=Apache-2.0" \
    --label "$(label source)=https://github.com/valetkey/valet" \
    --label "$(label description)=Kubernetes operator that issues signed URLs and other short-lived credentials for single objects in object stores"
}

# Copies a program and the shared libraries that it needs into a folder.
with_libraries() { # folder, program, place in the folder
  local library
  install -D --mode 0755 "$2" "$1$3"
  for library in $(ldd "$2" 2>/dev/null | grep -o '/[^ ]*'); do
    [ -e "$1$library" ] || install -D --mode 0755 "$library" "$1$library"
  done
}

# Builds an image for the end-to-end tests, with busybox, curl and additional programs.
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
    *) echo "hack/images.sh: unknown image '$name'; use valet, e2e, pause, stores or flux" >&2; exit 2 ;;
  esac
done
printf '%s\n' "$out"
