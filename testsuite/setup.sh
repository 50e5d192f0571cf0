#!/bin/sh
# Install what the tests need beyond Rust, and write the test data.  Safe to run again: what is there is kept.
#
#   testsuite/setup.sh            tools, Python packages, zoo models, ONNX backend tests, tests of ONNX Runtime's operators,
#                                 small quantised networks, the small ones of the benchmark networks
#   testsuite/setup.sh --bench    all benchmark networks, dense (0.8 GB) and quantised
#   testsuite/setup.sh --peers    the engines of testsuite/bench_table.py --page, in an environment of their own (2 GB)
#   testsuite/setup.sh --no-apt   never call the package manager
#
# $DATA is target/ unless ONNXC_DATA names another folder:
#   $DATA/zoo/<id>.onnx, $DATA/zoo/data/<id>/{input_<i>,output_<j>}.npy, $DATA/onnx-tests/<kind>/<test>/,
#   $DATA/contrib/<test>/, $DATA/qdq/<id>.onnx, $DATA/qdq/data/<id>/{input_<i>,output_<j>}.npy, the same in $DATA/bench
# Python packages go to .venv, or to $ONNXC_DATA/venv when that variable is set; the peers to $DATA/peers.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
data=${ONNXC_DATA:-$root/target}
venv=$root/.venv
if [ -n "${ONNXC_DATA:-}" ]; then venv=$data/venv; fi
bench=0 apt=1 peers=0
for arg in "$@"; do
    case $arg in
        --bench) bench=1 ;;
        --peers) peers=1 ;;
        --no-apt) apt=0 ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

# ---- tools: a command that must exist, and the package that brings it
missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need gcc gcc
need g++ g++
need gdb gdb
need python3 python3
need npm npm
need qemu-aarch64 qemu-user
need qemu-system-aarch64 qemu-system-arm
need qemu-system-riscv64 qemu-system-misc
need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
need riscv64-linux-gnu-gcc "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ] && [ $apt = 1 ] && command -v apt-get >/dev/null 2>&1; then
    as_root=; [ "$(id -u)" = 0 ] || as_root=sudo
    echo "installing:$missing"
    # shellcheck disable=SC2086 # the list is split on purpose
    $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
elif [ -n "$missing" ]; then
    echo "setup.sh: these packages are needed and were not installed:$missing" >&2
    exit 1
fi

# ---- Python packages
mkdir -p "$data"
if ! cmp -s "$root/testsuite/zoo/requirements.txt" "$venv/requirements.txt"; then
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$root/testsuite/zoo/requirements.txt"
    cp "$root/testsuite/zoo/requirements.txt" "$venv/requirements.txt"
fi
python=$venv/bin/python
if [ $peers = 1 ] && ! cmp -s "$root/testsuite/zoo/requirements-peers.txt" "$data/peers/requirements.txt"; then
    [ -x "$data/peers/bin/python" ] || python3 -m venv "$data/peers"
    # Only a program of pnnx is used, which needs none of the packages that it asks for (and these are large).
    grep -v '^pnnx==' "$root/testsuite/zoo/requirements-peers.txt" >"$data/peers/requirements.part"
    "$data/peers/bin/pip" install -q --disable-pip-version-check -r "$data/peers/requirements.part"
    "$data/peers/bin/pip" install -q --disable-pip-version-check --no-deps "$(grep '^pnnx==' "$root/testsuite/zoo/requirements-peers.txt")"
    cp "$root/testsuite/zoo/requirements-peers.txt" "$data/peers/requirements.txt"
fi

# ---- models and data
"$python" "$root/testsuite/zoo/fetch_zoo.py" "$data/zoo"
"$python" "$root/testsuite/zoo/make_zoo_data.py" "$data/zoo" "$data/zoo/data"
stamp=$(cat "$root/testsuite/zoo/requirements.txt" "$root/testsuite/zoo/gen_node_tests.py" | cksum)
if [ "$(cat "$data/onnx-tests/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$data/onnx-tests"
    "$python" "$root/testsuite/zoo/gen_node_tests.py" "$data/onnx-tests"
    echo "$stamp" >"$data/onnx-tests/stamp"
fi
stamp=$(cat "$root/testsuite/zoo/requirements.txt" "$root/testsuite/contrib/make_contrib_tests.py" | cksum)
if [ "$(cat "$data/contrib/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$data/contrib"
    "$python" "$root/testsuite/contrib/make_contrib_tests.py" "$data/contrib"
    echo "$stamp" >"$data/contrib/stamp"
fi
stamp=$(cat "$root/testsuite/zoo/requirements.txt" "$root/testsuite/qdq/make_qdq_models.py" | cksum)
if [ "$(cat "$data/qdq/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$data/qdq"
    "$python" "$root/testsuite/qdq/make_qdq_models.py" "$data/qdq"
    echo "$stamp" >"$data/qdq/stamp"
fi
stamp=$(cat "$root/testsuite/zoo/requirements.txt" "$root/testsuite/zoo/zoo_manifest.json" "$root/testsuite/zoo/make_size_data.py" | cksum)
if [ "$(cat "$data/sizes/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$data/sizes"
    "$python" "$root/testsuite/zoo/make_size_data.py" "$data/zoo" "$data/sizes"
    echo "$stamp" >"$data/sizes/stamp"
fi
networks="mnist_cnn dscnn_kws squeezenet11 shufflenetv2 mobilenetv3_small"
if [ $bench = 1 ]; then networks="$networks mobilenetv2 efficientnet_b0 resnet50 vgg16 vit_tiny bert6"; fi
for net in $networks; do
    dense=$data/bench/$net.onnx
    [ -e "$dense" ] || "$python" "$root/testsuite/zoo/make_bench_models.py" "$data/bench" "$net"
    [ -e "${dense%.onnx}.int8.onnx" ] || "$python" "$root/testsuite/zoo/make_int8.py" "$dense" "${dense%.onnx}.int8.onnx"
done
"$python" "$root/testsuite/zoo/make_zoo_data.py" "$data/bench" "$data/bench/data"
echo "test data is in $data"
