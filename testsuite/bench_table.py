#!/usr/bin/env python3
"""The table of the zoo: compile seconds, object bytes, arena bytes, ms at one thread, ONNX Runtime's ms in the same run.

usage: testsuite/bench_table.py [--models id,id] [--bench] [--threads N] [--engines ort] [--seconds S] [--json OUT] [--markdown OUT]
--bench takes the dense networks of make_bench_models.py instead (testsuite/setup.sh --bench writes them).
Both engines run interleaved in one call of bench_peers.py, compiled code through testsuite/adapters/bench.

usage: testsuite/bench_table.py --page [FILE] [--cpu CPU] [--quick] [--again] [--models id,id] [--threads N] [--seconds S] [--no-wait] [--json FILE]
All networks and the zoo beside five peers at one and two threads, with goals and the profiles of the farthest from them: docs/benchmarks.md, in an
hour or two.  Needs testsuite/setup.sh --bench --peers.  Results are kept in target/benchmarks.json or FILE, and what is there is not measured
again without --again; --quick takes three small models and short runs, and keeps its results elsewhere.  --cpu haswell and --cpu x86-64-v2 write
the section of older instruction sets: some of the networks beside OpenVINO with the same instructions; the rest of the page stays.
"""
import argparse, json, os, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.abspath(__file__)); ROOT = os.path.dirname(HERE)
PYTHON = next((p for p in (os.path.join(d, "bin", "python") for d in (os.path.join(os.environ.get("ONNXC_DATA", "-"), "venv"), os.path.join(ROOT, ".venv"))) if os.path.exists(p)), sys.executable)
OWN = os.path.join("testsuite", "adapters", "bench")

def figures(model, threads):
    """what the adapter left behind: the compiler's report and the time that it took"""
    d = os.path.join(ROOT, "target", "bench-adapter", f"{model}-t{threads}"); out = {}
    for name in ("bench.json", "model.json"):
        try: out.update(json.load(open(os.path.join(d, name))))
        except (OSError, ValueError): pass
    archive = os.path.join(d, "model.a")
    if "object_bytes" not in out and os.path.exists(archive): out["object_bytes"] = os.path.getsize(archive)
    return out

def measure(path, a):
    with tempfile.TemporaryDirectory() as t:
        j = os.path.join(t, "r.json")
        cmd = [PYTHON, os.path.join(HERE, "zoo", "bench_peers.py"), path, "--threads", str(a.threads), "--engines", f"{a.engines},cmd:{OWN}",
               "--seconds", str(a.seconds), "--json", j]
        if a.no_wait: cmd += ["--no-wait"]
        r = subprocess.run(cmd, cwd=ROOT, capture_output=True, text=True)
        if r.returncode or not os.path.exists(j): return {}, " ".join((r.stdout + r.stderr).split())[-300:]
        return next(iter(json.load(open(j)).values()))[str(a.threads)], r.stdout

def row(model, path, a):
    res, said = measure(path, a); f = figures(model, a.threads); own = res.get("cmd:" + OWN, {}); ref = res.get(a.engines.split(",")[0], {})
    show = lambda v, form: format(v, form) if isinstance(v, (int, float)) else "-"
    ms = lambda r: ("~" if r.get("noisy") else "") + show(r.get("median_ms"), ".3f" if (r.get("median_ms") or 0) >= 1 else ".4f")
    ratio = own["median_ms"] / ref["median_ms"] if own.get("median_ms") and ref.get("median_ms") else None
    line = [model, show(f.get("compile_s"), ".2f"), show(f.get("object_bytes"), ",d"), show(f.get("arena_bytes"), ",d"), ms(own), ms(ref), show(ratio, ".2f"), str(own.get("diff") or own.get("err") or said)[:60]]
    return line, dict(model=model, threads=a.threads, ratio=ratio, own=own, reference=ref, **{k: f.get(k) for k in ("compile_s", "object_bytes", "arena_bytes")})

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default=""); ap.add_argument("--bench", action="store_true"); ap.add_argument("--threads", type=int); ap.add_argument("--engines", default="ort")
    ap.add_argument("--cpu", default="native"); ap.add_argument("--seconds", type=float, default=2); ap.add_argument("--json"); ap.add_argument("--markdown"); ap.add_argument("--no-wait", action="store_true")
    ap.add_argument("--page", nargs="?", const="", metavar="FILE"); ap.add_argument("--quick", action="store_true"); ap.add_argument("--again", action="store_true")
    a = ap.parse_args()
    if a.page is not None:
        import bench_page
        return 1 if bench_page.run(a) else 0
    a.threads = a.threads or 1; d = os.path.join(os.environ.get("ONNXC_DATA", os.path.join(ROOT, "target")), "bench" if a.bench else "zoo")
    if not os.path.isdir(d): sys.exit(f"{d} is missing: run testsuite/setup.sh" + (" --bench" if a.bench else ""))
    names = [n for n in a.models.split(",") if n] or sorted(f[:-5] for f in os.listdir(d) if f.endswith(".onnx"))
    head = ["model", "compile s", "object bytes", "arena bytes", f"ms, {a.threads} thread" + "s" * (a.threads > 1), "ONNX Runtime ms", "ratio", "largest relative difference"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]; print("\n".join(lines), flush=True); data = []
    for n in names:
        line, facts = row(n, os.path.join(d, n + ".onnx"), a); data.append(facts)
        lines.append("| " + " | ".join(line) + " |"); print(lines[-1], flush=True)
    if a.markdown: open(a.markdown, "w").write("\n".join(lines) + "\n")
    if a.json: json.dump(data, open(a.json, "w"), indent=1)
    slow = [f"{x['model']} {x['ratio']:.2f}" for x in data if x["ratio"] and x["ratio"] > 2]; failed = [x["model"] for x in data if x["ratio"] is None]
    if slow: print("slower than twice ONNX Runtime: " + ", ".join(slow), file=sys.stderr)
    if failed: print("no figure: " + ", ".join(failed), file=sys.stderr)
    return 1 if slow or failed else 0

if __name__ == "__main__": sys.exit(main())
