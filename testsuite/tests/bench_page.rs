//! The page of benchmarks, from made-up results: verdicts against goals, peers that do not count, and what the page says of them, of the commits and of
//! older instruction sets.

use onnxc_testsuite::{data, run};
use std::process::Command;
use std::time::Duration;

/// Results of two models, and what follows from them.
const SCRIPT: &str = r#"
import bench_page as b
def entry(model, ours, native=False, **peers):
    run = {p.replace("_", "-"): dict(median_ms=ms, diff=diff) for p, (ms, diff) in peers.items()}
    own = dict(median_ms=ours, diff="2.0e-06")
    return dict(model=model, threads=1, native=native, run={**run, "cmd:" + b.OWN: own}, own=own, date="2000-01-01", object_bytes=1234567, arena_bytes=64, compile_s=0.51)
far = entry("resnet50", 9.5, ort=(20.0, "ref"), ncnn=(10.0, "1.0e-05"), mnn=(1.0, "3.0e-01"), tract=(2.0, "shape []"))
met = entry("mnist_cnn", 0.02, True, ort_c=(0.06, "ref"), openvino_c=(0.05, "1.0e-06"))
lost = entry("opennsfw", 3.0, ort=(2.0, "ref"))
none = dict(entry("magika", None), own={})
assert b.best("resnet50", far["run"]) == ("ncnn", 10.0), b.best("resnet50", far["run"])
assert [b.verdict(e) for e in (far, met, lost, none)] == ["ahead", "goal", "behind", "no figure"]
state = dict(cpu=("Processor", ["avx2"]), cores=2, versions={"ncnn": "1"}, command="x", quick=False,
             roofs={1: dict(f32_gflops=100.0, int8_gops=400.0, read=[dict(bytes=1, gb_per_s=20.0)])})
page = b.page(state, [far, met, lost, none], [(lost, "table")])
for part in ("| resnet50 | 9.500 | ncnn | 10.00 | 0.95 | 0.90 | ahead | 2e-06 | 1,234,567 | 64 | 0.5 |", "| mnist_cnn | 0.0200 | OpenVINO (C) | 0.0500 | 0.40 | 0.40 | goal |",
             "goals reached: 1 of 4", "behind: 1 (opennsfw 1.50)", "no figure: magika", "1.000 \u2260", "f32 100 GFLOP/s, int8 400 GOP/s, memory 20 GB/s", "ratio 1.50, goal 0.95"):
    assert part in page, (part, page)
far["commit"], far["options"] = "abc", " --seconds 1 --no-wait"
assert "commit abc, `--cpu native`; 2000-01-01; command: `x --seconds 1 --no-wait`" in b.page(state, [far], [])
for e in (met, lost): e["commit"] = "def"
page = b.page(state, [far, met, lost], [])
assert "several commits (threads in brackets): def, but abc: resnet50 (1)" in page and "several runs: `x`, `x --seconds 1 --no-wait`" in page, page
old = [dict(entry("resnet50", ours, ort=(1.0, "ref"), openvino=(10.0, "1.0e-05")), cpu="haswell", commit="abc") for ours in (9.0, 11.0)]
kept = {"resnet50@1": far, "resnet50@1@haswell": old[0], "resnet50@2@haswell": dict(old[1], threads=2),
        "section@native": dict(state, keys=["resnet50@1"], profiles=[["resnet50@1", "table"]]), "section@haswell": dict(keys=["resnet50@1@haswell", "resnet50@2@haswell"], command="y")}
page = b.page_of(kept)
for part in ("| resnet50 | 9.500 | ncnn |", "ratio 0.95, goal 0.90", "ONEDNN_MAX_CPU_ISA=AVX2`; onnxc: commit abc; 2000-01-01; command: `y`", "Ahead in 1 of 2; behind: resnet50 1.10 (2 threads).",
             "| resnet50 | 1 | 9.000 | 10.00 | 0.90 | ahead | 2e-06 | 1,234,567 |", "| resnet50 | 2 | 11.00 | 10.00 | 1.10 | behind |"):
    assert part in page, (part, page)
failed = dict(entry("bert6", 9.0, ort=(1.0, "ref")), cpu="haswell")
failed["run"]["openvino"] = dict(err="RuntimeError: plugin.cpp:54: bad combination")
page = "\n".join(b.older_sets([("haswell", "y", [failed])]))
assert "| bert6 | 1 | 9.000 | - | - | OpenVINO fails: bad combination |" in page, page
import os, tempfile
with tempfile.TemporaryDirectory() as folder:
    file, page = os.path.join(folder, "page.md"), b.page_of(kept)
    assert b.titled(file, page) == page
    for title, kept_title in (('# Benchmarks on Zen 9', True), ('# Notes', False)):
        with open(file, "w") as f: f.write(f"{title}\n\nAn old page.\n")
        assert b.titled(file, page) == (page.replace('# Benchmarks', title, 1) if kept_title else page)
"#;

#[test]
fn verdicts_follow_from_results() {
    let folder = data::repository().join("testsuite");
    run::run(Command::new("python3").args(["-B", "-c", SCRIPT]).current_dir(folder), Duration::from_secs(60))
        .expect_ok("bench_page");
}
