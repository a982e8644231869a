#!/bin/sh
# Makes a Debian or Ubuntu machine that has Rust (through rustup) ready to build, run and test Ebb.
#
# Safe to run again, and quick when everything is there. Installs by itself only what it may:
# Debian packages as root or through a sudo that asks nothing, Rust parts through rustup.
# Otherwise it prints the exact line to type and fails.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# What must be there, as `test | Debian package`. Programs are looked for by name, files by path.
needs() {
    cat <<'LIST'
qemu-system-x86_64            qemu-system-x86
grub-mkrescue                 grub-common
xorriso                       xorriso
mformat                       mtools
cc                            gcc
/usr/lib/grub/i386-pc         grub-pc-bin
/usr/lib/grub/x86_64-efi      grub-efi-amd64-bin
/usr/share/ovmf/OVMF.fd       ovmf
/usr/include/xen/xen.h        libxen-dev
bochs-bin                     bochs
/usr/share/bochs/BIOS-bochs-latest  bochsbios
/usr/share/vgabios/vgabios.bin  vgabios
/usr/share/seabios/bios-256k.bin  seabios
LIST
}

present() {
    case $1 in
        /*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing_packages() {
    needs | while read -r thing package; do
        present "$thing" || printf '%s ' "$package"
    done
}

install_packages() {
    packages=$(missing_packages)
    [ -n "$packages" ] || return 0
    line="apt-get install -y --no-install-recommends $packages"
    if ! command -v apt-get >/dev/null 2>&1; then
        say "these Debian packages (or your system's own of the same purpose) are missing: $packages"
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo='sudo -n'
    else
        say "Debian packages are missing; type this, then try again:"
        printf '    sudo apt-get update && sudo %s\n' "$line" >&2
        exit 1
    fi
    say "installing: $packages"
    export DEBIAN_FRONTEND=noninteractive
    # A list of packages that is old or absent is the usual reason for a failure, so fetch it once.
    # shellcheck disable=SC2086
    $sudo $line >&2 || { $sudo apt-get update >&2 && $sudo $line >&2; }
    packages=$(missing_packages)
    [ -z "$packages" ] || { say "still missing after installation: $packages"; exit 1; }
}

install_rust() {
    command -v cargo >/dev/null 2>&1 || { say "Rust is missing; see https://rustup.rs"; exit 1; }
    channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
    # For the hypervisor and the guest, and for the init program of Linux guests, which is static.
    targets='x86_64-unknown-none x86_64-unknown-linux-musl'
    # The quick way out: the compiler that cargo will use here is the pinned one and has the targets.
    libraries=$(rustc --print sysroot 2>/dev/null)/lib/rustlib
    if (for target in $targets; do [ -d "$libraries/$target/lib" ] || exit 1; done) &&
        rustc --version | grep -q "^rustc $channel " &&
        cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1; then
        return 0
    fi
    if ! command -v rustup >/dev/null 2>&1; then
        say "this needs Rust $channel with the targets $targets; install rustup, or the toolchain and the targets, then try again"
        exit 1
    fi
    say "installing Rust $channel with $targets"
    # shellcheck disable=SC2086
    rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy \
        $(printf -- '--target %s ' $targets) >&2
}

install_packages
install_rust
