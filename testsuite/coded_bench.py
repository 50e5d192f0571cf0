#!/usr/bin/env python3
"""What coded weights are worth: networks of floats beside themselves with weights of 8 and of 4 bits (activations stay floats), timed in turn.

usage: testsuite/coded_bench.py make [--models a,b] [--out DIR]       codes to nearest, compiles, links (no timing)
       testsuite/coded_bench.py run [--models a,b] [--rounds N]
       testsuite/coded_bench.py code IN.onnx OUT.onnx --bits 8

Weights of 8 bits have a scale for each output; those of 4 bits are 15 values with one, written as 8-bit integers, which the compiler finds to be few.
Convolutions are compared without Winograd's algorithm, which coded weights do not have. Needs what sparse_bench.py needs.
"""
import argparse, os, statistics, subprocess
import numpy as np
import onnx
from onnx import helper, numpy_helper
import sparse_bench as base

# model, and whether only what is behind the first Flatten is taken
CASES = {"vgg16-full": ("vgg16", True), "resnet50": ("resnet50", False), "bert6": ("bert6", False)}
FORMS = {"": 32, ".byte": 8, ".nibble": 4}

def code(model, bits):
    """weights of convolutions of one group and of fully connected layers as DequantizeLinear of integers"""
    tensors = {t.name: t for t in model.graph.initializer}; nodes, done = [], {}
    for node in model.graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        name = node.input[1] if len(node.input) > 1 else ""
        if node.op_type in ("Conv", "Gemm", "MatMul") and name in tensors and attrs.get("group", 1) == 1:
            w = numpy_helper.to_array(tensors[name])
            axis = 0 if node.op_type == "Conv" or attrs.get("transB") else w.ndim - 1
            if w.ndim >= 2 and name not in done:
                most = (1 << (bits - 1)) - 1; others = tuple(d for d in range(w.ndim) if d != axis)
                scale = np.maximum(np.abs(w).max(axis=others), 1e-9) / most
                shape = [1] * w.ndim; shape[axis] = -1
                q = np.clip(np.round(w / scale.reshape(shape)), -most, most).astype(np.int8)
                model.graph.initializer.extend([numpy_helper.from_array(q, name + ".q"), numpy_helper.from_array(scale.astype(np.float32), name + ".s")])
                done[name] = helper.make_node("DequantizeLinear", [name + ".q", name + ".s"], [name + ".real"], axis=axis)
                nodes.append(done[name])
            if name in done: node.input[1] = name + ".real"
        nodes.append(node)
    del model.graph.node[:]; model.graph.node.extend(nodes)
    for name in done: model.graph.initializer.remove(tensors[name])
    # A scale for each output came with operator set 13.
    for o in model.opset_import:
        if o.domain in ("", "ai.onnx"): o.version = max(o.version, 13)

def tail(model):
    """only what is behind the first Flatten"""
    flat = next(n for n in model.graph.node if n.op_type == "Flatten").output[0]
    shapes = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    have, keep = {flat}, []
    for n in model.graph.node:
        if have & set(n.input): keep.append(n); have |= set(n.output)
    del model.graph.node[:]; model.graph.node.extend(keep)
    used = {i for n in keep for i in n.input}; left = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]; model.graph.initializer.extend(left)
    del model.graph.input[:]; model.graph.input.append(shapes[flat]); del model.graph.value_info[:]

def make(name, out):
    source, behind = CASES[name]
    for form, bits in FORMS.items():
        d = os.path.join(out, name + form); os.makedirs(d, exist_ok=True)
        model = onnx.load(os.path.join(base.DATA, "bench", source + ".onnx"))
        if behind: tail(model)
        if bits < 32: code(model, bits)
        path = os.path.join(d, "model.onnx"); onnx.save(model, path)
        rng = np.random.default_rng(1)
        known = {t.name for t in model.graph.initializer}
        for i, x in enumerate(i for i in model.graph.input if i.name not in known):
            shape = [max(1, e.dim_value) for e in x.type.tensor_type.shape.dim]
            kind = helper.tensor_dtype_to_np_dtype(x.type.tensor_type.elem_type)
            data = rng.standard_normal(shape) if kind == np.float32 else rng.integers(0, 2, shape)
            np.save(os.path.join(d, f"input_{i}.npy"), data.astype(kind))
        archive = os.path.join(d, "model.a")
        subprocess.run([base.ONNXC, "compile", path, "-o", archive, "--cpu", "native", "--name", "model", "--math=strict", *base.FLAGS], check=True)
        main = os.path.join(base.HERE, "adapters", "bench_main.c")
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-I", d, '-DMODEL_HEADER="model.h"', "-DMODEL=model_model", main, archive, "-lm", "-lpthread", "-o", os.path.join(d, "program")], check=True)
        print(f"{name}{form}: {os.path.getsize(archive):,d} bytes", flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["make", "run", "code"]); ap.add_argument("files", nargs="*")
    ap.add_argument("--models", default=",".join(CASES)); ap.add_argument("--out", default=os.path.join(base.ROOT, "target", "coded-bench"))
    ap.add_argument("--rounds", type=int, default=10); ap.add_argument("--bits", type=int, default=8)
    a = ap.parse_args()
    if a.what == "code":
        model = onnx.load(a.files[0]); code(model, a.bits); return onnx.save(model, a.files[1])
    chosen = a.models.split(",")
    if a.what == "make":
        for name in chosen: make(name, a.out)
        return
    print("| model | bytes | ms, least | ms, median | of floats, least | median |\n|---|---:|---:|---:|---:|---:|")
    for name in chosen:
        names = [name + form for form in FORMS]; times = base.run(names, a.out, a.rounds)
        for n in names:
            ratio = [f(times[n]) / f(times[name]) for f in (min, statistics.median)]
            size = os.path.getsize(os.path.join(a.out, n, "model.a"))
            print(f"| {n} | {size:,d} | {min(times[n]):.2f} | {statistics.median(times[n]):.2f} | {ratio[0]:.2f} | {ratio[1]:.2f} |", flush=True)

if __name__ == "__main__":
    main()
