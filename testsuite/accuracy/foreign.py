#!/usr/bin/env python3
"""Compressed tasks on targets that are not here, under the emulator:  foreign.py [TASK ...] [--recipes DIR] [--no-search] [--json OUT] [FLAGS OF onnxc compile]

The recipes of searches for x86-64 (DIR/TASK.recipe, target/recipes without DIR: accuracy.py --keep, page.py) are compiled for AArch64 with dot products and RISC-V
with vectors of 128 and 256 bits. Outputs for evaluation inputs are compared with those of this machine, instructions that an inference executes and multiplications
are counted for the dense and the compressed model. Then mnist is searched for each target itself, pruning alone, in floats: how wide the groups of filters are, what
is chosen, and the share of instructions that goes away beside the share of multiplications that goes away.
Needs testsuite/setup.sh (cross compilers, qemu with plugins), numpy, and the tasks of accuracy.py.
"""
import argparse, json, os, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import numpy as np
import accuracy, emulated, tasklib

NAMES = {"a64": "AArch64, dot products", "rv128": "RISC-V V, 128 bits", "rv256": "RISC-V V, 256 bits", "x86": "x86-64"}
SAMPLES = 3
SEARCHED = ["mnist"]
WITHOUT = [f for technique in ("int8", "weight-only", "low-rank") for f in ("--without", technique)]
APART = 1e-4  # of the largest output, as far as floats may differ

class Machines:
    """a task on all targets; programs are built in folders of t"""
    def __init__(self, task, t, onnxc):
        self.task, self.t, self.onnxc, self.dense, self.plugin = task, t, onnxc, {}, emulated.counter(t)
        self.inputs = [os.path.join(t, f"{task}_input{i}") for i in range(SAMPLES)]
        spec = tasklib.load_task(accuracy.folder(task))["inputs"]
        with np.load(os.path.join(accuracy.folder(task), "eval.npz")) as z: values = [tasklib.to_input(s, z[n][:SAMPLES]) for n, s in spec.items()]
        for i, folder in enumerate(self.inputs):
            os.makedirs(folder, exist_ok=True)
            for j, (s, v) in enumerate(zip(spec.values(), values)): np.save(os.path.join(folder, f"input_{j}.npy"), v[i].reshape(s["shape"]))

    def built(self, name, machine, flags):
        """the folder of a program"""
        folder = os.path.join(self.t, f"{self.task}_{name}")
        emulated.build(accuracy.model(self.task), machine, [*accuracy.shapes(self.task), *flags], folder, self.onnxc)
        return folder

    def multiplied(self, machine, flags):
        """multiplications of an inference"""
        return emulated.planned(accuracy.model(self.task), machine, [*accuracy.shapes(self.task), *flags], self.onnxc)[1]

    def counted(self, folder, target, flags):
        """instructions and multiplications of an inference"""
        machine = emulated.TARGETS[target]
        return emulated.instructions(machine, folder, self.inputs[0], self.plugin), self.multiplied(machine, flags)

    def beside_dense(self, folder, target, recipe):
        """pairs of the dense and the compressed model"""
        if target not in self.dense: self.dense[target] = self.counted(self.built("dense_" + target, emulated.TARGETS[target], []), target, [])
        return dict(zip(("instructions", "macs"), map(list, zip(self.dense[target], self.counted(folder, target, ["--recipe", recipe])))))

def compared(want, got):
    """how many values have the same bits, of how many, and the largest difference, of the largest value"""
    pairs = [(w.astype(np.float64), g.astype(np.float64)) for w, g in zip(want, got)]
    return dict(same=sum(int((w == g).sum()) for w, g in pairs), values=sum(w.size for w, _ in pairs), apart=max(float(np.abs(w - g).max() / np.abs(w).max()) for w, g in pairs))

def carried(m, recipe):
    """a recipe on all targets, beside this machine"""
    rows, flags = {}, ["--recipe", recipe]; here = m.built("here", emulated.HOST, flags)
    want = [o for folder in m.inputs for o in emulated.outputs(emulated.HOST, here, folder)]
    for target, machine in emulated.TARGETS.items():
        folder = m.built("carried_" + target, machine, flags)
        got = [o for inputs in m.inputs for o in emulated.outputs(machine, folder, inputs)]
        rows[target] = dict(compared(want, got), **m.beside_dense(folder, target, recipe))
    return rows

def searched(m, calib, evals, work, flags):
    """searches in floats for all targets and this machine; one for targets that differ in the emulator alone"""
    rows, found = {}, {}
    for target, machine in [("x86", emulated.HOST), *emulated.TARGETS.items()]:
        if machine[:2] not in found:
            to = os.path.join(m.t, f"{m.task}_own_{target}"); found[machine[:2]] = to
            accuracy.call(m.onnxc, "compile", accuracy.model(m.task), *emulated.on(machine), *accuracy.shapes(m.task), "--calib", calib, "--max-drop", accuracy.DROPS[m.task], "--work", work,
                          *WITHOUT, "--no-baselines", "-o", to + ".a", *flags)
        recipe = found[machine[:2]] + ".recipe"; said = json.load(open(found[machine[:2]] + ".json"))["compression"]
        score = next(iter(accuracy.score(m.onnxc, m.task, evals, ["--recipe", recipe], os.path.join(m.t, "outputs")).values()))
        rows[target] = dict(score=score, layers=[{k: l.get(k) for k in ("form", "group", "density", "ranks")} for l in said["layer"]])
        if target in emulated.TARGETS: rows[target].update(m.beside_dense(m.built("own_" + target, machine, ["--recipe", recipe]), target, recipe))
        else: rows[target]["macs"] = [m.multiplied(machine, flags) for flags in ([], ["--recipe", recipe])]
    return rows

# ---- tables

def millions(pair): return f"{pair[0] / 1e6:,.2f} -> {pair[1] / 1e6:,.2f}"

def gone(pair): return 1 - pair[1] / pair[0]

def carried_rows(task, rows):
    outputs = lambda r: f"all {r['values']:,d}" if r["same"] == r["values"] else f"{r['same']:,d} of {r['values']:,d}, the others within {r['apart']:.0e}"
    return [[task, NAMES[t], outputs(r) + ("" if r["apart"] <= APART else " **over**"), millions(r["instructions"]), f"{r['instructions'][0] / r['instructions'][1]:.2f}x", millions(r["macs"])] for t, r in rows.items()]

CARRIED = ["task", "target", "values that are the same bits as on x86-64", "M instructions", "fewer", "M multiplications"]

def forms(layers):
    """pruned 0.3, 0.5; narrow 0.2"""
    each = {}
    for l in layers: each.setdefault(l["form"], []).append(l["density"])
    return "; ".join(f"{form} {', '.join(f'{d:.2g}' for d in sorted(each[form]))}" for form in sorted(each))

def searched_rows(task, rows):
    lines = []
    for t, r in rows.items():
        groups = sorted({l["group"] for l in r["layers"] if l["form"].startswith("pruned")}); ran = "instructions" in r
        lines.append([task, NAMES[t], ", ".join(map(str, groups)) or "-", forms(r["layers"]), f"{r['score']:.2f} %", millions(r["macs"]) if "macs" in r else "-", millions(r["instructions"]) if ran else "-",
                      f"{gone(r['instructions']) / gone(r['macs']):.2f}" if ran else "-"])
    return lines

OWN = ["task", "target", "filters of a group", "layers, with the share of multiplications that is left", "score", "M multiplications", "M instructions", "instructions gone of multiplications gone"]

def show(head, rows):
    for row in [head, ["---"] * len(head), *rows, []]: print("| " + " | ".join(row) + " |" if row else "", flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tasks", nargs="*"); ap.add_argument("--recipes", default=os.path.join(ROOT, "target", "recipes")); ap.add_argument("--no-search", action="store_true"); ap.add_argument("--json")
    ap.add_argument("--onnxc", default=emulated.ONNXC); a, a.flags = ap.parse_known_args(); found = {}
    a.recipes = os.path.abspath(a.recipes)
    for task in a.tasks or [n for n in accuracy.DROPS if os.path.exists(os.path.join(a.recipes, n + ".recipe"))]:
        with tempfile.TemporaryDirectory() as t:
            m = Machines(task, t, a.onnxc); found[task] = dict(carried=carried(m, os.path.join(a.recipes, task + ".recipe")))
            show(CARRIED, carried_rows(task, found[task]["carried"]))
            if task in SEARCHED and not a.no_search:
                calib, evals = (accuracy.inputs(task, part, os.path.join(t, part + ".npz")) for part in ("calib", "eval"))
                found[task]["searched"] = searched(m, calib, evals, os.path.join(t, "work"), a.flags); show(OWN, searched_rows(task, found[task]["searched"]))
    if a.json: json.dump(found, open(a.json, "w"), indent=1)
    return 0 if all(row["apart"] <= APART for r in found.values() for row in r["carried"].values()) else 1

if __name__ == "__main__": sys.exit(main())
