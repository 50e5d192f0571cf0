#!/usr/bin/env python3
"""What zeros in weights are worth: dense networks beside themselves with patterns of zeros forced on them, whole models, timed in turn.

usage: testsuite/sparse_bench.py make [--models a,b] [--out DIR]       prunes by magnitude, compiles, links (no timing)
       testsuite/sparse_bench.py run [--models a,b] [--rounds N] [--json FILE]
       testsuite/sparse_bench.py prune IN.onnx OUT.onnx --kernels 4 --channels 0.5 --points 0.5 --full 0.85 [--group 32]

Patterns: groups of 32 filters share what is left. Kernels of 3 by 3 keep 4 of 9 positions of half of the channels; those of 1 by 1 and fully connected layers
lose the given part of their channels; of 8-bit weights four channels go together. The first convolution and depthwise ones stay as they are.
Needs testsuite/setup.sh --bench, a C compiler, and onnxc (ONNXC, else the release build). ONNXC_BENCH_FLAGS are passed to onnxc compile.
"""
import argparse, json, os, statistics, subprocess, sys, time
import numpy as np
import onnx
from onnx import numpy_helper
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(HERE)
DATA = os.environ.get("ONNXC_DATA", os.path.join(ROOT, "target"))
ONNXC = os.environ.get("ONNXC", os.path.join(ROOT, "target", "release", "onnxc"))
FLAGS = os.environ.get("ONNXC_BENCH_FLAGS", "").split()

# name: model, cut at the first Flatten, pruning, flags; each beside "of", with the factor that it should reach
CASES = {
    "resnet50": ("resnet50", False, None, [], None, 0),
    "resnet50-1x1-50": ("resnet50", False, dict(points=0.5), [], "resnet50", 2.1),
    "resnet50-1x1-70": ("resnet50", False, dict(points=0.7), [], "resnet50", 2.6),
    "vgg16-conv-direct": ("vgg16", True, None, ["--math=strict"], None, 0),
    "vgg16-conv": ("vgg16", True, None, [], None, 0),
    "vgg16-conv-sparse": ("vgg16", True, dict(), [], "vgg16-conv-direct", 3.6),
    "vgg16-conv-sparse-2": ("vgg16", True, dict(), [], "vgg16-conv", 1.5),
    "vgg16-direct": ("vgg16", False, None, ["--math=strict"], None, 0),
    "vgg16-sparse": ("vgg16", False, dict(full=0.85), [], "vgg16-direct", 4.0),
    "resnet50.int8": ("resnet50.int8", False, None, [], None, 0),
    "resnet50.int8-1x1-50": ("resnet50.int8", False, dict(points=0.5), [], "resnet50.int8", 1.9),
    "resnet50.int8-1x1-70": ("resnet50.int8", False, dict(points=0.7), [], "resnet50.int8", 2.3),
    "vgg16.int8-conv": ("vgg16.int8", True, None, [], None, 0),
    "vgg16.int8-conv-sparse": ("vgg16.int8", True, dict(), [], "vgg16.int8-conv", 3.5),
}
SETS = {  # what is timed in one run
    "resnet50": ["resnet50", "resnet50-1x1-50", "resnet50-1x1-70"],
    "vgg16-conv": ["vgg16-conv-direct", "vgg16-conv", "vgg16-conv-sparse"],
    "vgg16": ["vgg16-direct", "vgg16-sparse"],
    "resnet50.int8": ["resnet50.int8", "resnet50.int8-1x1-50", "resnet50.int8-1x1-70"],
    "vgg16.int8-conv": ["vgg16.int8-conv", "vgg16.int8-conv-sparse"],
}

def keep_best(score, n):
    """a mask of the n largest along the last axis, the same number for each"""
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, np.argsort(-score, axis=-1, kind="stable")[..., :n], True, axis=-1)
    return mask

def mask_of(w, group, quad, kernels, channels, dropped):
    """which of [filters, channels, positions] stay: all filters of a group have the same, `quad` channels go together"""
    f, c, p = w.shape; fs, cs = -(-f // group), -(-c // quad)
    padded = np.zeros((fs * group, cs * quad, p), np.float64); padded[:f, :c] = np.square(w.astype(np.float64))
    score = padded.reshape(fs, group, cs, quad, p).sum(axis=(1, 3))  # [groups, channel groups, positions]
    if p == 1:
        mask = keep_best(score[..., 0], max(1, round(cs * (1 - dropped))))[..., None]
    else:
        taps = keep_best(score, max(1, round(p * kernels / 9)))
        whole = keep_best((score * taps).sum(axis=2), max(1, round(cs * (1 - channels))))
        mask = taps & whole[..., None]
    full = np.repeat(np.repeat(mask, group, axis=0), quad, axis=1)
    return full[:f, :c]

def prune(model, kernels=4, channels=0.5, points=0.0, full=0.0, group=32):
    """zeros in the weights of convolutions and fully connected layers; what is 8-bit is found behind DequantizeLinear"""
    tensors = {t.name: t for t in model.graph.initializer}
    made = {o: n for n in model.graph.node for o in n.output}
    first, before, after = True, 0, 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"): continue
        source = node.input[1]
        if source not in tensors and source in made and made[source].op_type == "DequantizeLinear": source = made[source].input[0]
        if source not in tensors: continue
        w = numpy_helper.to_array(tensors[source]); attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        is_first, first = first, False
        if w.ndim < 2 or w.shape[1] == 1 and node.op_type == "Conv" or is_first: continue
        turned = node.op_type == "MatMul" or node.op_type == "Gemm" and not attrs.get("transB")
        flat = (w.T if turned else w).reshape(w.shape[1] if turned else w.shape[0], -1, int(np.prod(w.shape[2:])))
        dropped = points if node.op_type == "Conv" else full
        if flat.shape[2] == 1 and dropped == 0: continue
        mask = mask_of(flat, group, 4 if w.dtype.itemsize == 1 else 1, kernels, channels, dropped)
        thin = np.where(mask, flat, flat.dtype.type(0)).reshape((w.T if turned else w).shape)
        before += w.size; after += int(mask.sum())
        tensors[source].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(thin.T if turned else thin), source))
    return before, after

def cut(model):
    """only what is in front of the first Flatten"""
    flat = next(n for n in model.graph.node if n.op_type == "Flatten").input[0]
    keep, want = [], {flat}
    for n in reversed(model.graph.node):
        if want & set(n.output): keep.append(n); want |= set(n.input)
    del model.graph.node[:]; model.graph.node.extend(reversed(keep))
    used = {i for n in keep for i in n.input}; left = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]; model.graph.initializer.extend(left)
    del model.graph.output[:]; model.graph.output.append(onnx.helper.make_empty_tensor_value_info(flat))
    del model.graph.value_info[:]
    kind = onnx.shape_inference.infer_shapes(model)
    shapes = {v.name: v for v in kind.graph.value_info}
    if flat in shapes: model.graph.output[0].CopyFrom(shapes[flat])

def make(name, out):
    source, conv_only, pruning, flags, _, _ = CASES[name]
    d = os.path.join(out, name); os.makedirs(d, exist_ok=True)
    model = onnx.load(os.path.join(DATA, "bench", source + ".onnx"))
    if conv_only: cut(model)
    said = ""
    if pruning is not None:
        before, after = prune(model, **pruning); said = f", {after / before:.1%} of {before:,d} weights left"
    path = os.path.join(d, "model.onnx"); onnx.save(model, path)
    inputs = [i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    rng = np.random.default_rng(1)
    for i, x in enumerate(inputs):
        shape = [max(1, e.dim_value) for e in x.type.tensor_type.shape.dim]
        np.save(os.path.join(d, f"input_{i}.npy"), rng.standard_normal(shape).astype(np.float32))
    start = time.time(); archive = os.path.join(d, "model.a")
    subprocess.run([ONNXC, "compile", path, "-o", archive, "--cpu", "native", "--name", "model", *flags, *FLAGS], check=True)
    seconds = time.time() - start
    subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-I", d, '-DMODEL_HEADER="model.h"', "-DMODEL=model_model", os.path.join(HERE, "adapters", "bench_main.c"), archive, "-lm", "-lpthread", "-o", os.path.join(d, "program")], check=True)
    os.remove(path)
    print(f"{name}: {os.path.getsize(archive):,d} bytes, compiled in {seconds:.1f} s{said}", flush=True)

def run(names, out, rounds):
    """ms of each model, round by round in turn"""
    programs = {n: subprocess.Popen([os.path.join(out, n, "program"), os.path.join(out, n), "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in names}
    def ask(n, line):
        programs[n].stdin.write(line + "\n"); programs[n].stdin.flush(); return programs[n].stdout.readline()
    for n in names: assert programs[n].stdout.readline().strip() == "ready", n
    times = {n: [] for n in names}
    for n in names: ask(n, "run 1")
    for _ in range(rounds):
        for n in names: times[n] += [int(t) / 1e6 for t in ask(n, "run 2").split()]
    for p in programs.values(): p.stdin.close(); p.wait()
    return times

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("what", choices=["make", "run", "prune"]); ap.add_argument("files", nargs="*")
    ap.add_argument("--models", default=",".join(SETS)); ap.add_argument("--out", default=os.path.join(ROOT, "target", "sparse-bench"))
    ap.add_argument("--rounds", type=int, default=10); ap.add_argument("--json")
    ap.add_argument("--kernels", type=int, default=4); ap.add_argument("--channels", type=float, default=0.5)
    ap.add_argument("--points", type=float, default=0.0); ap.add_argument("--full", type=float, default=0.0); ap.add_argument("--group", type=int, default=32)
    a = ap.parse_args()
    if a.what == "prune":
        model = onnx.load(a.files[0]); before, after = prune(model, a.kernels, a.channels, a.points, a.full, a.group)
        onnx.save(model, a.files[1]); return print(f"{after / before:.1%} of {before:,d} weights left")
    chosen = [n for n in a.models.split(",") if n]
    if a.what == "make":
        for name in [m for n in chosen for m in SETS.get(n, [n])]: make(name, a.out)
        return
    print("| model | ms, least | ms, median | beside | least | median | of pairs in turn, median | goal |\n|---|---:|---:|---|---:|---:|---:|---:|"); data = {}
    for one in chosen:
        names = SETS[one]; times = run(names, a.out, a.rounds); data.update(times)
        for name in list(names) + [c for c in CASES if c[:-2] in names and c.endswith("-2")]:
            own = times[name if name in times else name[:-2]]; of, goal = CASES[name][4:]
            ratio = [*(f(times[of]) / f(own) for f in (min, statistics.median)), statistics.median(a / b for a, b in zip(times[of], own))] if of else None
            print(f"| {name} | {min(own):.2f} | {statistics.median(own):.2f} | " + (f"{of} | " + " | ".join(f"{r:.2f}" for r in ratio) + f" | {goal} |" if of else "| | | | |"), flush=True)
    if a.json: json.dump(data, open(a.json, "w"))

if __name__ == "__main__":
    main()
