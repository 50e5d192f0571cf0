#!/bin/sh
# The main job on a real model: build the compiler, compile magika (it tells the type of a file), link the archive into a C and a Rust program, and ask
# both about files of this repository.  Needs Rust, gcc and Python with venv; everything is written to target/quickstart.
set -eu
cd "$(dirname "$0")/../.."
out=$PWD/target/quickstart
here=testsuite/quickstart
mkdir -p "$out"

echo "== building onnxc"
cargo build --release --quiet -p onnxc
onnxc=${CARGO_TARGET_DIR:-target}/release/onnxc

echo "== fetching the model (pinned, checked by its SHA-256)"
[ -x "$out/venv/bin/python" ] || python3 -m venv "$out/venv"
"$out/venv/bin/python" testsuite/zoo/fetch_zoo.py "$out" --only magika

echo "== onnxc compile magika.onnx -o magika.a"
"$onnxc" compile "$out/magika.onnx" --shape bytes=1,2048 -o "$out/magika.a"
"$onnxc" compile "$out/magika.onnx" --shape bytes=1,2048 -o "$out/magika.a" --emit=crate
ls -l "$out/magika.a" "$out/magika.h" "$out/magika.rs" "$out/magika.json"

files="README.md Cargo.toml $here/detect.c $here/run.sh $here/rust/src/main.rs testsuite/zoo/fetch_zoo.py $out/magika.json $onnxc"

echo "== in C: gcc detect.c magika.a"
awk '{ printf "    \"%s\",\n", $0 }' $here/labels.txt >"$out/labels.inc"
gcc -O2 -Wall -Werror -I "$out" $here/detect.c "$out/magika.a" -o "$out/detect"
# shellcheck disable=SC2086 # a list of files
"$out/detect" $files | tee "$out/c.txt"

echo "== in Rust: the crate that --emit=crate wrote"
CARGO_TARGET_DIR=$out/rust cargo build --release --quiet --manifest-path $here/rust/Cargo.toml
# shellcheck disable=SC2086
"$out/rust/release/detect" $files | tee "$out/rust.txt"
cmp "$out/c.txt" "$out/rust.txt"
echo "== both programs agree"
