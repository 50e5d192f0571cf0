#!/usr/bin/env python3
"""Compressed tasks beside peers, all engines in turn in one run:  peers.py --recipes DIR [TASK ...] [--threads N] [--seconds S] [--json OUT]

DIR has TASK.recipe with its arrays beside it (accuracy.py --keep DIR), and those of searches within a quarter and a sixteenth of the loss, if page.py made them.
Peers run the dense model in floats and, where they can, the same model quantised statically by ONNX Runtime's quantizer (QDQ, u8 operands, s8 weights by channel where it can, of 7 bits on x86-64 without VNNI, as its manual says, since sums of
pairs saturate there) with the same calibration inputs; scores are those on eval.npz.
Run it by the Python of the peers (setup.sh --peers).
"""
import argparse, json, os, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "testsuite", "zoo"), os.path.join(ROOT, "testsuite")]
import numpy as np
import accuracy, bench_page, bench_peers, tasklib

FLOATS = ["ort", "openvino", "ncnn", "mnn", "tract"]
INTEGERS = ["ort", "openvino"]

def quantised(task):
    """the QDQ model of a task, made once"""
    has = bench_page.cpu()[1]; saturates = "avx2" in has and not {"avx512_vnni", "avx_vnni"} & set(has)
    out = os.path.join(accuracy.DATA, f"{task}.qdq{7 if saturates else 8}.onnx")
    if os.path.exists(out): return out
    import onnx, onnx.version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    spec = tasklib.load_task(accuracy.folder(task))["inputs"]
    with np.load(os.path.join(accuracy.folder(task), "calib.npz")) as z: data = {n: tasklib.to_input(s, z[n]) for n, s in spec.items()}
    class Reader(CalibrationDataReader):
        def __init__(self): self.feeds = iter([{n: v[i:i + 1] for n, v in data.items()} for i in range(min(map(len, data.values())))])
        def get_next(self): return next(self.feeds, None)
    with tempfile.TemporaryDirectory() as t:
        prepared, made = os.path.join(t, "p.onnx"), os.path.join(t, "q.onnx")
        quant_pre_process(accuracy.model(task), prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        # Scales by channel came with opset 13.
        if any(o.domain in ("", "ai.onnx") and o.version < 13 for o in model.opset_import): onnx.save(onnx.version_converter.convert_version(model, 13), prepared)
        how = dict(quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8, reduce_range=saturates)
        try: quantize_static(prepared, made, Reader(), per_channel=True, **how)
        except ValueError: quantize_static(prepared, made, Reader(), per_channel=False, **how)  # its version of today fails on some biases by channel
        os.makedirs(accuracy.DATA, exist_ok=True); os.replace(made, out + ".new"); os.replace(out + ".new", out)
    return out

def serve(engine, path, folder, threads):
    """the protocol of bench_peers.py for an engine of it and another model than the others'"""
    import onnx
    names = [i.name for i in onnx.load(path).graph.input]
    feeds = {n: np.load(os.path.join(folder, f"input_{i}.npy")) for i, n in enumerate(names)}
    with tempfile.TemporaryDirectory() as t:
        run, outs = getattr(bench_peers, "e_" + engine)(path, feeds, int(threads), t)
        import time; run(); print("ready", flush=True)
        for line in sys.stdin:
            what, *rest = line.split()
            if what == "run":
                times = []
                for _ in range(int(rest[0])): a = time.perf_counter_ns(); run(); times.append(time.perf_counter_ns() - a)
                print(" ".join(map(str, times)), flush=True)
            elif what == "out":
                for j, o in enumerate(outs()): np.save(os.path.join(rest[0], f"output_{j}.npy"), o)
                print("ok", flush=True)
            else: break

def wrapper(t, name, lines):
    path = os.path.join(t, name)
    with open(path, "w") as f: f.write("#!/bin/sh\n" + lines + "\n")
    os.chmod(path, 0o755)
    return path

def run(task, a, t):
    qdq, model = quantised(task), accuracy.model(task)
    recipes = {drop: os.path.join(os.path.abspath(a.recipes), name + ".recipe") for drop, name in [(accuracy.allowed(task), task), *accuracy.tighter(task)]}
    recipes = {drop: recipe for drop, recipe in recipes.items() if os.path.exists(recipe)}
    own = {drop: wrapper(t, f"onnxc-{task}-{drop.rstrip('%')}", f'ONNXC_BENCH_FLAGS="--recipe {recipe}" exec {ROOT}/testsuite/adapters/bench "$@"') for drop, recipe in recipes.items()}
    integers = {e: wrapper(t, f"{e}-int8-{task}", f'exec {sys.executable} {os.path.abspath(__file__)} --serve {e} {qdq} "$2" "$3"') for e in INTEGERS}
    out = os.path.join(t, task + ".json"); engines = FLOATS + [f"cmd:{p}" for p in [*own.values(), *integers.values()]]
    r = subprocess.run([sys.executable, os.path.join(ROOT, "testsuite", "zoo", "bench_peers.py"), model, "--threads", str(a.threads), "--engines", ",".join(engines), "--seconds", str(a.seconds),
                        "--max-seconds", str(max(4, 6 * a.seconds)), "--json", out, *(["--no-wait"] if a.no_wait else []), *accuracy.shapes(task)], capture_output=True, text=True)
    if not os.path.exists(out): sys.exit(f"{task}: {r.stderr.strip()[-2000:]}")
    got = next(iter(json.load(open(out)).values()))[str(a.threads)]
    ms = lambda e: (got.get(e) or {}).get("median_ms")
    spec = tasklib.load_task(accuracy.folder(task))
    with np.load(os.path.join(accuracy.folder(task), "eval.npz")) as z:
        right = {kind: tasklib.right(spec, tasklib.run(spec, path, z), z["labels"]) for kind, path in (("dense", model), ("int8", qdq))}
    percent = lambda right: 100.0 * float(right.mean())
    evals = accuracy.inputs(task, "eval", os.path.join(t, task + "_eval.npz"))
    def compressed(recipe):
        """the score of a compressed model, and standard errors of what peers' are above it"""
        own = accuracy.scored(a.onnxc, task, evals, ["--recipe", recipe], os.path.join(t, task + "_c"))[1]
        return dict(score=percent(own), errors={kind: tasklib.paired_error(other, own) for kind, other in right.items()})
    floats = {e: ms(e) for e in FLOATS if ms(e)}; bytes_ = {e: ms(f"cmd:{p}") for e, p in integers.items() if ms(f"cmd:{p}")}
    found = {drop: dict(ms=ms("cmd:" + path), **compressed(recipes[drop])) for drop, path in own.items()}
    return dict(task=task, threads=a.threads, own=found, floats=floats, int8=bytes_, scores={kind: percent(r) for kind, r in right.items()}, failed={e: v.get("err") for e, v in got.items() if not v.get("median_ms")})

def main():
    if sys.argv[1:2] == ["--serve"]: return serve(*sys.argv[2:6])
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tasks", nargs="*"); ap.add_argument("--recipes", required=True); ap.add_argument("--threads", type=int, default=1); ap.add_argument("--seconds", type=float, default=1)
    ap.add_argument("--no-wait", action="store_true"); ap.add_argument("--json"); ap.add_argument("--onnxc", default=os.path.join(ROOT, "target", "release", "onnxc"))
    a = ap.parse_args(); rows = []
    print("| task | loss allowed | onnxc, compressed: ms, score | best f32 peer: ms, score | faster | best int8 peer: ms, score | faster |\n|---|---|---|---|---:|---|---:|", flush=True)
    with tempfile.TemporaryDirectory() as t:
        for task in a.tasks or [n for n in accuracy.DROPS if os.path.exists(os.path.join(a.recipes, n + ".recipe"))]:
            r = run(task, a, t); rows.append(r)
            for drop, own in r["own"].items():
                text = f"{own['ms']:.4f}, {own['score']:.2f} %" if own["ms"] else str(r["failed"])[:80]
                print(f"| {task} | {drop} | {text} | {' | '.join(accuracy.beside_peers(r, own))} |", flush=True)
    if a.json: json.dump(rows, open(a.json, "w"), indent=1)

if __name__ == "__main__": main()
