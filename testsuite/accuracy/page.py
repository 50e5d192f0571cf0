#!/usr/bin/env python3
"""The page of compression:  page.py [TASK ...] [--parts contract,times,macs,front,peers,ablation,targets,kernels] [--again] [--seconds S] [--no-wait] [FLAGS OF onnxc compile]

Searches for each task within the loss that it allows and writes docs/compression-results.md:
  contract  scores on the evaluation inputs, times and bytes of the dense and the compressed model, and what the same loss costs without a choice;
            seconds and memory of the search, which begins with nothing kept, and seconds of a second one with another budget;
            others within a quarter and a sixteenth of the loss, which peers has beside the first
  times     the dense model and what contract found (--keep), in turn again and more often: how much faster each pair says, its median and quartiles
  macs      multiplications that pruning and low rank remove by themselves (floats only), and their score; where that misses the goal, within larger losses too
  front     points of use of a front of models, beside those of models whose layers are all alike
  peers     the compressed archives beside five engines in floats and two in 8 bits, scores beside times (needs setup.sh --bench --peers)
  ablation  scores of parts of the method at three densities (mnist and orientation)
  targets   the recipes on AArch64 and RISC-V under the emulator: outputs, instructions; mnist searched for them (needs setup.sh, and the recipes that contract keeps)
  kernels   ResNet-50 and VGG-16 with zeros forced on them beside their dense code (needs setup.sh --bench)
Results are kept in target/compression.json as soon as they are there, with the commit that they are of; what is there is not computed again without --again.
Evaluation inputs are used for scores only.  All of it takes some hours on two cores; numpy, and for peers the Python of setup.sh --peers.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "testsuite")]
import accuracy, bench_page, foreign, tasklib

PARTS = ["contract", "times", "macs", "front", "peers", "ablation", "targets", "kernels"]
ABLATED = ["mnist", "orientation"]
PICTURED = "orientation"  # its front is a picture in the page
POINTS = 16
PAIRS = 25
# What the tasks are to reach: multiplications removed in floats, speed over our dense code, size against the dense archive.
GOALS = {"mnist": (4, 5, 10), "orientation": (2, 3, 5), "filetype": (1.8, 2.5, 4), "ocr": (1.4, 2.2, 4)}

class Bench:
    """a task with its inputs as files"""
    def __init__(self, task, a, t):
        self.task, self.a, self.t, self.drop = task, a, t, accuracy.DROPS[task]
        self.calib, self.evals = (accuracy.inputs(task, part, os.path.join(t, f"{task}_{part}.npz")) for part in ("calib", "eval"))
        # What searches did is kept, as results are: parts begin with what others did.
        self.work = os.path.join(ROOT, "target", "compression-work", task)

    def search(self, name, *flags, drop=None, what="compile", to="-o"):
        """seconds and bytes of memory of a search; its results are at(name)"""
        flags = [f for f in flags if f != "--no-baselines" or f not in self.a.flags]
        return accuracy.used(self.a.onnxc, what, accuracy.model(self.task), "--cpu", "native", *accuracy.shapes(self.task), "--calib", self.calib, "--work", self.work,
                      *(["--max-drop", drop or self.drop] if what == "compile" else []), to, self.at(name), *flags, *self.a.flags)

    def at(self, name): return os.path.join(self.t, f"{self.task}_{name}")

    def scored(self, *flags): return accuracy.scored(self.a.onnxc, self.task, self.evals, list(flags), self.at("outputs"))

    def score(self, *flags): return self.scored(*flags)[0]

def first(score): return next(iter(score.values()))

def contract(b):
    coded = ["--weights", "coded"]; recipe, onnxc = b.at("small.recipe"), b.a.onnxc
    shutil.rmtree(b.work, ignore_errors=True); first_seconds, memory = b.search("small.a", *coded)
    twofold = accuracy.allowed(b.task, 2); second_seconds, _ = b.search("second.a", *coded, drop=twofold)
    searches = dict(drops=[b.drop, twofold], seconds=[first_seconds, second_seconds], memory=memory)
    tighter = accuracy.tighter(b.task)
    for drop, name in tighter: b.search(name + ".a", *coded, "--no-baselines", drop=drop)
    common = [accuracy.model(b.task), "--cpu", "native", *accuracy.shapes(b.task)]
    accuracy.call(onnxc, "compile", *common, "-o", b.at("dense.a"))
    again = os.path.join(b.t, "again", b.task + "_small.a"); os.makedirs(os.path.dirname(again), exist_ok=True)
    # What may be stored decides which faster forms weights get.
    limits = [f for flag, value in zip(b.a.flags, b.a.flags[1:]) if flag == "--max-size" for f in (flag, value)]
    accuracy.call(onnxc, "compile", *common, "--recipe", recipe, *coded, *limits, "-o", again)
    accuracy.call(onnxc, "compile", *common, "--recipe", recipe, "-o", b.at("plain.a"))
    said = json.load(open(b.at("small.json")))["compression"]; ms = accuracy.times(onnxc, b.task, recipe, b.a.seconds)
    size = [os.path.getsize(b.at(n)) for n in ("dense.a", "small.a", "plain.a")]
    os.makedirs(b.a.keep, exist_ok=True)
    for name, to in [("small", b.task), *((name, name) for _, name in tighter)]:
        for end in (".recipe", ".recipe.npz"): shutil.copy(b.at(name + end), os.path.join(b.a.keep, to + end))
    (dense, was), (compressed, is_) = b.scored(), b.scored("--recipe", recipe); read = lambda path: open(path, "rb").read()
    return dict(metric=next(iter(dense)), dense=first(dense), compressed=first(compressed), error=tasklib.paired_error(was, is_), ms=ms, bytes=size, about=said["about"], searches=searches,
                same=read(b.at("small.a")) == read(again), report={k: said["report"].get(k) for k in ("baselines", "dense", "compressed", "optimality_gap")})

def times(b): return dict(pairs=accuracy.pairs(b.a.onnxc, b.task, os.path.join(b.a.keep, b.task + ".recipe"), b.a.seconds, PAIRS))

def macs(b):
    """fewer multiplications within what may be lost, and where that misses the goal within twice as much and so on: what it takes"""
    found, dense = [], first(b.score())
    for share in (1, 2, 4, 8):
        drop = accuracy.allowed(b.task, share); recipe = b.at("floats.recipe")
        b.search("floats.a", "--objective", "macs", "--without", "int8", "--without", "weight-only", "--no-baselines", drop=drop)
        layers = json.load(open(b.at("floats.json")))["compression"]["report"]["layers"]
        before, after = (sum(l["macs"][i] for l in layers) for i in (0, 1))
        found.append(dict(drop=drop, before=before, after=after, compressed=first(b.score("--recipe", recipe)), ms=accuracy.times(b.a.onnxc, b.task, recipe, b.a.seconds)))
        if before >= GOALS[b.task][0] * after: break
    return dict(dense=dense, found=found)

def front(b):
    b.search("front", "--points", str(POINTS), what="compress", to="--front")
    found = json.load(open(os.path.join(b.at("front"), "front.json")))
    points = [dict(p, score=first(b.score("--recipe", os.path.join(b.at("front"), p["recipe"])))) for p in found["points"] if p["recipe"]]
    kept = os.path.join(b.a.keep, f"{b.task}.front"); shutil.rmtree(kept, ignore_errors=True); shutil.copytree(b.at("front"), kept)
    if b.task == PICTURED: shutil.copy(os.path.join(b.at("front"), "front.svg"), os.path.join(ROOT, "docs", f"compression-{b.task}.svg"))
    return dict(points=points, baselines=found["baselines"], dense=first(b.score()))

def beaten(point, others):
    return any(o["drop"] <= point["drop"] and o["predicted_ms"] < point["predicted_ms"] for o in others)

def peers(b):
    data = os.environ.get("ONNXC_DATA", os.path.join(ROOT, "target")); out = b.at("peers.json")
    accuracy.call(bench_page.peers_python(data), os.path.join(HERE, "peers.py"), b.task, "--recipes", b.a.keep, "--seconds", str(b.a.seconds), "--json", out, "--onnxc", b.a.onnxc, *(["--no-wait"] if b.a.no_wait else []))
    return json.load(open(out))[0]

def ablation(b): return accuracy.ablation(b.a.onnxc, b.task, b.a, b.t)

def targets(b):
    m = foreign.Machines(b.task, b.t, b.a.onnxc); result = dict(carried=foreign.carried(m, os.path.join(b.a.keep, b.task + ".recipe")))
    if b.task in foreign.SEARCHED: result["searched"] = foreign.searched(m, b.calib, b.evals, b.work, b.a.flags)
    return result

def kernels(a, t):
    out = os.path.join(t, "kernels.json"); env = dict(os.environ, ONNXC=a.onnxc); script = os.path.join(ROOT, "testsuite", "sparse_bench.py")
    for what in (["make"], ["run", "--json", out]):
        r = subprocess.run([sys.executable, script, *what], env=env, cwd=ROOT, capture_output=True, text=True)
        if r.returncode: sys.exit(f"sparse_bench.py {what[0]}: {r.stderr.strip()[-2000:]}")
    return dict(table=r.stdout.strip())

# ---- the page

def table(head, rows): return ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)] + ["| " + " | ".join(r) + " |" for r in rows] + [""]

def contracts(found):
    rows = []
    for task, r in found.items():
        speed, smaller, lost = r["ms"][0] / r["ms"][1], r["bytes"][0] / r["bytes"][1], r["dense"] - r["compressed"]; _, fast, small = GOALS[task]
        rows.append([task, accuracy.DROPS[task], f"{r['dense']:.2f} -> {r['compressed']:.2f} %", f"{lost:.2f}" + (" **over**" if lost > float(accuracy.DROPS[task].rstrip("%")) + r.get("error", 0) + 1e-9 else ""), f"{r['error']:.2f}" if "error" in r else "-",
                     f"{r['ms'][0]:.4f} -> {r['ms'][1]:.4f}", f"{speed:.2f}x ({fast}x)", f"{r['bytes'][0]:,d} -> {r['bytes'][1]:,d}" + ("" if r["same"] else " (the recipe gives other bytes)"), f"{smaller:.1f}x ({small}x)", f"{r['bytes'][2]:,d}" if len(r["bytes"]) > 2 else "-"])
    return table(["task", "allowed", "score", "lost", "its standard error (paired)", "ms", "faster (goal)", "bytes of the archive, weights coded", "smaller (goal)", "weights as they are"], rows)

def timed(found):
    def row(task, pairs):
        low, middle, high = statistics.quantiles([dense / own for dense, own in pairs], n=4); dense, own = zip(*pairs)
        return [task, str(len(pairs)), f"{statistics.median(dense):.4f} -> {statistics.median(own):.4f}", f"{middle:.2f}x ({GOALS[task][1]}x)", f"{low:.2f}x, {high:.2f}x", f"{min(dense) / min(own):.2f}x"]
    return table(["task", "pairs", "ms, medians", "faster, median of the pairs (goal)", "their quartiles", "of the least times"], [row(task, r["pairs"]) for task, r in found.items()])

def without_choice(found):
    lines = []
    for task, r in ((t, r) for t, r in found.items() if r["report"].get("baselines")):
        for row in r["report"]["baselines"]:
            m = row.get("model"); lines.append([task, row["name"], f"{m['density']:g}" if m else "every density loses more", f"{1e3 * m['taken']['seconds']:.4f}" if m else "-", f"{m['taken']['weight_bytes']:,d}" if m else "-"])
        c = r["report"].get("compressed")
        if c: lines.append([task, "**the choice**", "", f"{1e3 * c['seconds']:.4f}", f"{c['weight_bytes']:,d}"])
    return table(["task", "within the same loss", "share of weights left", "predicted ms", "bytes of weights"], lines) if lines else []

def removed(found):
    return table(["task", "allowed", "multiplications", "fewer (goal)", "score", "ms"],
                 [[t, f["drop"], f"{f['before']:,d} -> {f['after']:,d}", f"{f['before'] / max(f['after'], 1):.2f}x ({GOALS[t][0]}x)", f"{r['dense']:.2f} -> {f['compressed']:.2f} %", f"{f['ms'][0]:.4f} -> {f['ms'][1]:.4f}"] for t, r in found.items() for f in r["found"]])

def twice(found):
    rows = [(t, r["searches"]) for t, r in found.items() if "searches" in r]
    return table(["task", "budgets", "first search, s", "its memory, MB", "second, s", "faster"],
                 [[t, ", then ".join(s["drops"]), f"{s['seconds'][0]:.0f}", f"{s['memory'] / 1e6:,.0f}", f"{s['seconds'][1]:.1f}", f"{s['seconds'][0] / s['seconds'][1]:.1f}x"] for t, s in rows]) if rows else []

def fronts(found):
    lines = []
    for task, r in found.items():
        useful, alike = ([m for m in r[kind] if m["drop"] <= .1] for kind in ("points", "baselines"))
        if task == PICTURED: lines += [f"![{task}: loss and time of its models](compression-{task}.svg)", ""]
        # With --no-baselines there is nothing to be beaten by.
        beside = f", beside {len(alike)} models whose layers are all alike, {sum(beaten(m, useful) for m in alike)} of which are slower than a point that loses no more" if alike else ""
        lines += [f"{task}: {len(useful)} points that lose a tenth or less{beside}.", ""]
        lines += table(["recipe", "lost, held out", "score on eval", "predicted ms", "measured ms", "bytes of weights", "fewer multiplications"],
                       [[p["recipe"], f"{100 * p['drop']:.2f} %", f"{p['score']:.2f} %", f"{p['predicted_ms']:.4f}", f"{p['measured_ms']:.4f}" if p.get("measured_ms") else "-", f"{p['weight_bytes']:,d}", f"{p['macs_removed']:.2f}x"] for p in useful])
    return lines

def beside(found):
    heads = ["task", "loss allowed", "onnxc, compressed", "best in floats (above ours, +- standard error, paired)", "faster", "best in 8 bits", "faster"]
    ours = lambda own: f"{own['ms']:.4f} ms, {own['score']:.2f} %" if own["ms"] else "-"
    return table(heads, [[t, drop, ours(own), *accuracy.beside_peers(r, own)] for t, r in found.items() for drop, own in r["own"].items()])

def ablated(found):
    lines = []
    for task, rows in found.items():
        densities = sorted({r["density"] for r in rows}, reverse=True); methods = dict.fromkeys(r["method"] for r in rows)
        cell = lambda m, d: next((f"{r['eval']:.2f} ({100 * r['lost']:.2f})" for r in rows if r["method"] == m and r["density"] == d), "-")
        lines += table([f"{task}: percent right on eval (lost, held out)"] + [f"{d:g}" for d in densities], [[m] + [cell(m, d) for d in densities] for m in methods])
    return lines

def elsewhere(found):
    lines = ["The recipes of the searches for x86-64 above, compiled for other targets, run by an emulator that counts instructions, for %d evaluation inputs each. Integers are the same bits everywhere;" % foreign.SAMPLES,
             "sums of floats are taken in another order where vectors are narrower. 8-bit integers take fewer instructions and as many multiplications.", ""]
    lines += table(foreign.CARRIED, [row for task, r in found.items() for row in foreign.carried_rows(task, r["carried"])])
    own = [row for task, r in found.items() for row in foreign.searched_rows(task, r.get("searched", {}))]
    if own: lines += ["Searched for each target itself, pruning alone, in floats. A group of filters shares what is left: two vectors of the target, which is what a tile multiplies at once.",
                      "RISC-V code is made for registers of at least 128 bits and the same for longer ones.", "", *table(foreign.OWN, own)]
    return lines

SECTIONS = [("contract", "Within the loss that is allowed", contracts), ("times", "The same models, in turn more often", timed), ("contract", "Without a choice", without_choice), ("macs", "Pruning and low rank alone, in floats", removed), ("contract", "A second search", twice),
            ("front", "Fronts", fronts), ("peers", "Beside peers, one thread", beside), ("ablation", "What parts of the method are good for", ablated),
            ("targets", "On other targets", elsewhere), ("kernels", "Kernels: zeros forced on whole models", lambda found: [r["table"] for r in found.values()] + [""])]

INTRODUCTION = ["# What compression reaches", "", "Made by `testsuite/accuracy/page.py`; do not edit. The tasks are those of `testsuite/accuracy/make_tasks.py`: real models, a few hundred unlabelled inputs to search with,",
                "labelled inputs that nothing but the scores here has seen. `--cpu native`; medians of runs in turn. Each part says when and on which machine it was measured; those of other machines stay.", ""]

def machine(cpu):
    """a CPU in a few words: its name and its most important vectors"""
    return f"{cpu[0]}, " + next((f for f in ("avx512_vnni", "avx512f", "avx_vnni", "avx2") if f in cpu[1]), "no avx2")

def sections(text):
    """parts of a page by their headings"""
    parts = {}
    for block in ("\n" + text).split("\n## ")[1:]:
        heading, body = block.split("\n", 1); parts[heading] = body.strip().split("\n")
    return parts

def page(kept, cpu, before=""):
    """the page of these results; parts of the page before that are of other machines, or that there are no results of, stay"""
    own = {}
    for part, title, write in SECTIONS:
        entries = {k.split(":")[1]: e for k, e in kept.items() if k.startswith(part + ":")}
        if not entries: continue
        body = write({t: e["result"] for t, e in entries.items()})
        if not body: continue
        commits = ", ".join(sorted({e["commit"] for e in entries.values()}))
        flags = sorted({e.get("flags", "") for e in entries.values()} - {""})
        own[f"{title} ({machine(cpu)})"] = [f"Of commit {commits}" + (f"; some or all with `{'`, `'.join(flags)}`" if flags else "") + f". {cpu[0]}, {os.cpu_count()} cores, {', '.join(cpu[1])}.", "", *body]
    # There is one picture, of the newest front.
    pictured = any(line.startswith("![") for body in own.values() for line in body)
    others = {heading: [line for line in body if not (pictured and line.startswith("!["))] for heading, body in sections(before).items()}
    all = {**others, **own}; titles = [title for _, title, _ in SECTIONS]
    order = sorted(all, key=lambda heading: (titles.index(heading.split(" (")[0]) if heading.split(" (")[0] in titles else len(titles), heading))
    return "\n".join(INTRODUCTION + [line for heading in order for line in [f"## {heading}", "", *all[heading], ""]]).rstrip() + "\n"

def results(path): return json.load(open(path)) if os.path.exists(path) else {}

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tasks", nargs="*"); ap.add_argument("--parts", default=",".join(PARTS)); ap.add_argument("--again", action="store_true"); ap.add_argument("--seconds", type=float, default=.5)
    ap.add_argument("--no-wait", action="store_true"); ap.add_argument("--keep", default=os.path.join(ROOT, "target", "recipes")); ap.add_argument("--onnxc", default=os.path.join(ROOT, "target", "release", "onnxc"))
    a, a.flags = ap.parse_known_args(); out = os.path.join(ROOT, "target", "compression.json"); a.keep = os.path.abspath(a.keep)
    kept = results(out)
    parts, tasks = [p for p in PARTS if p in a.parts.split(",")], a.tasks or [t for t in accuracy.DROPS if os.path.exists(accuracy.model(t))]
    with tempfile.TemporaryDirectory() as t:
        benches = {}
        for part in parts:
            for task in ["all"] if part == "kernels" else [x for x in tasks if part != "ablation" or x in ABLATED]:
                key = f"{part}:{task}"
                if key in kept and not a.again: continue
                if task not in benches and task != "all": benches[task] = Bench(task, a, t)
                result = kernels(a, t) if part == "kernels" else globals()[part](benches[task])
                # Another run may have written its parts meanwhile.
                kept = {**results(out), key: dict(result=result, commit=bench_page.commit(), flags=" ".join(a.flags))}
                with open(new := f"{out}.{os.getpid()}", "w") as f: json.dump(kept, f, indent=1)
                os.replace(new, out); print(f"{key}: done", flush=True)
    to = os.path.join(ROOT, "docs", "compression-results.md"); before = open(to).read() if os.path.exists(to) else ""
    with open(to, "w") as f: f.write(page(kept, bench_page.cpu(), before))
    print(f"wrote docs/compression-results.md; results are kept in {os.path.relpath(out, ROOT)}")

if __name__ == "__main__": main()
