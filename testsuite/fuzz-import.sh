#!/bin/sh
# Fuzz the ONNX importer with coverage:  testsuite/fuzz-import.sh [SECONDS]
#
# Needs a nightly toolchain, g++ and `cargo install cargo-fuzz`. Seeds are the bad models of the test suite and, where they are there, the
# small models of the ONNX backend tests. An instrumented build is some sixty times slower, so that what the limits of folding allow, a second of work,
# takes a minute: hence the timeout. The corpus grows in target/fuzz-import/corpus; a crash leaves its model in target/fuzz-import/artifacts.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
seconds=${1:-3600}
work=$root/target/fuzz-import
data=${ONNXC_DATA:-$root/target}
mkdir -p "$work/corpus" "$work/seeds" "$work/artifacts"
cargo run -q --manifest-path "$root/Cargo.toml" -p onnxc-testsuite --bin mutate_import -- 0 0 --seeds-to "$work/seeds"
if [ -d "$data/onnx-tests/node" ]; then
    find "$data/onnx-tests/node" -name model.onnx -size -8 | while read -r model; do
        cp "$model" "$work/seeds/$(basename "$(dirname "$model")").onnx"
    done
fi
cd "$root/compiler/onnx"
cargo +nightly fuzz run import "$work/corpus" "$work/seeds" -- \
    -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -max_len=16384 -artifact_prefix="$work/artifacts/" -print_final_stats=1
