#!/bin/sh
# Run all tests: install what they need, build, test every crate.  Exit code 0 when everything passed.
# Arguments go to cargo test:  testsuite/run-tests.sh -p onnxc-testsuite --test tidy
set -eu
cd "$(dirname "$0")/.."
testsuite/setup.sh
if [ $# -eq 0 ]; then set -- --workspace --features onnxc-runtime/std; fi
# What a second build would gain from is gigabytes, and here there is one.
export CARGO_INCREMENTAL=0
# insta must only compare here, never write.
export CI=1
exec cargo test --no-fail-fast "$@"
