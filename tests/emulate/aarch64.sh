#!/bin/bash
# Runs a cargo command for aarch64 Linux on an x86-64 machine, the built programs under qemu-user:
#   aarch64.sh test --lib        as `cargo test --lib`
#   aarch64.sh --install         only installs what is missing
# It needs a Debian (12 or newer) machine; root only to install packages.
#   QEMU_CPU    max (all features, the default), cortex-a72 (no dotprod), cortex-a76 (dotprod, no i8mm), or another of QEMU
# Builds go to target/aarch64-emulated: two compilers must not share a folder.
set -euo pipefail

fail() { echo "aarch64.sh: $*" >&2; exit 125; }

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

packages=(rustc-web libstd-rust-web-dev:arm64 libc6:arm64 libgcc-s1:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
missing=()
for package in "${packages[@]}"; do installed "$package" || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || fail "not installed: ${missing[*]}; run once as root: $0 --install"
    echo "aarch64.sh: installing ${missing[*]} from Debian's packages" >&2
    {
        dpkg --print-foreign-architectures | grep -qx arm64 || dpkg --add-architecture arm64
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } >&2 || fail "Debian's packages could not be installed: ${missing[*]}"
fi
[ "${1:-}" != --install ] || exit 0
[ $# -gt 0 ] || fail "which cargo command? For example: $0 test --lib"

# Debian's compiler has the aarch64 standard library; the caller's cargo drives it.
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
export CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export QEMU_CPU=${QEMU_CPU:-max}
# The loader and libc must be of one version: with the cross compiler's loader (qemu-aarch64 -L /usr/aarch64-linux-gnu) and libc6:arm64's
# libc, the first thread a program starts hangs for ever.
unset QEMU_LD_PREFIX

# A misspelt CPU would otherwise be found only after the build.
cpus=$({ qemu-aarch64 -cpu help || true; } | sed 1d | xargs)
[[ " $cpus " == *" ${QEMU_CPU%%,*} "* ]] || fail "QEMU_CPU=$QEMU_CPU is not one of: $cpus"

cd "$(dirname "$(realpath "$0")")/../.."
export CARGO_TARGET_DIR=$PWD/target/aarch64-emulated
exec cargo "$@"
