//! The part of `onnxc inspect` about what passes make of a model: of quantised ones, which nodes run in integers, and why the others do not.

use std::fmt::Write;

use onnxc_ir::Graph;
use onnxc_passes::canonicalize::quantized::report::{self, Row};
use onnxc_passes::winograd::{self, Chosen};
use onnxc_passes::{Math, Phase, choose};
use serde_json::json;

use crate::fault::{Done, Fault};
use crate::pipeline;

/// One row per node of a quantised model whose dimensions are all known, and the convolutions that are computed in tiles; nothing for others.
pub fn rows(graph: &Graph) -> Done<(Vec<Row>, Vec<Chosen>)> {
    if pipeline::compilable(graph).is_err() {
        return Ok((Vec::new(), Vec::new()));
    }
    // The rules ask the target about costs only.
    let host = target_lexicon::Triple::host().to_string();
    let target = onnxc_targets::describe(&host, "", 1).map_err(|e| Fault::Usage(e.to_string()))?;
    let canonical = onnxc_passes::run(Phase::Canonicalize, graph, &target.desc).0;
    let fused = onnxc_passes::run(Phase::Fuse, &canonical, &target.desc).0;
    let tiled = winograd::chosen(&choose::by_costs(&fused, &target.desc, winograd::GROWTH, Math::Fast));
    Ok((report::rows(graph, &fused), tiled))
}

/// For people: how many run in integers, and one line for each that does not.
pub fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let floats: Vec<(&Row, &String)> = rows.iter().filter_map(|r| r.floats.as_ref().map(|why| (r, why))).collect();
    let mut out = format!("quantized {} nodes run in integers, {} in floats\n", rows.len() - floats.len(), floats.len());
    for (row, why) in floats {
        let _ = writeln!(out, "   floats {} ({}): {why}", row.node, row.op);
    }
    out
}

/// For programs: every node.
pub fn json(rows: &[Row]) -> serde_json::Value {
    let one = |r: &Row| json!({ "node": r.node, "op": r.op, "runs_in": if r.floats.is_some() { "floats" } else { "integers" }, "why": r.floats });
    rows.iter().map(one).collect()
}
