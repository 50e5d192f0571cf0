#!/bin/sh
# Run all tests: install what they need, build, test every crate.  Exit code 0 when everything passed.
# Arguments go to cargo test:  testsuite/run-tests.sh -p onnxc-testsuite --test tidy
set -eu
cd "$(dirname "$0")/.."
# What a second build would gain from is gigabytes, and here there is one.
export CARGO_INCREMENTAL=0
# insta must only compare here, never write.
export CI=1
if [ $# -gt 0 ]; then
    testsuite/setup.sh
    exec cargo test --no-fail-fast "$@"
fi
# Fetching waits for the network and has one core at most: the crates are built meanwhile.  Should that fail, the command below says why.
cargo test --no-run --workspace &
building=$!
trap 'kill $building 2>/dev/null || true' EXIT
testsuite/setup.sh
wait $building || true
trap - EXIT
failed=0
cargo test --no-fail-fast --workspace || failed=$?
# By itself: with this feature in the command above, tests that build the program `onnxc` would build all crates above the runtime once more.
cargo test --no-fail-fast -p onnxc-runtime --features std || failed=$?
exit $failed
