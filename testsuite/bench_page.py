"""The page of benchmarks: runs every model against all peers and writes docs/benchmarks.md.  Called by bench_table.py --page.

Results are kept in a JSON file, one entry for each model, number of threads and CPU, as soon as they are there; a run that was
interrupted goes on where it stopped.  Nothing of the page is written by hand, so that it can always be made anew.  What one section of the
page says besides its entries is kept there too, so that a run for one CPU leaves the sections of the others as they are.
"""
import datetime, json, os, platform, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
OWN = os.path.join("testsuite", "adapters", "bench")
NETWORKS = "resnet50 vgg16 mobilenetv2 efficientnet_b0 shufflenetv2 squeezenet11 bert6 vit_tiny dscnn_kws mnist_cnn resnet50.int8 mobilenetv2.int8".split()
QUICK = ["mnist_cnn", "dscnn_kws", "silero_vad"]
# Our time over that of the best peer, which is to be reached; AHEAD counts as faster.
GOALS = dict(resnet50=.90, vgg16=.72, mobilenetv2=.80, efficientnet_b0=.75, shufflenetv2=.75, squeezenet11=.90, bert6=.85, vit_tiny=.85, ppocr4_rec=.90,
             opennsfw=.95, minilm_l3=.90, silero_vad=.5, dscnn_kws=.4, mnist_cnn=.4, **{"resnet50.int8": .90, "mobilenetv2.int8": .60})
AHEAD = 0.97
PEERS = ["ort", "openvino", "ncnn", "mnn", "tract"]
# The same engines through their C interfaces; the others' bindings are all there is in their packages.
NATIVE = {"ort": "ort-c", "openvino": "openvino-c"}
TITLES = {"ort": "ONNX Runtime", "ort-c": "ONNX Runtime (C)", "openvino": "OpenVINO", "openvino-c": "OpenVINO (C)", "ncnn": "ncnn", "mnn": "MNN", "tract": "tract"}
PACKAGES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "ncnn": "ncnn", "MNN": "mnn", "tract": "tract"}
# CPUs below this machine's own: the name and what OpenVINO is told to keep to.
CAPS = {"haswell": ("Haswell (AVX2)", "AVX2"), "x86-64-v2": ("x86-64-v2 (SSE4.1)", "SSE41")}
# Parts of the names of OpenVINO's primitives that are beyond a cap: MLAS takes what the machine has.
BEYOND = {"haswell": ("mlas", "avx512"), "x86-64-v2": ("mlas", "avx512", "avx2")}
# ONNX Runtime cannot be told, so that its answers count there, not its times.
CAPPED = ["ort", "openvino"]
OLDER = "resnet50 mobilenetv2 vgg16 bert6 efficientnet_b0 squeezenet11 shufflenetv2".split()
NATIVE_CPU = "native"
SECONDS = 2
# A peer whose answer differs more from ONNX Runtime's computes something else, and its time does not count.
SAME = 0.02
SAME_INT8 = 0.4


def peers_python(data):
    """the Python of the peers (setup.sh --peers)"""
    for d in (os.path.join(data, "peers"), os.path.join(ROOT, ".peers")):
        if os.path.exists(os.path.join(d, "bin", "python")): return os.path.join(d, "bin", "python")
    sys.exit("the peers' Python is missing: run testsuite/setup.sh --peers")


def onnxc():
    """the compiler beside the adapter"""
    adapter = os.environ.get("ONNXC_ADAPTER")
    return os.path.join(os.path.dirname(adapter), "onnxc") if adapter else os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "onnxc")


def goal(model): return GOALS.get(model, AHEAD)


def models(data, only, quick, cpu):
    """(name, file) of what is measured: the networks, then the zoo"""
    zoo = sorted(f[:-5] for f in os.listdir(os.path.join(data, "zoo")) if f.endswith(".onnx"))
    names = only or (QUICK if quick else NETWORKS + zoo if cpu == NATIVE_CPU else OLDER)
    found = []
    for n in names:
        path = next((p for p in (os.path.join(data, d, n + ".onnx") for d in ("bench", "zoo")) if os.path.exists(p)), None)
        if path is None: sys.exit(f"{n} is missing: run testsuite/setup.sh --bench")
        found.append((n, path))
    return found


# ---- measuring

def cap(cpu): return {"ONEDNN_MAX_CPU_ISA": CAPS[cpu][1]} if cpu in CAPS else {}


def beyond(python, path, cpu):
    """layers that OpenVINO runs with more instructions than the cap allows: {primitive: layers}"""
    if cpu not in CAPS: return {}
    r = subprocess.run([python, os.path.join(HERE, "zoo", "openvino_layers.py"), path], env=dict(os.environ, **cap(cpu)), capture_output=True, text=True)
    if r.returncode: return {}
    return {k: n for k, n in sorted(json.loads(r.stdout.splitlines()[-1]).items()) if any(part in k for part in BEYOND[cpu])}


def peers_run(python, path, threads, engines, a):
    """one interleaved run of all engines: {engine: figures}"""
    env = dict(os.environ, ONNXC_BENCH_CPU=a.cpu, **cap(a.cpu))
    with tempfile.TemporaryDirectory() as t:
        out = os.path.join(t, "r.json")
        cmd = [python, os.path.join(HERE, "zoo", "bench_peers.py"), path, "--threads", str(threads), "--engines", ",".join(engines + ["cmd:" + OWN]), "--seconds", str(a.seconds), "--max-seconds", str(max(4, 10 * a.seconds)), "--json", out]
        r = subprocess.run(cmd + ["--no-wait"] * a.no_wait, cwd=ROOT, env=env, capture_output=True, text=True)
        if not os.path.exists(out): return {"error": " ".join((r.stdout + r.stderr).split())[-300:]}
        return next(iter(json.load(open(out)).values()))[str(threads)]


def ms(figures): return (figures or {}).get("median_ms")


def difference(figures):
    try: return float((figures or {}).get("diff"))
    except (TypeError, ValueError): return None


def counts(model, engine, figures, cpu=NATIVE_CPU):
    """does a peer's time count?"""
    if not ms(figures): return False
    if engine in ("ort", "ort-c"): return cpu == NATIVE_CPU
    d = difference(figures)
    return d is not None and d <= (SAME_INT8 if "int8" in model else SAME)


def best(model, run, cpu=NATIVE_CPU):
    """(engine, ms) of the fastest peer that computes the same"""
    rows = [(ms(f), e) for e, f in run.items() if not e.startswith("cmd:") and e != "error" and counts(model, e, f, cpu)]
    return (min(rows)[1], min(rows)[0]) if rows else (None, None)


def measure(name, path, threads, python, a):
    """the entry of a model: figures of the run that counts, and what the compiler says"""
    engines = PEERS if a.cpu == NATIVE_CPU else CAPPED
    run, native = peers_run(python, path, threads, engines, a), False
    own = "cmd:" + OWN
    fastest = min((t for t in (ms(run.get(own)), best(name, run, a.cpu)[1]) if t), default=None)
    if fastest is not None and fastest < 1:
        # A Python call takes as long as a part of these: the peers that have a C interface are called through it.
        run, native = peers_run(python, path, threads, [NATIVE.get(e, e) for e in engines], a), True
    facts, folder = {}, f"{name}-t{threads}" + f"-{a.cpu}" * (a.cpu != NATIVE_CPU)
    for f in ("bench.json", "model.json"):
        try: facts.update(json.load(open(os.path.join(ROOT, "target", "bench-adapter", folder, f))))
        except (OSError, ValueError): pass
    entry = {k: facts.get(k) for k in ("compile_s", "object_bytes", "arena_bytes", "shapes")}
    return dict(entry, model=name, threads=threads, cpu=a.cpu, native=native, run=run, own=run.get(own, {}), date=datetime.date.today().isoformat(),
                commit=commit(), options=options(a), beyond=beyond(python, path, a.cpu))


def options(a):
    """what of the command changes how an entry is measured"""
    return (f" --seconds {a.seconds:g}" if a.seconds != SECONDS else "") + " --no-wait" * a.no_wait


def peer_of(entry): return best(entry["model"], entry["run"], entry.get("cpu", NATIVE_CPU))


def ratio(entry):
    ours, peer = ms(entry["own"]), peer_of(entry)[1]
    return ours / peer if ours and peer else None


def verdict(entry):
    r = ratio(entry)
    if r is None: return "no figure"
    has_goal = entry.get("cpu", NATIVE_CPU) == NATIVE_CPU
    return "goal" if has_goal and r <= goal(entry["model"]) else "ahead" if r <= AHEAD else "behind"


def profile(entry, path, lines=16):
    """the head of `onnxc bench --profile`: roofs, and the layers that lose most"""
    cmd = [onnxc(), "bench", path, "--cpu", "native", "--threads", str(entry["threads"]), "--profile", "--seconds", "2"]
    r = subprocess.run(cmd + (entry.get("shapes") or []), capture_output=True, text=True)
    return "\n".join(l.rstrip()[:170] for l in (r.stdout or r.stderr).splitlines()[:lines])


def roofs(data, threads):
    r = subprocess.run([onnxc(), "bench", os.path.join(data, "bench", "mnist_cnn.onnx"), "--cpu", "native", "--threads", str(threads), "--profile", "--json", "--seconds", "0.1"], capture_output=True, text=True)
    return json.loads(r.stdout)["roofs"] if r.returncode == 0 else None


# ---- the page

def cpu():
    """name of the processor, and the vector instructions it has"""
    text = open("/proc/cpuinfo").read() if os.path.exists("/proc/cpuinfo") else ""
    field = lambda key: next((l.split(":", 1)[1].strip() for l in text.splitlines() if l.startswith(key)), "")
    flags = (field("flags") or field("Features")).split()
    wanted = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm", "sve"]
    return field("model name") or platform.processor() or platform.machine(), [f for f in wanted if f in flags]


def versions(python):
    code = "import importlib.metadata as m, json, sys\nprint(json.dumps({t: m.version(p) for t, p in json.loads(sys.argv[1]).items()}))"
    r = subprocess.run([python, "-c", code, json.dumps(PACKAGES)], capture_output=True, text=True)
    return json.loads(r.stdout) if r.returncode == 0 else {}


def commit():
    """the commit, with a + where files differ from it"""
    git = lambda *args: subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True).stdout.strip()
    return (git("rev-parse", "--short", "HEAD") or "unknown") + "+" * bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"))


def sources(entries):
    """of which commits the entries are, and which entries are of each if there are several"""
    by = {}
    for e in entries: by.setdefault(e.get("commit") or "unknown", []).append(e)
    if len(by) == 1: return f"commit {next(iter(by))}"
    named = lambda list_: ", ".join(f"{e['model']} ({e['threads']})" for e in list_)
    most = max(by, key=lambda c: len(by[c]))
    return f"several commits (threads in brackets): {most}, but " + "; ".join(f"{c}: {named(l)}" for c, l in by.items() if c != most)


def commands(command, entries):
    """the command with the options that the entries were measured with"""
    found = sorted({e.get("options", "") for e in entries})
    return f"`{command}{found[0]}`" if len(found) == 1 else "several runs: " + ", ".join(f"`{command}{f}`" for f in found)


def show(value, form): return format(value, form) if isinstance(value, (int, float)) else "-"


def time_of(figures):
    v = ms(figures)
    return "-" if not v else ("~" if figures.get("noisy") else "") + (f"{v:.2f}" if v >= 10 else f"{v:.3f}" if v >= 1 else f"{v:.4f}")


def row(entry):
    engine, _ = peer_of(entry)
    peer = entry["run"].get(engine) or {}
    d = difference(entry["own"])
    cells = [entry["model"], time_of(entry["own"]), TITLES.get(engine, "-"), time_of(peer), show(ratio(entry), ".2f"), show(goal(entry["model"]), ".2f"), verdict(entry),
             f"{d:.0e}" if d is not None else str(entry["own"].get("err") or entry["run"].get("error") or "-")[:60].replace("|", "/"),
             show(entry["object_bytes"], ",d"), show(entry["arena_bytes"], ",d"), show(entry["compile_s"], ".1f")]
    return "| " + " | ".join(cells) + " |"


HEAD = ["model", "onnxc ms", "best peer", "its ms", "ratio", "goal", "", "difference", "object bytes", "arena bytes", "compile s"]


def peers_table(entries):
    """all engines' times"""
    lines = ["| model | " + " | ".join(TITLES[e] for e in PEERS) + " |", "|---|" + "---:|" * len(PEERS)]
    for e in entries:
        cell = lambda p: time_of(e["run"].get(p)) + ("" if counts(e["model"], p, e["run"].get(p)) or not ms(e["run"].get(p)) else " ≠")
        lines.append(f"| {e['model']}{' (C)' if e['native'] else ''} | " + " | ".join(cell(NATIVE.get(p, p) if e["native"] else p) for p in PEERS) + " |")
    return lines


def summary(entries):
    by = {v: [e for e in entries if verdict(e) == v] for v in ("goal", "ahead", "behind", "no figure")}
    named = lambda list_: ", ".join(f"{e['model']} {ratio(e):.2f}" if ratio(e) else e["model"] for e in list_)
    out = [f"- goals reached: {len(by['goal'])} of {len(entries)}", f"- ahead, but not at the goal: {len(by['ahead'])}" + (f" ({named(by['ahead'])})" if by["ahead"] else ""),
           f"- behind: {len(by['behind'])}" + (f" ({named(by['behind'])})" if by["behind"] else "")]
    return out + ([f"- no figure: {named(by['no figure'])}"] if by["no figure"] else [])


def preface(state, entries):
    name, isa = state["cpu"]
    lines = ["# Benchmarks", "", "Made by `testsuite/bench_table.py --page`; do not edit." + (" **Quick figures of a few models: short runs, on a machine that may be busy.**" if state["quick"] else ""), "",
             f"Machine: {name}, {state['cores']} cores, {', '.join(isa) or platform.machine()}, {platform.system()}.  "]
    for threads, r in sorted(state["roofs"].items()):
        if r: lines.append(f"Measured roofs, threads: {threads}: f32 {r['f32_gflops']:.0f} GFLOP/s, int8 {r['int8_gops']:.0f} GOP/s, memory {r['read'][-1]['gb_per_s']:.0f} GB/s.  ")
    lines += [f"Peers: {', '.join(f'{t} {v}' for t, v in state['versions'].items())}.  ", f"onnxc: {sources(entries)}, `--cpu native`; {max(e['date'] for e in entries)}; command: {commands(state['command'], entries)}.", "",
              "Medians at batch 1, all engines interleaved in one run of `testsuite/zoo/bench_peers.py`, outputs compared with ONNX Runtime's first: the largest",
              "difference, relative to the largest value of an output. `~`: other programs ran too often. The ratio is our time over the best peer's; the goal is the",
              f"ratio to reach, and at most {AHEAD} counts as ahead. A peer whose outputs differ by more than {SAME} ({SAME_INT8} for 8-bit models) is marked `≠` and does not count.", "",
              "Below a millisecond ONNX Runtime and OpenVINO are called through their C interfaces, in a loop of C as our code is; these rows say (C). The packages of",
              "MNN, ncnn and tract have no C interface: they are called through their Python bindings there too, which costs them a few microseconds a call.", ""]
    return lines


def page(state, entries, profiles, older=()):
    lines = preface(state, entries)
    for threads in sorted({e["threads"] for e in entries}):
        mine = [e for e in entries if e["threads"] == threads]
        lines += [f"## {threads} thread{'s' if threads > 1 else ''}", ""] + summary(mine) + [""]
        lines += ["| " + " | ".join(HEAD) + " |", "|---|---:|---|" + "---:|" * 3 + "---|" + "---:|" * 4] + [row(e) for e in mine] + ["", "All engines, ms:", ""] + peers_table(mine) + [""]
    if profiles: lines += ["## The farthest from their goals", "", "Heads of `onnxc bench --profile`:", ""]
    for e, text in profiles:
        lines += [f"{e['model']}, threads: {e['threads']}, ratio {ratio(e):.2f}, goal {goal(e['model']):.2f}", "", "```text", text, "```", ""]
    if older: lines += older_sets(older)
    return "\n".join(lines).rstrip() + "\n"


def older_sets(older):
    """the section of CPUs below this machine's own: [(cpu, command, entries)]"""
    lines = ["## Older instruction sets", "", "Compiled for older CPUs and run on the same machine, beside OpenVINO that keeps to the same instructions (`ONEDNN_MAX_CPU_ISA`).",
             "Other engines take what the machine has, so that ONNX Runtime serves for the outputs only. OpenVINO's cap does not hold for all of its layers: those that run with more",
             "than it allows are named (`gemm_mlas` are products by the kernels of ONNX Runtime, with all that the machine has).", ""]
    for cpu, command, entries in older:
        lines += [f"### {CAPS[cpu][0]}", "", f"`--cpu {cpu}`, OpenVINO with `ONEDNN_MAX_CPU_ISA={CAPS[cpu][1]}`; onnxc: {sources(entries)}; {max(e['date'] for e in entries)}; command: {commands(command, entries)}.", ""]
        behind = [f"{e['model']} {ratio(e):.2f} ({e['threads']} thread{'s' if e['threads'] > 1 else ''})" for e in entries if verdict(e) == "behind"]
        lines += [f"Ahead in {sum(verdict(e) == 'ahead' for e in entries)} of {len(entries)}" + (f"; behind: {', '.join(behind)}" if behind else "") + ".", ""]
        lines += ["| model | threads | onnxc ms | OpenVINO ms | ratio |  | difference | object bytes |", "|---|" + "---:|" * 4 + "---|" + "---:|" * 2]
        for e in entries:
            engine, d = peer_of(e)[0], difference(e["own"])
            failed = next((f["err"] for p, f in e["run"].items() if p.startswith("openvino") and f.get("err")), None)
            said = f"OpenVINO fails: {failed.split(':')[-1].strip()}".replace("|", "/") if failed else verdict(e)
            cells = [e["model"], str(e["threads"]), time_of(e["own"]), time_of(e["run"].get(engine)), show(ratio(e), ".2f"), said, show(d, ".0e"), show(e["object_bytes"], ",d")]
            lines.append("| " + " | ".join(cells) + " |")
        past = {e["model"]: ", ".join(f"{n} {k}" for k, n in e["beyond"].items()) for e in entries if e.get("beyond")}
        lines += ["", "Beyond the cap: " + "; ".join(f"{m}: {what}" for m, what in past.items()) + "."] * bool(past) + [""]
    return lines


def worst_of(entries):
    """three models whose ratios are farthest from their goals"""
    rows = sorted((e for e in entries if ratio(e)), key=lambda e: -ratio(e) / goal(e["model"]))
    return [e for i, e in enumerate(rows) if e["model"] not in [w["model"] for w in rows[:i]]][:3]


def key_of(model, threads, cpu): return f"{model}@{threads}" + f"@{cpu}" * (cpu != NATIVE_CPU)


def section(kept, cpu):
    """what is kept of a section: (its state, its entries)"""
    state = kept.get(f"section@{cpu}")
    return (state, [kept[k] for k in state["keys"] if k in kept]) if state else (None, [])


def run(a):
    """measures what is missing and writes the page; the number of models that are behind or have no figure"""
    data = os.environ.get("ONNXC_DATA", os.path.join(ROOT, "target"))
    if a.cpu != NATIVE_CPU and a.cpu not in CAPS: sys.exit(f"--cpu {a.cpu}: one of {', '.join([NATIVE_CPU, *CAPS])}")
    python, keep = peers_python(data), a.json or os.path.join(ROOT, "target", "benchmarks-quick.json" if a.quick else "benchmarks.json")
    if not os.environ.get("ONNXC_ADAPTER"): subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "onnxc", "-p", "onnxc-testsuite", "--bins"], cwd=ROOT, check=True)
    kept = json.load(open(keep)) if os.path.exists(keep) else {}
    if a.quick: a.seconds, a.no_wait = min(a.seconds, .3), True
    chosen, threads = models(data, [n for n in a.models.split(",") if n], a.quick, a.cpu), [a.threads] if a.threads else [1, 2]
    keys = {key_of(n, t, a.cpu): (n, path, t) for t in threads for n, path in chosen}
    def save():
        with open(keep + ".new", "w") as f: json.dump(kept, f, indent=1)
        os.replace(keep + ".new", keep)
    for key, (n, path, t) in keys.items():
        if not a.again and key in kept and ratio(kept[key]): continue
        kept[key] = measure(n, path, t, python, a)
        save()
        e = kept[key]; print(f"{key:28} ours {time_of(e['own'])} ms, best {peer_of(e)}, ratio {show(ratio(e), '.2f')}: {verdict(e)}", flush=True)
    entries = [kept[k] for k in keys]
    shown = "testsuite/bench_table.py --page" + " --quick" * a.quick + (f" --cpu {a.cpu}" if a.cpu != NATIVE_CPU else "") + (f" --models {a.models}" if a.models else "") + (f" --threads {a.threads}" if a.threads else "")
    state = dict(keys=list(keys), command=shown)
    if a.cpu == NATIVE_CPU:
        paths = dict(chosen)
        state.update(cpu=cpu(), cores=os.cpu_count(), roofs={t: roofs(data, t) for t in threads}, versions=versions(python), quick=a.quick,
                     profiles=[(f"{e['model']}@{e['threads']}", profile(e, paths[e["model"]])) for e in worst_of(entries)])
    kept[f"section@{a.cpu}"] = state
    save()
    out = a.page if isinstance(a.page, str) and a.page else os.path.join(ROOT, "docs", "benchmarks.md")
    text = titled(out, page_of(kept))
    with open(out, "w") as f: f.write(text)
    print(f"wrote {os.path.relpath(out, ROOT)}; results are kept in {os.path.relpath(keep, ROOT)}")
    return sum(verdict(e) in ("behind", "no figure") for e in entries)


def titled(file, text):
    """the page under the title of the one that it replaces, which may say of which machine it is"""
    if not os.path.exists(file): return text
    with open(file) as f: title = f.readline()
    return title + text.split("\n", 1)[1] if title.startswith(text.split("\n", 1)[0]) else text


def page_of(kept):
    """the page of all sections that were measured"""
    older = [(c, s["command"], entries) for c in CAPS for s, entries in [section(kept, c)] if entries]
    state, entries = section(kept, NATIVE_CPU)
    if not entries: return "\n".join(["# Benchmarks", "", "Made by `testsuite/bench_table.py --page`; do not edit.", ""] + older_sets(older)).rstrip() + "\n"
    return page(state, entries, [(kept[k], text) for k, text in state["profiles"] if k in kept], older)
