#!/bin/bash
# The kernel tests on instruction sets that the machine may lack or hide, emulated: `make test-emulated`.
# Each run names the levels that its CPU has (LAPWING_TEST_ISA), and fails if others are detected; the tests then go
# through all of them.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."

fail() { echo "test-emulated: $*" >&2; exit 1; }
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "runs on x86-64 Linux only"
command -v apt-get dpkg-query > /dev/null || fail "needs Debian's packages (apt-get)"
command -v cargo > /dev/null || fail "cargo is missing: install Rust from your system or rustup"

# What has kernels, and tests of code elsewhere that is compiled once per instruction set.
filters=(simd:: matmul:: ops:: ::every_level_)
detected="simd::level::tests::the_expected_levels_are_detected ... ok"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { # levels, cargo or aarch64.sh
    local start=$SECONDS
    echo "== ${CPU}: $1" >&2
    LAPWING_TEST_ISA=$1 "${@:2}" test --lib -- "${filters[@]}" 2>&1 | tee "$log" || fail "$CPU failed"
    grep -qF "$detected" "$log" || fail "$CPU: the levels were not checked"
    echo "== $CPU passed in $((SECONDS - start)) s" >&2
}

tests/emulate/x86.sh --install
tests/emulate/aarch64.sh --install
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/emulate/x86.sh
for CPU in max cortex-a76 cortex-a72; do
    case $CPU in
    max) levels=scalar,neon,dotprod,i8mm ;;
    cortex-a76) levels=scalar,neon,dotprod ;;
    cortex-a72) levels=scalar,neon ;;
    esac
    QEMU_CPU=$CPU run $levels tests/emulate/aarch64.sh
done
for CPU in arrow_lake sapphire_rapids; do
    case $CPU in
    arrow_lake) levels=scalar,avx2,avxvnni ;;
    sapphire_rapids) levels=scalar,avx2,avxvnni,avx512 ;;
    esac
    EMULATE_CPU=$CPU run $levels cargo
done
