#!/usr/bin/env bash
# Builds the operator as one static binary, the same bytes from the same sources wherever they lie, and prints its path.
#
#   hack/static.sh                              for this machine's processor
#   TARGET=aarch64-unknown-linux-gnu hack/static.sh   for another one
#
# Another one needs `rustup target add $TARGET` and a C compiler for it, on Debian gcc-aarch64-linux-gnu and
# libc6-dev-arm64-cross.
#
# The gnu target with crt-static and not musl: since glibc 2.34 a static binary resolves names by itself, and glibc's
# allocator is the faster one with many threads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${TARGET:-$(uname -m)-unknown-linux-gnu}"
folder="${CARGO_TARGET_DIR:-$PWD/target}"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd -P)
home="${CARGO_HOME:-$HOME/.cargo}"

# Panics and C code name the files that they come from. With the folders of this machine in them, two machines would make
# two binaries. Cargo itself names our own files relative to the repository.
export CARGO_ENCODED_RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' -Ctarget-feature=+crt-static "--remap-path-prefix=$home=/cargo")
CARGO_ENCODED_RUSTFLAGS+="--remap-path-prefix=$folder=/target"
export CFLAGS="-ffile-prefix-map=$home=/cargo -ffile-prefix-map=$folder=/target"
unset RUSTFLAGS
if [ "${target%%-*}" != "$(uname -m)" ]; then
  cross="${target%%-*}-linux-gnu-gcc"
  name=${target//-/_}
  export "CC_$name=${cross}" "CARGO_TARGET_${name^^}_LINKER=${cross}"
fi
# An explicit target keeps these flags away from build scripts and macros, which cannot be static.
cargo build --release --locked --quiet --bin valet --target "$target" >&2
binary="$folder/$target/release/valet"
# Without an interpreter in it, it needs nothing of the system that it runs on.
if LC_ALL=C grep -q '/ld-linux' <(head --bytes 4096 "$binary"); then
  echo "hack/static.sh: $binary is not static" >&2
  exit 1
fi
printf '%s\n' "$binary"
