#!/bin/sh
# Run the ONNX backend tests through the compiler and compare with the list of expected failures.
#
#   testsuite/conformance/run.sh                  all kinds; fails when a listed test passes or another one fails
#   testsuite/conformance/run.sh --update         writes the list from this run
#   testsuite/conformance/run.sh --only NAME      tests whose name contains NAME, results only
#   testsuite/conformance/run.sh --foreign        on AArch64 and RISC-V V under QEMU: what passes on x86-64 must pass there (half an hour each)
#
# The table of results is left in $DATA/conformance.tsv (DATA as in testsuite/setup.sh).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
data=${ONNXC_DATA:-$root/target}
python=$root/.venv/bin/python
if [ -n "${ONNXC_DATA:-}" ]; then python=$data/venv/bin/python; fi
if [ ! -d "$data/onnx-tests" ]; then echo "run.sh: run testsuite/setup.sh first" >&2; exit 1; fi
if [ -z "${ONNXC_ADAPTER:-}" ]; then
    (cd "$root" && cargo build --release --quiet -p onnxc -p onnxc-testsuite --bins)
    ONNXC_ADAPTER=${CARGO_TARGET_DIR:-$root/target}/release/onnxc-adapter
    export ONNXC_ADAPTER
fi
mode=--check only=
case ${1:-} in
    "") ;;
    --update) mode=--update ;;
    --only) only=$2 ;;
    --foreign)
        for target in aarch64 riscv64-v128; do
            echo "== $target"
            table=$data/conformance-$target.tsv
            ONNXC_CONFORMANCE_TARGET=$target "$python" "$root/testsuite/zoo/run_conformance.py" "cmd:$root/testsuite/adapters/conformance" \
                "$data/onnx-tests" "$table" --jobs 2 --timeout 900
            "$python" "$root/testsuite/conformance/expected.py" --check "$table" "$root/testsuite/conformance/expected_fail.txt"
        done
        exit 0 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
table=$data/conformance.tsv
"$python" "$root/testsuite/zoo/run_conformance.py" "cmd:$root/testsuite/adapters/conformance" "$data/onnx-tests" "$table" --jobs 2 --timeout 120 --only "$only"
if [ -n "$only" ]; then
    cut -f2,4,5 "$table"
else
    "$python" "$root/testsuite/conformance/expected.py" "$mode" "$table" "$root/testsuite/conformance/expected_fail.txt"
fi
