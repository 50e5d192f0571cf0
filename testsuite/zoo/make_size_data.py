#!/usr/bin/env python3
"""Write inputs of many sizes, and the answers of ONNX Runtime, for models with open dimensions.

usage: make_size_data.py MODELS_DIR OUT_DIR
OUT_DIR/<id>/<value>x<value>.../input_<i>.npy and output_<j>.npy: twenty seeded choices of the dimensions for each model, the smallest and
the largest among them. testsuite/tests/open_dims.rs names the dimensions in the same order.
"""
import os, sys
import numpy as np, onnxruntime as ort
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_zoo_data import text_lines

def minilm(r, n, l):
    mask = np.arange(l)[None, :] < r.integers(1, l + 1, (n, 1))
    return {"input_ids": r.integers(1000, 20000, (n, l)).astype(np.int64), "attention_mask": mask.astype(np.int64)}

MODELS = {
    "minilm_l3": ([(1, 4), (1, 128)], minilm),
    "ppocr4_rec": ([(32, 1280)], lambda r, w: {"x": r.standard_normal((1, 3, 48, w)).astype(np.float32)}),
    "ppocr4_det": ([(3, 9), (3, 9)], lambda r, h, w: {"x": text_lines((1, 3, 32 * h, 32 * w))}),
    "opennsfw": ([(1, 3)], lambda r, n: {"input:0": (40 * r.standard_normal((n, 224, 224, 3))).astype(np.float32)}),
}

def main(models, target):
    for name, (ranges, feeds) in MODELS.items():
        so = ort.SessionOptions(); so.log_severity_level = 4
        # Without VNNI its faster kernels saturate sums of two products.
        so.add_session_config_entry("session.x64quantprecision", "1")
        s = ort.InferenceSession(os.path.join(models, name + ".onnx"), so, providers=["CPUExecutionProvider"])
        r = np.random.default_rng(7)
        choices = [tuple(a for a, _ in ranges), tuple(b for _, b in ranges)]
        choices += [tuple(int(r.integers(a, b + 1)) for a, b in ranges) for _ in range(18)]
        for values in sorted(set(choices)):
            out = os.path.join(target, name, "x".join(map(str, values)))
            os.makedirs(out, exist_ok=True)
            given = feeds(r, *values)
            given = {i.name: given[i.name] for i in s.get_inputs()}
            for i, v in enumerate(given.values()): np.save(f"{out}/input_{i}.npy", v)
            for j, v in enumerate(s.run(None, given)): np.save(f"{out}/output_{j}.npy", v)

if __name__ == "__main__":
    if len(sys.argv) != 3: sys.exit(__doc__)
    main(*sys.argv[1:])
