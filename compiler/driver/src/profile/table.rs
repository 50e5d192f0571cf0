//! Layers as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use onnxc_ir::workload::roof::Roofs;

use super::{GOOD_SHARE, Layer, Report, Timed, intensity};

/// Longest list of ONNX nodes that is printed.
const NODES: usize = 70;

/// Part of the time below which layers are only summed up.
const SMALL: f64 = 0.0005;

/// `bench --profile`.
pub fn report(report: &Report) -> String {
    let mut out = roofs(&report.roofs, report.touched);
    let total = report.sum_ms();
    let _ = writeln!(out, "layers   sum of medians {total:.4} ms ({} profiled runs between the others)", report.runs);
    out += &model(report);
    let weak = report.weak();
    let lost: f64 = weak.iter().map(|l| l.lost()).sum();
    let _ = writeln!(out, "\nbelow {:.0} % of their roof ({lost:.4} ms above it)", GOOD_SHARE * 100.0);
    rows(&mut out, &weak, total);
    let mut others: Vec<&Timed> = report.ran().filter(|l| l.share() >= GOOD_SHARE).collect();
    others.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let _ = writeln!(out, "\nothers");
    rows(&mut out, &others, total);
    sums(&mut out, report, "operator", &|l| l.layer.op.clone());
    sums(&mut out, report, "kernel", &|l| l.layer.kernel.clone());
    out
}

/// How good the predictions of the target's model are.
fn model(report: &Report) -> String {
    let (predicted, total) = (report.predicted_ms(), report.sum_ms().max(f64::MIN_POSITIVE));
    let ranks = report.correlation().map_or(String::new(), |rho| format!(", rank correlation of layers {rho:.3}"));
    format!("model    predicts {predicted:.4} ms, {:+.1} %{ranks}\n", (predicted / total - 1.0) * 100.0)
}

/// One line for arithmetic and one for memory.
pub fn roofs(r: &Roofs, touched: u64) -> String {
    let threads = threads(r.threads);
    let curve = |list: &[(u64, f64)]| -> String {
        let all: Vec<String> = list.iter().map(|(n, rate)| format!("{:.0} ({})", rate * 1e-9, bytes(*n))).collect();
        all.join(", ")
    };
    format!(
        "roofs    measured with {threads}: f32 {:.1} GFLOP/s, int8 {:.1} GOP/s\n\
         read     GB/s by size: {}\ncopy     GB/s by size: {}\ntouched  {} in an inference, weights read at {:.1} GB/s\n",
        r.flops * 1e-9,
        r.int8_ops * 1e-9,
        curve(&r.read),
        curve(&r.copy),
        bytes(touched),
        r.read_bandwidth(touched) * 1e-9,
    )
}

fn rows(out: &mut String, list: &[&Timed], total: f64) {
    let _ = writeln!(
        out,
        "{:>9} {:>9} {:>9} {:>5} {:>9} {:>6} {:<7} {:>8} {:>8} {:>8} {:>8}  {:<22} {:<18} nodes",
        "ms", "predicted", "lost ms", "%", "GFLOP/s", "roof %", "limit", "weights", "in", "out", "FLOP/B", "kernel", "operator"
    );
    let (shown, small): (Vec<&Timed>, Vec<&Timed>) = list.iter().partition(|l| l.ms >= total * SMALL);
    for l in shown {
        let t = &l.layer.traffic;
        let about = if l.layer.work.exact { "" } else { "~" };
        let calls = if l.calls > 1.0 { format!(" x{}", l.calls) } else { String::new() };
        let _ = writeln!(
            out,
            "{:>9.4} {:>9.4} {:>9.4} {:>5.1} {:>9} {:>6.0} {:<7} {:>8} {:>8} {:>8} {:>8}  {:<22} {:<18} {}{}",
            l.ms,
            l.predicted_ms(),
            l.lost(),
            l.ms / total.max(f64::MIN_POSITIVE) * 100.0,
            format!("{about}{:.2}", l.gops()),
            l.share() * 100.0,
            l.limit(),
            bytes(t.weights),
            bytes(t.read),
            bytes(t.written),
            format!("{about}{:.2}", intensity(&l.layer.work.ops, t)),
            l.layer.kernel,
            l.layer.op.clone() + &calls,
            chosen(&l.layer),
            cut(&l.layer.nodes()),
        );
    }
    if !small.is_empty() {
        let sum = |f: &dyn Fn(&&Timed) -> f64| small.iter().map(f).sum::<f64>();
        let (ms, predicted, lost) = (sum(&|l| l.ms), sum(&|l| l.predicted_ms()), sum(&|l| l.lost()));
        let _ = writeln!(
            out,
            "{ms:>9.4} {predicted:>9.4} {lost:>9.4} {:>5.1}  {} smaller ones",
            ms / total.max(f64::MIN_POSITIVE) * 100.0,
            small.len()
        );
    }
}

fn sums(out: &mut String, report: &Report, what: &str, key: &dyn Fn(&Timed) -> String) {
    let mut sums: BTreeMap<String, (f64, f64, usize)> = BTreeMap::new();
    for l in report.ran() {
        let sum = sums.entry(key(l)).or_default();
        *sum = (sum.0 + l.ms, sum.1 + l.lost(), sum.2 + 1);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    let total = report.sum_ms().max(f64::MIN_POSITIVE);
    let _ = writeln!(out, "\nby {what}\n{:>9} {:>9} {:>5}", "ms", "lost ms", "%");
    for (name, (ms, lost, n)) in sums {
        let _ = writeln!(out, "{ms:>9.4} {lost:>9.4} {:>5.1}  {name:<22} x{n}", ms / total * 100.0);
    }
}

/// The choice for a layer, in front of its nodes.
fn chosen(layer: &Layer) -> String {
    if layer.choice.is_empty() { String::new() } else { format!("[{}] ", layer.choice) }
}

/// `inspect --layers`: the same without measured times.
pub fn facts(layers: &[Layer]) -> String {
    let mut out = format!(
        "{:>9} {:>10} {:>8} {:>8} {:>8} {:>8}  {:<22} {:<18} nodes\n",
        "predicted", "MFLOP", "weights", "in", "out", "FLOP/B", "kernel", "operator"
    );
    for l in layers {
        let (t, about) = (&l.traffic, if l.work.exact { "" } else { "~" });
        let _ = writeln!(
            out,
            "{:>9.4} {:>10} {:>8} {:>8} {:>8} {:>8}  {:<22} {:<18} {}{}",
            l.predicted.seconds * 1e3,
            format!("{about}{:.3}", l.work.ops.all() as f64 * 1e-6),
            bytes(t.weights),
            bytes(t.read),
            bytes(t.written),
            format!("{about}{:.2}", intensity(&l.work.ops, t)),
            l.kernel,
            l.op,
            chosen(l),
            cut(&l.nodes()),
        );
    }
    let sum = |f: &dyn Fn(&Layer) -> u64| layers.iter().map(f).fold(0, u64::saturating_add);
    let _ = writeln!(
        out,
        "{:>9.4} {:>10.3} {:>8} {:>8} {:>8}  all, predicted in ms for one call each",
        layers.iter().map(|l| l.predicted.seconds * 1e3).sum::<f64>(),
        sum(&|l| l.work.ops.all()) as f64 * 1e-6,
        bytes(sum(&|l| l.traffic.weights)),
        bytes(sum(&|l| l.traffic.read)),
        bytes(sum(&|l| l.traffic.written))
    );
    out
}

/// `1 thread`, `2 threads`
pub fn threads(n: u32) -> String {
    format!("{n} thread{}", if n == 1 { "" } else { "s" })
}

/// A number of bytes in three or four digits.
pub fn bytes(n: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let (mut x, mut unit) = (n as f64, 0);
    while x >= 1024.0 && unit + 1 < units.len() {
        (x, unit) = (x / 1024.0, unit + 1);
    }
    let digits = if x < 10.0 && unit > 0 { 1 } else { 0 };
    format!("{x:.digits$}{}", units[unit])
}

/// A list of nodes, not longer than a line has room for.
pub fn cut(nodes: &str) -> String {
    if nodes.chars().count() <= NODES { nodes.to_string() } else { nodes.chars().take(NODES - 3).collect::<String>() + "..." }
}
