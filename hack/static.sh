#!/usr/bin/env bash
# Builds the operator as one static binary and prints its path. The build is reproducible: the same sources give the same bytes,
# in any folder.
#
#   hack/static.sh                                    for the architecture of this machine
#   TARGET=aarch64-unknown-linux-gnu hack/static.sh   for another architecture
#
# Another architecture needs `rustup target add $TARGET` and a C cross compiler, on Debian gcc-aarch64-linux-gnu and
# libc6-dev-arm64-cross.
#
# The script uses the gnu target with crt-static, not musl. Since glibc 2.34 a static binary can resolve DNS names without shared
# libraries, and glibc's allocator is faster with many threads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${TARGET:-$(uname -m)-unknown-linux-gnu}"
folder="${CARGO_TARGET_DIR:-$PWD/target}"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd -P)
home="${CARGO_HOME:-$HOME/.cargo}"

# Panic messages and C code contain the paths of source files. Absolute paths would make the binary different on each machine, so
# the flags replace them. Cargo already uses relative paths for the files of this repository.
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
# With an explicit target, cargo does not use these flags for build scripts and procedural macros, which cannot be static.
cargo build --release --locked --quiet --bin valet --target "$target" >&2
binary="$folder/$target/release/valet"
# A static binary has no ELF interpreter (dynamic loader).
if LC_ALL=C grep -q '/ld-linux' <(head --bytes 4096 "$binary"); then
  echo "hack/static.sh: $binary is not static: it contains a dynamic loader" >&2
  exit 1
fi
printf '%s\n' "$binary"
