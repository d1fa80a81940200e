#!/bin/bash
# Runs one x86-64 Linux program on an emulated CPU, whatever this machine has:
#   x86.sh BINARY [ARGUMENTS...]    prints what it prints, exits with its status
#   x86.sh --install                only installs and builds what is missing
# The emulator is Bochs 3, which starts a Linux kernel whose first process (guest-init.c) runs the program: with the caller's
# environment, an empty working folder and no input. It needs a Debian (12 or newer) machine; root only to install packages.
#   EMULATE_CPU      sapphire_rapids (the default: AVX-512 with VNNI, AVX-VNNI), arrow_lake (AVX-VNNI, no AVX-512),
#                    corei7_haswell_4770 (AVX2), or another model of Bochs
#   EMULATE_TIMEOUT  seconds for the whole run (3600)
#   EMULATE_KEEP     when not empty, keeps the run's folder (kernel log, emulator log) and names it
# Exit status: the program's; 128 + N when signal N ended it (132: an instruction the CPU lacks); 124 past the timeout;
# 125 when the emulation itself failed. The emulator, the kernel and the first process are kept in target/emulate.
set -Eeuo pipefail
trap 'say "line $LINENO: $BASH_COMMAND failed"; exit 125' ERR

here=$(dirname "$(realpath "$0")")
cache=$(realpath -m "$here/../../target/emulate")
hash() { sha256sum < "$here/$1" | cut -c 1-12; } # what is made from a file bears its hash
emulator=$cache/bochs-$(hash bochs-3.0.patch)
init=$cache/init-$(hash guest-init.c)
kernel=$cache/vmlinuz

say() { echo "x86.sh: $*" >&2; }
fail() { say "$*"; exit 125; }

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
    local missing=() package
    for package in g++ make patch xz-utils binutils libc6-dev xorriso isolinux syslinux-common cpio bochsbios vgabios; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "not installed: ${missing[*]}; run once as root: $0 --install"
    say "installing ${missing[*]} from Debian's packages"
    { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 ||
        fail "Debian's packages could not be installed: ${missing[*]}"
}

# A kernel of Debian's, unpacked and not installed. The cloud flavour has the serial port and the initramfs built in.
fetch_kernel() {
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *\(linux-image-.*\)/\1/p' | head -n 1)
    [ -n "$package" ] || fail "Debian's packages have no linux-image-cloud-amd64"
    say "fetching $package"
    (cd "$1" && apt-get download -q -o APT::Sandbox::User=root "$package" >&2 && dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --wildcards './boot/vmlinuz-*')
    mv "$1"/boot/vmlinuz-* "$kernel"
}

# Bochs 3 from Debian 13's source package: Debian 12's Bochs 2.7 has no AVX-VNNI. The machine's own sources stay as they are. A bochs_3*.orig.tar.xz that lies beside this script is used instead.
build_bochs() {
    local archive uri lists=$1/lists
    archive=$(compgen -G "$here/bochs_3*.orig.tar.xz" | head -n 1) || true
    if [ -z "$archive" ]; then
        say "fetching the source of bochs"
        uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p' | head -n 1)
        [ -n "$uri" ] || fail "apt knows no Debian repository; put a bochs_3*.orig.tar.xz beside $0"
        mkdir -p "$lists/partial"
        echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" > "$1/source.list"
        local options=(-o Dir::Etc::sourcelist="$1/source.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$lists" -o Dir::Cache="$1"
            -o APT::Sandbox::User=root)
        (cd "$1" && apt-get "${options[@]}" update -qq && apt-get "${options[@]}" source -qq --download-only --tar-only bochs) >&2 ||
            fail "the source of bochs could not be fetched; put a bochs_3*.orig.tar.xz beside $0"
        archive=$(compgen -G "$1/bochs_3*.orig.tar.xz" | head -n 1) || fail "Debian's source of bochs is no longer of version 3"
    fi
    say "building bochs (some minutes)"
    mkdir "$1/bochs"
    tar -x -f "$archive" -C "$1/bochs" --strip-components 1
    patch -s -d "$1/bochs" -p 1 < "$here/bochs-3.0.patch" >&2 || fail "bochs-3.0.patch does not fit $(basename "$archive")"
    (
        cd "$1/bochs"
        # No AMX: with it the kernel stops, for Bochs lacks the XFD register that guards the tile state.
        CFLAGS=-O2 CXXFLAGS=-O2 ./configure --enable-x86-64 --enable-cpu-level=6 --enable-avx --enable-evex --enable-all-optimizations \
            --disable-docbook --disable-plugins --with-nogui > ../configure.log 2>&1 &&
            make -j "$(nproc)" bochs > ../make.log 2>&1
    ) || { tail -n 20 "$1"/*.log >&2; fail "bochs could not be built"; }
    strip "$1/bochs/bochs"
    mv "$1/bochs/bochs" "$emulator"
}

install_all() {
    mkdir -p "$cache"
    exec 9> "$cache/lock"
    flock 9 # a second run waits for the first one's installation
    install_packages
    making=$(mktemp -d)
    trap 'rm -rf "$making"' EXIT
    [ -s "$kernel" ] || fetch_kernel "$making"
    [ -x "$emulator" ] || build_bochs "$making"
    if [ ! -x "$init" ]; then
        gcc -O2 -static -s -o "$making/init" "$here/guest-init.c" || fail "guest-init.c could not be built"
        mv "$making/init" "$init"
    fi
    rm -rf "$making"
    trap - EXIT
    exec 9>&-
}

copy_in() { # a file or folder, to the same absolute path
    [ -e "$1" ] || fail "no file or folder $1"
    mkdir -p "$work/root/$(dirname "$1")"
    cp -rLT --preserve=mode,timestamps "$1" "$work/root/$1"
}

# The initramfs: the program without its debug sections, its libraries, its files, its words.
fill_root() {
    local binary=$1 folder libraries path streams
    shift
    path=$(realpath "$binary")
    for folder in proc sys dev tmp emulate "$PWD" "${TMPDIR:-/tmp}" "${HOME:-/root}" "$(dirname "$path")"; do
        mkdir -p "$work/root/$folder"
    done
    cp "$init" "$work/root/init"
    strip --strip-debug -o "$work/root/$path" "$path" 2>/dev/null || cp "$path" "$work/root/$path"
    chmod 755 "$work/root/$path"
    if libraries=$(ldd "$path" 2>/dev/null); then
        ! grep 'not found' <<< "$libraries" >&2 || fail "libraries of $binary are not on this machine"
        while read -r path; do copy_in "$path"; done < <(sed -nE 's/^(.*[[:space:]])?(\/[^ ]+) \(0x.*/\2/p' <<< "$libraries")
    fi
    [ /dev/stdout -ef /dev/stderr ] && streams=together || streams=apart # one stream keeps the order of what is written
    printf '%s\0' "$streams" "$PWD" "$(realpath "$binary")" "$binary" "$@" > "$work/root/emulate/command"
    env -0 > "$work/root/emulate/environment"
    (cd "$work/root" && find . -print0 | cpio --null -o -H newc -R 0:0 --quiet) > "$work/initrd"
    rm -rf "$work/root"
}

make_disc() {
    # no5lvl: Bochs cannot leave system management mode under five-level paging. clearcpuid=fsrm: the kernel turns ERMS off, but
    # not FSRM, on a CPU without the fast-string bit, and its memmove is then wrong.
    cat > "$work/isolinux.cfg" <<-CONFIG
	DEFAULT linux
	PROMPT 0
	LABEL linux
	KERNEL vmlinuz
	INITRD initrd
	APPEND console=ttyS0,115200 quiet nokaslr no5lvl clearcpuid=fsrm mitigations=off nopti tsc=reliable random.trust_cpu=on
	CONFIG
    xorriso -as mkisofs -quiet -o "$work/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
        -graft-points isolinux.bin=/usr/lib/ISOLINUX/isolinux.bin ldlinux.c32=/usr/lib/syslinux/modules/bios/ldlinux.c32 \
        isolinux.cfg="$work/isolinux.cfg" vmlinuz="$kernel" initrd="$work/initrd" > "$work/disc.log" 2>&1 ||
        { cat "$work/disc.log" >&2; fail "the start disc could not be made"; }
    rm "$work/initrd"
}

models() { { "$emulator" -help cpu 2>&1 || true; } | grep -E '^[a-z0-9_]+$'; }

configure() {
    local model=${EMULATE_CPU:-sapphire_rapids}
    grep -qx "$model" <<< "$(models)" || fail "EMULATE_CPU: no model '$model'; there are $(models | xargs)"
    cat > "$work/bochsrc" <<-CONFIG
	config_interface: textconfig
	display_library: nogui
	memory: guest=1024, host=1024
	romimage: file=/usr/share/bochs/BIOS-bochs-latest
	vgaromimage: file=/usr/share/vgabios/vgabios.bin
	cpu: model=$model, count=1, ips=50000000, reset_on_triple_fault=0
	boot: cdrom
	ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
	ata0-master: type=cdrom, path="$work/disc.iso", status=inserted
	clock: sync=none, time0=utc
	com1: enabled=1, mode=file, dev="$work/kernel.log"
	com2: enabled=1, mode=file, dev="$work/stdout"
	com3: enabled=1, mode=file, dev="$work/stderr"
	speaker: enabled=0
	log: "$work/bochs.log"
	panic: action=fatal
	error: action=report
	info: action=ignore
	CONFIG
}

stop() {
    [ -z "${bochs:-}" ] || kill "$bochs" "$reader_out" "$reader_err" 2>/dev/null || true
    if [ -n "${EMULATE_KEEP:-}" ]; then say "kept $work"; else rm -rf "$work"; fi
}

emulate() {
    local deadline=$((SECONDS + ${EMULATE_TIMEOUT:-3600})) status
    : > "$work/stdout"; : > "$work/stderr"; : > "$work/kernel.log"
    "$emulator" -q -f "$work/bochsrc" < /dev/null > "$work/bochs.out" 2>&1 &
    bochs=$!
    tail -q -s 0.1 -c +1 -f --pid="$bochs" "$work/stdout" & reader_out=$!
    tail -q -s 0.1 -c +1 -f --pid="$bochs" "$work/stderr" >&2 & reader_err=$!
    local late= panic=
    while kill -0 "$bochs" 2>/dev/null; do
        sleep 0.1
        if [ $SECONDS -ge $deadline ]; then late=1; elif grep -q 'Kernel panic' "$work/kernel.log"; then panic=1; else continue; fi
        kill "$bochs" 2>/dev/null || true
        break
    done
    wait "$bochs" 2>/dev/null || true
    bochs=
    wait "$reader_out" "$reader_err" || true
    status=$(tr -d '\r' < "$work/kernel.log" | sed -n 's/^EMULATE-STATUS //p')
    if [ -z "$status" ]; then
        tail -n 15 "$work/kernel.log" | tr -d '\r' >&2
        [ -z "$late" ] || { say "still running after ${EMULATE_TIMEOUT:-3600} s (EMULATE_TIMEOUT)"; exit 124; }
        [ -n "$panic" ] || grep -hs 'PANIC' "$work/bochs.out" "$work/bochs.log" >&2 || true
        fail "the emulated machine failed; its last words are above"
    fi
    [[ $status != *signal* ]] || say "ended by ${status#* } ($(kill -l "${status##* }"))"
    exit "${status%% *}"
}

[ $# -gt 0 ] || fail "which program? The head of $0 lists them"
case $1 in
--install) install_all; exit 0 ;;
-*) fail "unknown option $1" ;;
esac
[ -f "$1" ] && [ -x "$1" ] || fail "no program at $1"
install_all
work=$(mktemp -d)
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
fill_root "$@"
make_disc
configure
emulate
