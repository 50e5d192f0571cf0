//! The convolutions that are computed by Winograd's algorithm, for `inspect` and the report.

use std::collections::BTreeMap;
use std::fmt::Write;

use onnxc_passes::winograd::Chosen;
use serde_json::json;

/// For people: how many use each algorithm, and what it does to the weights.
pub fn text(chosen: &[Chosen]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    chosen.iter().for_each(|c| *counts.entry(&c.algorithm).or_default() += 1);
    let (before, after) = bytes(chosen);
    let mut out = String::new();
    if !chosen.is_empty() {
        let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let _ = writeln!(
            out,
            "tiled     {} convolutions ({}): their weights grow from {before} to {after} bytes",
            chosen.len(),
            counts.join(", ")
        );
    }
    out
}

/// For programs: every layer, and the bytes of all.
pub fn json(chosen: &[Chosen]) -> serde_json::Value {
    let (before, after) = bytes(chosen);
    let layers: Vec<_> = chosen.iter().map(|c| json!({ "origins": c.origins, "algorithm": c.algorithm })).collect();
    json!({ "layers": layers, "bytes_before": before, "bytes_after": after })
}

fn bytes(chosen: &[Chosen]) -> (u64, u64) {
    chosen.iter().fold((0, 0), |sum, c| (sum.0 + c.bytes.0, sum.1 + c.bytes.1))
}
