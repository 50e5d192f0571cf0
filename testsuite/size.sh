#!/bin/sh
# Text (code and constants) that the runtime adds to a bare-metal program: everything that a no_std user can call is linked with
# --gc-sections and measured, with what it needs from core (formatting of errors, memcpy).  Exit code 0 when it is below 16 KB on each embedded target,
# 3 when rustc cannot compile for one.
#
#   testsuite/size.sh [TARGET...]     default: aarch64-unknown-none riscv64gc-unknown-none-elf
#
# Needs the targets' libraries for rustc; rustup is asked for those that are missing.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
limit=16384
[ $# -gt 0 ] || set -- aarch64-unknown-none riscv64gc-unknown-none-elf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in "$@"; do
    case $target in
        aarch64*) prefix=aarch64-linux-gnu- cmodel=small ;;
        riscv64*) prefix=riscv64-linux-gnu- cmodel=medium ;;
        *) echo "size.sh: no tools are known for $target" >&2; exit 2 ;;
    esac
    if [ ! -d "$(rustc --print target-libdir --target "$target")" ] && ! rustup -q target add "$target" 2>"$work/rustup"; then
        cat "$work/rustup" >&2
        echo "size.sh: rustc has no libraries for $target, and rustup cannot bring them" >&2
        exit 3
    fi
    compile() { rustc --edition 2024 --target "$target" --out-dir "$work/$target" -C opt-level=s -C panic=abort -C code-model=$cmodel "$@"; }
    compile --crate-type rlib --crate-name onnxc_runtime "$root/runtime/src/lib.rs"
    compile --crate-type staticlib --crate-name probe --extern onnxc_runtime="$work/$target/libonnxc_runtime.rlib" "$root/testsuite/size/probe.rs"
    # The board's own functions and the model stand elsewhere: their addresses are given, they add no text.
    "${prefix}ld" -static --gc-sections -e probe -u probe --defsym=MODEL=0x90000 --defsym=put=0x90000 -Ttext=0x80000 \
        -o "$work/$target.elf" "$work/$target/libprobe.a"
    # Unwind tables are left out: nothing reads them on bare metal, where linker scripts discard them.
    text=$("${prefix}size" -A "$work/$target.elf" | awk '/^\.(text|rodata|data|got)/ { n += $2 } END { print n }')
    echo "$target: $text bytes of text (limit $limit)"
    [ "$text" -lt $limit ] || { echo "size.sh: too large" >&2; exit 1; }
done
