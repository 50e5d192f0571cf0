#!/usr/bin/env python3
"""Do zeros in weights pay on targets that are not here? Instructions that the emulator executes for an inference, dense and with zeros.

usage: testsuite/foreign_compressed.py [--models orientation,mnist] [--groups 4,8,16] [--targets a64,rv128,rv256] [--json FILE]
       testsuite/foreign_compressed.py --layers [--targets ...] [--groups ...]     stacks of one kind of convolution instead

Zeros are forced by magnitude (testsuite/sparse_bench.py), in floats and in 8 bits; groups of filters share what is left, and of the group widths each target
gets the one that its own model of latencies finds fastest. Outputs are compared with those of the same model compiled for this machine: the same bits in
8 bits, 1e-4 of the largest in floats. The column before the last is the share of instructions that goes away, divided by the share of multiplications that goes away.
Needs testsuite/setup.sh, cross compilers, qemu with plugins, and onnxc (ONNXC, else the release build).
"""
import argparse, json, os, subprocess, sys, tempfile
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(HERE); sys.path.insert(0, HERE)
import emulated, sparse_bench
from emulated import HOST, TARGETS
DATA = os.environ.get("ONNXC_DATA", os.path.join(ROOT, "target"))
MODELS = {  # file, flags
    "orientation": (os.path.join(DATA, "zoo", "orientation.onnx"), ["--dim", "DynamicDimension.0=1"]),
    "mnist": (os.path.join(HERE, "accuracy", "mnist.onnx"), ["--dim", "N=1"]),
}

def stack(layers, channels, side, kernel, int8):
    """so many convolutions behind each other"""
    rng = np.random.default_rng(0); nodes, init, at = [], [], "x"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, side, side]) for n in "xy"]
    scale, zero = ["s", "z"], ["ws", "wz"]
    if int8:
        init += [numpy_helper.from_array(a, n) for a, n in [(np.float32(0.03), "s"), (np.uint8(0), "z"), (np.full(channels, 1 / 40, np.float32), "ws"), (np.zeros(channels, np.int8), "wz")]]
    def through_bytes(i, at, to):
        nodes.extend([helper.make_node("QuantizeLinear", [at, *scale], [f"q{i}"]), helper.make_node("DequantizeLinear", [f"q{i}", *scale], [to])])
    if int8: through_bytes("x", "x", "dx"); at = "dx"
    for i in range(layers):
        w = rng.standard_normal((channels, channels, kernel, kernel)).astype(np.float32)
        if int8: w = np.clip(np.round(w * 40), -127, 127).astype(np.int8)
        init.append(numpy_helper.from_array(w, f"w{i}")); last = "y" if i == layers - 1 else f"d{i}"
        if int8: nodes.append(helper.make_node("DequantizeLinear", [f"w{i}", *zero], [f"v{i}"], axis=0))
        nodes.append(helper.make_node("Conv", [at, f"v{i}" if int8 else f"w{i}"], [f"c{i}" if int8 else last], pads=[kernel // 2] * 4, kernel_shape=[kernel, kernel]))
        if int8: through_bytes(i, f"c{i}", last)
        at = last
    return helper.make_model(helper.make_graph(nodes, "stack", [ends[0]], [ends[1]], init), opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

def in_bytes(path, to):
    """a model of floats as one of 8-bit integers"""
    model = onnx.load(path)
    for i in model.graph.input:
        for d in i.type.tensor_type.shape.dim:
            if not d.dim_value: d.dim_value = 1
    fixed = to + ".fixed.onnx"; onnx.save(model, fixed)
    subprocess.run([sys.executable, os.path.join(HERE, "zoo", "make_int8.py"), fixed, to], check=True, capture_output=True)

def kept(w, group, quad):
    """how many of the weights [filters, channels, ...] are in groups of filters and channels that are not all zero"""
    f, c = w.shape[:2]; blocks = np.zeros((-(-f // group) * group, -(-c // quad) * quad, int(np.prod(w.shape[2:]))), bool)
    blocks[:f, :c] = w.reshape(f, c, -1) != 0
    some = blocks.reshape(blocks.shape[0] // group, group, blocks.shape[1] // quad, quad, -1).any(axis=(1, 3), keepdims=True)
    return int(np.broadcast_to(some, (blocks.shape[0] // group, group, blocks.shape[1] // quad, quad, blocks.shape[2])).reshape(blocks.shape)[:f, :c].sum())

def multiplications(path, group=None):
    """of an inference, without those whose weight is zero for a whole group of filters"""
    model = onnx.load(path); total = 0
    for i in model.graph.input:
        for d in i.type.tensor_type.shape.dim:
            if not d.dim_value: d.dim_value = 1
    model = onnx.shape_inference.infer_shapes(model)
    tensors = {t.name: t for t in model.graph.initializer}; made = {o: n for n in model.graph.node for o in n.output}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*model.graph.value_info, *model.graph.output]}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"): continue
        source = node.input[1] if node.input[1] in tensors else made[node.input[1]].input[0] if node.input[1] in made else ""
        if source not in tensors: continue
        w = numpy_helper.to_array(tensors[source]); pixels = int(np.prod(shapes[node.output[0]][2:])) if node.op_type == "Conv" else 1
        if node.op_type == "MatMul" or node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute): w = w.T
        total += pixels * (kept(w, group, 4 if w.dtype.itemsize == 1 else 1) if group and w.shape[1] > 1 else w.size)
    return total

def build(path, machine, flags, folder):
    """compiles and links, with inputs of noise; gives the predicted time of an inference in ms"""
    emulated.build(path, machine, flags, folder); rng = np.random.default_rng(1)
    for i, x in enumerate(json.load(open(f"{folder}/model.json"))["inputs"]):
        np.save(f"{folder}/input_{i}.npy", rng.standard_normal([int(n) for n in x["shape"]]).astype(np.float32))
    return emulated.planned(path, machine, flags)[0]

def instructions(machine, folder, plugin): return emulated.instructions(machine, folder, folder, plugin)

def output(machine, folder): return emulated.outputs(machine, folder, folder)[0]

def row(name, target, flags, dense, pruned, plugin, int8, work, pair=None):
    """measures one model with zeros against the dense one; `pair`: shorter ones of the same, whose instructions are taken off"""
    machine, folder = TARGETS[target], lambda part: os.path.join(work, part)
    build(dense, machine, flags, folder("dense")); all_ = instructions(machine, folder("dense"), plugin)
    widths = {group: build(path, machine, flags, folder(f"group{group}")) for group, path in pruned.items()}
    group = min(widths, key=lambda g: (widths[g], -g)); before, after = multiplications(dense), multiplications(pruned[group], group)
    left = instructions(machine, folder(f"group{group}"), plugin)
    got = output(machine, folder(f"group{group}")); build(pruned[group], HOST, flags, folder("host")); want = output(HOST, folder("host"))
    same = np.array_equal(got, want) if int8 else bool(np.abs(got - want).max() <= 1e-4 * np.abs(want).max())
    if pair:
        short = []
        for path in (pair[0], pair[1][group]): build(path, machine, flags, folder("short")); short.append(instructions(machine, folder("short"), plugin))
        before, after = before - multiplications(pair[0]), after - multiplications(pair[1][group], group)
        all_, left = all_ - short[0], left - short[1]
    removed, fallen = 1 - after / before, 1 - left / all_
    said = dict(model=name, target=target, group=group, dense=all_, sparse=left, removed=removed, fallen=fallen, per_mac=fallen / removed, same=same)
    print(f"| {name} | {target} | {group} | {all_ / 1e6:.2f} | {left / 1e6:.2f} | {removed:.1%} | {fallen:.1%} | {fallen / removed:.2f} | {'yes' if same else 'NO'} |", flush=True)
    return said

def thinned(path, to, group, keep):
    model = onnx.load(path); sparse_bench.prune(model, group=group, **keep); onnx.save(model, to)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default=",".join(MODELS)); ap.add_argument("--groups", default="4,8,16"); ap.add_argument("--targets", default=",".join(TARGETS))
    ap.add_argument("--layers", action="store_true"); ap.add_argument("--json")
    a = ap.parse_args(); groups = [int(g) for g in a.groups.split(",")]; rows = []
    print("| model | target | group | M instructions, dense | with zeros | multiplications removed | instructions fallen | of that | outputs equal |\n|---|---|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as work:
        at = lambda name: os.path.join(work, name)
        plugin = emulated.counter(work)
        if a.layers:
            for int8 in (True, False):
                for kernel, channels in ((1, 64), (1, 256), (3, 64)):
                    name = f"{'int8' if int8 else 'f32'} {kernel}x{kernel}, {channels} channels"
                    for layers in (2, 4): onnx.save(stack(layers, channels, 14, kernel, int8), at(f"{layers}.onnx"))
                    for layers in (2, 4):
                        for g in groups: thinned(at(f"{layers}.onnx"), at(f"{layers}.{g}.onnx"), g, dict(points=0.5, kernels=4, channels=0.0))
                    for t in a.targets.split(","):
                        rows.append(row(name, t, [], at("4.onnx"), {g: at(f"4.{g}.onnx") for g in groups}, plugin, int8, work, (at("2.onnx"), {g: at(f"2.{g}.onnx") for g in groups})))
        for name in [] if a.layers else a.models.split(","):
            path, flags = MODELS[name]
            for int8 in (False, True):
                dense = path
                if int8: dense = at("bytes.onnx"); in_bytes(path, dense)
                for g in groups: thinned(dense, at(f"{g}.onnx"), g, dict(points=0.5, full=0.5))
                for t in a.targets.split(","):
                    rows.append(row(name + (" int8" if int8 else ""), t, [] if int8 else flags, dense, {g: at(f"{g}.onnx") for g in groups}, plugin, int8, work))
        if a.json: json.dump(rows, open(a.json, "w"), indent=1)
    return 0 if all(r["same"] for r in rows) else 1

if __name__ == "__main__":
    sys.exit(main())
