#!/bin/sh
# Run all tests: install what they need, build, test every crate.  Exit code 0 when everything passed.
# Arguments go to cargo test:  testsuite/run-tests.sh -p onnxc-testsuite --test tidy
set -eu
cd "$(dirname "$0")/.."
testsuite/setup.sh
# What a second build would gain from is gigabytes, and here there is one.
export CARGO_INCREMENTAL=0
# insta must only compare here, never write.
export CI=1
if [ $# -gt 0 ]; then exec cargo test --no-fail-fast "$@"; fi
failed=0
cargo test --no-fail-fast --workspace || failed=$?
# By itself: with this feature in the command above, tests that build the program `onnxc` would build all crates above the runtime once more.
cargo test --no-fail-fast -p onnxc-runtime --features std || failed=$?
exit $failed
