#!/usr/bin/env python3
"""Compress the accuracy tasks and score them:  python3 accuracy.py [TASK ...] [--drop mnist=0.5%,...] [--objective latency|size|ram|energy|macs] [--json OUT]
           [--keep DIR: recipes, which peers.py takes] [FLAGS OF onnxc compile]
       what each part of the method is good for:  python3 accuracy.py --ablate [TASK ...] [--json OUT]      (default: mnist orientation)

For each task of make_tasks.py (default: all that are there): `onnxc compile --calib` on the calibration inputs, then `onnxc run --samples` of the compressed
and of the dense model on the evaluation inputs, scored by tasklib.py; archives, and medians of `onnxc bench` of both in turn.  Evaluation inputs are used
for nothing else.  The mnist task lies here; the others are written by `make_tasks.py $DATA/accuracy` ($DATA: target/, or ONNXC_DATA).  numpy only.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time
import numpy as np
import tasklib

HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(os.path.dirname(HERE))
DATA = os.path.join(os.environ.get("ONNXC_DATA", os.path.join(ROOT, "target")), "accuracy")
DROPS = {"mnist": "0.5%", "orientation": "1%", "filetype": "0.5%", "ocr": "1%"}
# Searches within parts of that, for peers that lose less: their names and the parts.
TIGHTER = {"quarter": 1 / 4, "sixteenth": 1 / 16}

def allowed(task, times=1):
    """the loss that a task allows, or so many times that"""
    return f"{times * float(DROPS[task].rstrip('%')):g}%"

def tighter(task):
    """(loss, name of the recipe) of a task's searches within parts of what it allows"""
    return [(allowed(task, part), f"{task}.{name}") for name, part in TIGHTER.items()]

def folder(task):
    return os.path.join(HERE, task) if task == "mnist" else os.path.join(DATA, task)

def model(task):
    return os.path.join(HERE, "mnist.onnx") if task == "mnist" else os.path.join(folder(task), "model.onnx")

def inputs(task, part, to):
    """the arrays of a part as model inputs, in one file"""
    spec = tasklib.load_task(folder(task))
    with np.load(os.path.join(folder(task), part + ".npz")) as z:
        np.savez(to, **{n: tasklib.to_input(s, z[n]) for n, s in spec["inputs"].items()})
    return to

def call(*args):
    r = subprocess.run(args, cwd=ROOT, capture_output=True, text=True)
    if r.returncode: sys.exit(f"{' '.join(args)}: exit {r.returncode}\n{r.stderr.strip()}")
    return r.stdout

def used(*args):
    """seconds and bytes of memory that a program takes"""
    begin = time.time(); p = subprocess.Popen(args, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = p.stderr.read(); _, status, usage = os.wait4(p.pid, 0); p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode: sys.exit(f"{' '.join(args)}: exit {p.returncode}\n{said.strip()}")
    return time.time() - begin, 1024 * usage.ru_maxrss

def shapes(task):
    spec = tasklib.load_task(folder(task))["inputs"]
    return [a for n, s in spec.items() for a in ("--shape", f"{n}={','.join(map(str, s['shape']))}")]

def scored(onnxc, task, data, flags, to):
    """the scores of the evaluation inputs, and which of them are right"""
    call(onnxc, "run", model(task), "--inputs", data, "--samples", "--outputs", to, *shapes(task), *flags)
    with np.load(os.path.join(folder(task), "eval.npz")) as z: labels = z["labels"]
    spec, out = tasklib.load_task(folder(task)), np.load(os.path.join(to, "output_0.npy"))
    return tasklib.score_outputs(spec, out, labels), tasklib.right(spec, out, labels)

def score(*args): return scored(*args)[0]

def beside_peers(r, own):
    """of the fastest peers in floats and in 8 bits: milliseconds, score, by how much that is above our own with its standard error (paired); how much faster ours is"""
    cells = []
    for times, kind in ((r["floats"], "dense"), (r["int8"], "int8")):
        e = min(times, key=times.get) if times else None; score, error = r["scores"][kind], own.get("errors", {}).get(kind)
        lead = f" ({score - own['score']:+.2f} +- {error:.2f})" if error is not None else ""
        cells += [f"{e} {times[e]:.4f} ms, {score:.2f} %{lead}", f"{times[e] / own['ms']:.2f}x"] if e and own["ms"] else ["-", "-"]
    return cells

def pairs(onnxc, task, recipe, seconds, rounds):
    """milliseconds of the dense and the compressed model, in turn"""
    one = lambda *flags: json.loads(call(onnxc, "bench", model(task), "--json", "--seconds", str(seconds), *shapes(task), *flags))["median_ms"]
    return [(one(), one("--recipe", recipe)) for _ in range(rounds)]

def times(onnxc, task, recipe, seconds, rounds=9):
    """medians of both"""
    return [statistics.median(c) for c in zip(*pairs(onnxc, task, recipe, seconds, rounds))]

def run(onnxc, task, a, t):
    at = lambda name: os.path.join(t, task + name)
    calib, evals = inputs(task, "calib", at("_calib.npz")), inputs(task, "eval", at("_eval.npz"))
    drop = dict(p.split("=") for p in a.drop.split(",") if p).get(task, DROPS[task])
    call(onnxc, "compile", model(task), "--cpu", "native", *shapes(task), "-o", at("_dense.a"))
    call(onnxc, "compile", model(task), "--cpu", "native", *shapes(task), "--calib", calib, "--max-drop", drop, "--objective", a.objective, "-o", at("_small.a"), *a.flags)
    call(onnxc, "compile", model(task), "--cpu", "native", *shapes(task), "--recipe", at("_small.recipe"), "-o", at("_again.a"), "--name", task + "_small")
    small, again = (json.load(open(at(f"_{n}.json"))) for n in ("small", "again"))
    (dense, was), (compressed, is_) = scored(onnxc, task, evals, [], at("_d")), scored(onnxc, task, evals, ["--recipe", at("_small.recipe")], at("_c"))
    if a.keep:
        os.makedirs(a.keep, exist_ok=True)
        for end in (".recipe", ".recipe.npz"): shutil.copy(at("_small" + end), os.path.join(a.keep, task + end))
    ms = times(onnxc, task, at("_small.recipe"), a.seconds); size = [os.path.getsize(at(n)) for n in ("_dense.a", "_small.a")]
    key = next(iter(dense))
    return dict(task=task, max_drop=drop, metric=key, dense=dense, compressed=compressed, drop=dense[key] - compressed[key], error=tasklib.paired_error(was, is_), ms=ms, speed=ms[0] / ms[1],
                bytes=size, smaller=size[0] / size[1], same=small["weights_bytes"] == again["weights_bytes"], about=small["compression"]["about"])

def ablation(onnxc, task, a, t):
    """scores of every model of `onnxc compress --ablate` on the evaluation inputs, beside what it lost on the inputs that were held out"""
    at = lambda name: os.path.join(t, task + name)
    calib, evals = inputs(task, "calib", at("_calib.npz")), inputs(task, "eval", at("_eval.npz"))
    call(onnxc, "compress", model(task), "--cpu", "native", *shapes(task), "--calib", calib, "--ablate", at("_ablation.json"), *a.flags)
    with open(at("_ablation.json"), encoding="utf-8") as f: table = json.load(f)
    dense = score(onnxc, task, evals, [], at("_d")); key = next(iter(dense)); rows = table["rows"]
    for r in rows: r["task"], r["eval"] = task, score(onnxc, task, evals, ["--recipe", r.pop("recipe")], at("_c"))[key]
    densities = sorted({r["density"] for r in rows}, reverse=True)
    print(f"{task}: {key} on eval, dense {dense[key]:.2f} %; in brackets points of {table['metric']} lost on the samples held out")
    print(f"{'share of positions that is left':44}" + "".join(f"{d:>20}" for d in densities))
    for m in dict.fromkeys(r["method"] for r in rows):
        cells = {r["density"]: f"{r['eval']:.2f} ({100 * r['lost']:.2f})" for r in rows if r["method"] == m}
        print(f"{m:44}" + "".join(f"{cells[d]:>20}" for d in densities), flush=True)
    return rows

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tasks", nargs="*"); ap.add_argument("--drop", default=""); ap.add_argument("--objective", default="latency"); ap.add_argument("--json"); ap.add_argument("--keep", metavar="DIR")
    ap.add_argument("--ablate", action="store_true"); ap.add_argument("--seconds", type=float, default=0.5); ap.add_argument("--onnxc", default=os.path.join(ROOT, "target", "release", "onnxc"))
    a, a.flags = ap.parse_known_args(); rows = []
    if a.ablate:
        with tempfile.TemporaryDirectory() as t: rows = [r for task in a.tasks or ["mnist", "orientation"] for r in ablation(a.onnxc, task, a, t)]
        if a.json: json.dump(rows, open(a.json, "w"), indent=1)
        return
    print("task         allowed  score dense -> compressed     drop +- error     ms dense -> compressed   faster   bytes dense -> compressed   smaller", flush=True)
    with tempfile.TemporaryDirectory() as t:
        for task in a.tasks or [n for n in DROPS if os.path.exists(model(n))]:
            r = run(a.onnxc, task, a, t); rows.append(r); k = r["metric"]
            print(f"{task:12} {r['max_drop']:>7}  {r['dense'][k]:6.2f} % -> {r['compressed'][k]:6.2f} %  {r['drop']:8.2f} +- {r['error']:4.2f}   {r['ms'][0]:9.4f} -> {r['ms'][1]:9.4f}  "
                  f"{r['speed']:6.2f}x   {r['bytes'][0]:10,d} -> {r['bytes'][1]:10,d}  {r['smaller']:6.2f}x" + ("" if r["same"] else "  the recipe does not reproduce it"), flush=True)
    if a.json: json.dump(rows, open(a.json, "w"), indent=1)

if __name__ == "__main__": main()
