#!/bin/sh
# Installs what building Kiln needs on Debian 12; `--tests` adds what its tests need, of that NVIDIA's assembler from PyPI
# where pip is there. Does nothing where all is there.
# Changes nothing unless everything can be had: Rust is checked first, then the packages are looked up, then installed.
set -eu

MIN_RUST=1.95
PREFIX=/usr/lib/llvm-22
BUILD_PACKAGES="gcc g++ libc6-dev zlib1g-dev libzstd-dev
  llvm-22-dev libmlir-22-dev liblld-22 libclang1-22 libclang-common-22-dev libpolly-22-dev"
TEST_PACKAGES="qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

packages=$BUILD_PACKAGES
case "${1-}" in
  "") ;;
  --tests) packages="$BUILD_PACKAGES $TEST_PACKAGES" ;;
  *) echo "usage: ./setup.sh [--tests]" >&2; exit 2 ;;
esac

# ptxas, without which some tests leave out a part and say so.
ptxas() {
  [ "${1-}" = --tests ] || return 0
  dir=${CARGO_TARGET_DIR:-$(dirname "$0")/target}/ptxas
  [ -z "${KILN_PTXAS-}" ] && ! command -v ptxas >/dev/null && [ ! -x "$dir/nvidia/cu13/bin/ptxas" ] || return 0
  python3 -m pip install -q --no-deps --target "$dir" nvidia-cuda-nvcc==13.5.37 ||
    say "no ptxas: PTX is not assembled in the tests"
}

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { for line in "$@"; do say "$line"; done; exit 1; }

# Rust.
command -v cargo >/dev/null && command -v rustc >/dev/null || stop \
  "no cargo and rustc on PATH; expected Rust $MIN_RUST or newer" \
  "get it from https://rustup.rs, then open a new shell and run this again"
rust=$(rustc --version | cut -d' ' -f2)
lowest=$(printf '%s\n%s\n' "$MIN_RUST" "$rust" | sort -V | head -n 1)
[ "$lowest" = "$MIN_RUST" ] || stop \
  "rustc is $rust, expected $MIN_RUST or newer" "run: rustup update stable"

# What is missing, by file where Debian's package names mean nothing.
debian=no
[ -r /etc/os-release ] && debian=$(. /etc/os-release && echo "${ID-}-${VERSION_ID-}")
if [ "$debian" != debian-12 ]; then
  missing=
  for file in bin/llvm-config lib/libMLIR.so lib/libMLIRCAPIIR.a lib/liblldELF.a 'lib/libclang[.-][s2]*'; do
    # Unquoted, for the names that the pattern stands for.
    ls -d $PREFIX/$file >/dev/null 2>&1 || missing="$missing $PREFIX/$file"
  done
  [ -n "$missing" ] || { say "this is not Debian 12, but LLVM 22 is in $PREFIX; going on with it"; ptxas "${1-}"; exit 0; }
  stop "this script installs packages on Debian 12 only; this is $debian" \
    "Kiln needs, from LLVM 22.1 with shared libraries: llvm, mlir (with the C API archives), lld (static libraries)," \
    "libclang and polly, all below $PREFIX; and gcc, g++, zlib and libzstd with headers" \
    "missing here:$missing" \
    "the tests need qemu-aarch64 and aarch64-linux-gnu-gcc besides" \
    "Debian's names for all of it: $(echo $BUILD_PACKAGES $TEST_PACKAGES)"
fi
absent=
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed$' || absent="$absent $package"
done
[ -n "$absent" ] || { ptxas "${1-}"; exit 0; }

# Install.
as_root=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || stop "not root, and there is no sudo; run as root: apt-get install --no-install-recommends$absent"
  as_root=sudo
fi
say "installing$absent"
$as_root apt-get update -q </dev/null >&2 || stop "apt-get update failed; see above"
unknown=
for package in $absent; do
  apt-cache policy "$package" | grep -q 'Candidate: [^(]' || unknown="$unknown $package"
done
[ -z "$unknown" ] || stop \
  "no source has$unknown; nothing was installed" \
  "LLVM 22 for Debian 12 comes from bookworm-security; add this line to /etc/apt/sources.list and run this again:" \
  "deb http://deb.debian.org/debian-security bookworm-security main"
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $absent </dev/null >&2 ||
  stop "apt-get install failed; see above"
ptxas "${1-}"
say "done"
