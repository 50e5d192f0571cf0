#!/usr/bin/env python3
"""Write seeded inputs and the answers of ONNX Runtime for every model of a folder.

usage: make_zoo_data.py MODELS_DIR OUT_DIR [names...]
For each MODELS_DIR/<id>.onnx:  OUT_DIR/<id>/input_<i>.npy  (i counts the graph inputs that are not initialisers, in graph
order; values and shapes from shapes.json by the same function and seed as bench_peers.py, pictures for models that answer nothing on noise), output_<j>.npy, and
model.json: what a caller has to know (name, type, shape of each input and output, the model's hash).
Idempotent: a model whose model.json carries its hash, the runtime's version and the hash of shapes.json is left alone.
"""
import hashlib, json, os, sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

def digest(path):
    with open(path, "rb") as f: return hashlib.sha256(f.read()).hexdigest()

def text_lines(shape):
    """Dark strokes in lines on white, normalised: on noise a text detector answers 1e-4 everywhere, which compares nothing."""
    import numpy as np
    r = np.random.default_rng(0); n, c, h, w = shape; page = np.ones((h, w), np.float32)
    for y in range(30, h - 40, 60):
        for x in range(30, w - 40, 18):
            if r.random() < 0.15: continue
            for _ in range(4):
                down, right = r.integers(0, 20), r.integers(0, 10)
                if r.random() < 0.5: page[y + down:y + down + 3, x + 2:x + 13] = 0
                else: page[y:y + 22, x + right:x + right + 3] = 0
    return np.ascontiguousarray(np.broadcast_to((page - 0.45) / 0.225, shape), dtype=np.float32)

PICTURES = {"ppocr4_det": text_lines}

def one(path, out, stamp):
    import numpy as np, onnxruntime as ort
    from bench_peers import make_feeds
    feeds = make_feeds(path, {}, {})
    picture = PICTURES.get(os.path.basename(path)[:-5])
    if picture: feeds = {k: picture(v.shape) for k, v in feeds.items()}
    so = ort.SessionOptions(); so.intra_op_num_threads = 1; so.log_severity_level = 4
    # Without VNNI its faster kernels saturate sums of two products.
    so.add_session_config_entry("session.x64quantprecision", "1")
    s = ort.InferenceSession(path, so, providers=["CPUExecutionProvider"])
    known = {i.name for i in s.get_inputs()}
    outs = s.run(None, {k: v for k, v in feeds.items() if k in known})
    os.makedirs(out, exist_ok=True)
    for i, v in enumerate(feeds.values()): np.save(f"{out}/input_{i}.npy", v)
    for j, v in enumerate(outs): np.save(f"{out}/output_{j}.npy", v)
    describe = lambda names, values: [dict(name=n, type=str(v.dtype), shape=list(v.shape)) for n, v in zip(names, values)]
    json.dump(dict(stamp, inputs=describe(feeds, feeds.values()), outputs=describe([o.name for o in s.get_outputs()], outs)),
              open(f"{out}/model.json", "w"), indent=1)
    return outs

def main(models, target, names):
    import numpy as np, onnxruntime as ort
    bad = 0
    for f in sorted(os.listdir(models)):
        name = f[:-5]
        if not f.endswith(".onnx") or (names and name not in names): continue
        path, out = os.path.join(models, f), os.path.join(target, name)
        stamp = dict(sha256=digest(path), onnxruntime=ort.__version__, shapes=digest(os.path.join(HERE, "shapes.json")), script=digest(__file__))
        try: old = json.load(open(f"{out}/model.json"))
        except (OSError, ValueError): old = {}
        if all(old.get(k) == v for k, v in stamp.items()): continue
        try: outs = one(path, out, stamp)
        except Exception as e:
            bad += 1; print(f"FAIL {name}: {e}", file=sys.stderr); continue
        print(f"ok   {name:20s} outputs " + " ".join(f"{v.dtype}{list(v.shape)}" for v in outs))
    return 1 if bad else 0

if __name__ == "__main__":
    if len(sys.argv) < 3: sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2], set(sys.argv[3:])))
