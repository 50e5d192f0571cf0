#!/usr/bin/env python3
"""How good the model of latencies is: predicted against measured times of layers and models, and what choices without measuring lose.

usage: testsuite/latency.py [--models id,id] [--recipes DIR] [--threads N] [--seconds S] [--rounds N] [--json OUT] [--markdown OUT] [-- FLAGS OF onnxc bench]
       JSON has the terms of each layer too, to which `cargo run --release -p onnxc-testsuite --bin fit_latency native FILE...` fits the constants of a core.
usage: testsuite/latency.py --regret [--rounds N] [--cache FILE] [the same]

The first form profiles every network of ONNXC_DATA (testsuite/setup.sh --bench writes them) and prints Spearman's rank correlation of predicted with measured
times over all layers and for each family of kernels, and predicted over measured time of each model: the median of inferences without a profile between them.
With several rounds, each over all networks, times are medians over them; beside them stands what they are when each is scaled by the roof of f32 that the same
process measured just before it, over the median of all such roofs: a clock that drifts, or a neighbour, changes both.  With --recipes (needs numpy) it also has the models of testsuite/accuracy as each recipe of the
folder has them (testsuite/accuracy/page.py keeps those of its searches and fronts in target/recipes).  The second form measures each network as it is compiled
by itself and with --tune, in turn, and prints how much slower the former is.  ONNXC names the compiler; target/release/onnxc otherwise.
"""
import argparse, glob, json, os, statistics, subprocess, sys
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(HERE)
ONNXC = os.environ.get("ONNXC", os.path.join(ROOT, "target", "release", "onnxc"))
# Layers that take less are as long as reading the clock.
LEAST_MS = 0.0005

def networks(wanted):
    """(id, path, flags) of every network"""
    data = os.environ.get("ONNXC_DATA") or sys.exit("ONNXC_DATA names no folder: testsuite/setup.sh --bench")
    shapes = json.load(open(os.path.join(HERE, "zoo", "shapes.json"))); out = []
    for folder in ("bench", "zoo"):
        folder = os.path.join(data, folder)
        for f in sorted(f for f in os.listdir(folder) if f.endswith(".onnx")):
            flags = [f"--shape={name}={','.join(map(str, s['shape']))}" for name, s in shapes.get(f, {}).items() if isinstance(s, dict) and "shape" in s]
            if not wanted or f[:-5] in wanted: out.append((f[:-5], os.path.join(folder, f), flags))
    return out

def compressed(folder):
    """the same of every recipe of the accuracy tasks"""
    sys.path.insert(0, os.path.join(HERE, "accuracy")); import accuracy
    for task in accuracy.DROPS:
        for recipe in sorted(glob.glob(os.path.join(folder, f"{task}.recipe")) + glob.glob(os.path.join(folder, f"{task}.front", "*.recipe"))):
            yield os.path.relpath(recipe, folder), accuracy.model(task), [*accuracy.shapes(task), f"--recipe={recipe}"]

def bench(path, flags):
    r = subprocess.run([ONNXC, "bench", path, "--json", "--cpu", "native", *flags], capture_output=True, text=True)
    return (json.loads(r.stdout), "") if r.returncode == 0 else (None, " ".join(r.stderr.split())[:200])

def ranks(values):
    """1 for the smallest; equal values share the mean of their ranks"""
    order = sorted(range(len(values)), key=values.__getitem__); out = [0.0] * len(values); i = 0
    while i < len(order):
        j = i
        while j + 1 < len(order) and values[order[j + 1]] == values[order[i]]: j += 1
        for k in order[i:j + 1]: out[k] = (i + j) / 2 + 1
        i = j + 1
    return out

def spearman(pairs):
    """rank correlation (Spearman, 1904): Pearson's of the ranks; None where all are equal"""
    if len(pairs) < 3: return None
    a, b = ranks([p[0] for p in pairs]), ranks([p[1] for p in pairs])
    try: return statistics.correlation(a, b)
    except statistics.StatisticsError: return None

def family(layer):
    """kernels that share constants of the model"""
    kernel = layer["kernel"]
    if layer.get("choice", "").startswith("winograd"): return "winograd"
    return " ".join(kernel.split()[:2]) if kernel.startswith(("tile", "depthwise")) else kernel.split(" (")[0] if kernel.startswith("copy") else kernel

def table(head, rows):
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(text + ["| " + " | ".join(r) + " |" for r in rows])

def show(x, form): return "-" if x is None else format(x, form)

def over_rounds(rounds):
    """one profile from those of each round: medians of its times, since the clock of a machine that others use drifts from one minute to the next"""
    out = dict(rounds[0], **{k: statistics.median(r[k] for r in rounds) for k in ("median_ms", "min_ms", "p10_ms")})
    out["layers"] = [dict(same[0], ms=statistics.median(l["ms"] for l in same)) for same in zip(*(r["layers"] for r in rounds))]
    return out

def latency(a):
    layers, rows, data, profiles = [], [], [], {}
    wanted = [*networks(a.models), *(compressed(a.recipes) if a.recipes else [])]
    for _ in range(a.rounds or 1):
        for name, path, flags in wanted:
            got, error = bench(path, [*flags, "--profile", "--seconds", str(a.seconds), "--threads", str(a.threads), *a.flags])
            if error: print(f"{name}: {error}", file=sys.stderr); continue
            profiles.setdefault(name, []).append(got)
            print(f"{name} {got['median_ms']:.4f} {got['predicted_layers_ms']:.4f}", file=sys.stderr, flush=True)
    roof = lambda profile: profile["roofs"]["f32_gflops"]; usual = statistics.median(roof(r) for rounds in profiles.values() for r in rounds) if profiles else 0
    for name, got in ((name, over_rounds(rounds)) for name, rounds in profiles.items()):
        own = [l for l in got["layers"] if l["calls"] > 0 and l["ms"] > LEAST_MS]
        layers += own; measured, predicted = got["median_ms"], got["predicted_layers_ms"]
        medians = [r["median_ms"] for r in profiles[name]]; steady = statistics.median(r["median_ms"] * roof(r) / usual for r in profiles[name]); rho = spearman([(l["predicted_ms"], l["ms"]) for l in own])
        rows.append([name, f"{measured:.3f}", f"{min(medians):.3f} - {max(medians):.3f}", f"{predicted:.3f}", f"{predicted / measured:.2f}", f"{predicted / steady:.2f}", show(rho, ".3f"), str(len(own))])
        data.append({"model": name, "measured_ms": measured, "steady_ms": steady, "medians_ms": medians, "predicted_ms": predicted, "spearman": rho, "touched": got["touched_bytes"], "layers": own})
    out = table(["model", "measured ms", "of rounds", "predicted ms", "predicted / measured", "at a steady roof", "rank correlation", "layers"], rows) + "\n\n"
    families = {}
    for l in layers: families.setdefault(family(l), []).append(l)
    lines = []
    for key, own in sorted(families.items(), key=lambda f: -sum(l["ms"] for l in f[1])):
        ratio = statistics.median(l["predicted_ms"] / l["ms"] for l in own); total = sum(l["predicted_ms"] for l in own) / sum(l["ms"] for l in own)
        lines.append([key, str(len(own)), f"{sum(l['ms'] for l in own):.3f}", f"{total:.2f}", f"{ratio:.2f}", show(spearman([(l["predicted_ms"], l["ms"]) for l in own]), ".3f")])
    out += table(["kernels", "layers", "ms", "predicted / measured", "median of layers", "rank correlation"], lines) + "\n\n"
    rho = spearman([(l["predicted_ms"], l["ms"]) for l in layers])
    def good(key):
        off = [abs(d["predicted_ms"] / d[key] - 1) for d in data]
        return f"median error {100 * statistics.median(off):.1f} %, within 12 % {sum(o <= 0.12 for o in off)} of {len(off)}"
    out += f"rank correlation over {len(layers)} layers {show(rho, '.4f')}; models: {good('measured_ms')}; at a steady roof: {good('steady_ms')}\n"
    return out, data

def regret(a):
    rows, data = [], []
    for name, path, flags in networks(a.models):
        flags = [*flags, "--threads", str(a.threads), *(["--max-threads", str(a.threads)] if a.threads > 1 else []), *a.flags]
        tuned = [*flags, "--tune", *(["--tune-cache", a.cache] if a.cache else [])]
        got, error = bench(path, [*tuned, "--seconds=0.01"])
        if error: print(f"{name}: {error}", file=sys.stderr); continue
        times = [[bench(path, [*f, f"--seconds={a.seconds}"])[0] for f in (flags, tuned)] for _ in range(a.rounds or 5)]
        least = [min(t[i]["min_ms"] for t in times) for i in (0, 1)]; medians = [statistics.median(t[i]["median_ms"] for t in times) for i in (0, 1)]
        loss = statistics.median(t[0]["median_ms"] / t[1]["median_ms"] for t in times) - 1
        data.append({"model": name, "untuned_ms": medians[0], "tuned_ms": medians[1], "regret": loss, "regret_of_minima": least[0] / least[1] - 1})
        rows.append([name, f"{medians[0]:.4f}", f"{medians[1]:.4f}", f"{100 * loss:+.1f} %", f"{100 * (least[0] / least[1] - 1):+.1f} %"])
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    worst = max((d["regret"] for d in data), default=0)
    out = table(["model", "untuned ms", "tuned ms", "regret", "regret of minima"], rows)
    return out + f"\n\nworst regret {100 * worst:.1f} %, above 7 %: {sum(d['regret'] > 0.07 for d in data)} of {len(data)}\n", data

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--regret", action="store_true"); p.add_argument("--models", type=lambda s: s.split(","), default=[])
    p.add_argument("--threads", type=int, default=1); p.add_argument("--seconds", type=float, default=0.3); p.add_argument("--rounds", type=int)
    p.add_argument("--recipes"); p.add_argument("--cache"); p.add_argument("--json"); p.add_argument("--markdown"); p.add_argument("flags", nargs="*")
    a = p.parse_args()
    text, data = (regret if a.regret else latency)(a)
    print(text)
    if a.markdown: open(a.markdown, "w").write(text)
    if a.json: json.dump(data, open(a.json, "w"), indent=1)
    return 0 if data else 1

if __name__ == "__main__": sys.exit(main())
