//! Commands that write no code: `inspect`, `targets`, `completions`.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::CommandFactory;
use onnxc_codegen::{Weights, coded_weight_bytes};
use onnxc_ir::{Attr, Graph, ValueId};
use serde_json::json;

use super::check::constant_bytes;
use super::engine::codegen_fault;
use crate::cli::{Cli, Debugging, Inspect};
use crate::fault::Done;
use crate::pipeline::{self, print_all};
use crate::profile;

/// `onnxc inspect`.
pub fn inspect(args: &Inspect) -> Done<()> {
    if super::bundle::is_binary(&args.model.model) {
        return super::bundle::inspect(&args.model.model, args.json);
    }
    if args.layers {
        return layers(args);
    }
    let (graph, imported) = pipeline::import(&args.model)?;
    let ops = operators(&graph);
    let constants = constant_bytes(&graph);
    let producer = imported.as_ref().map_or("", |i| i.producer.as_str());
    let opsets: BTreeMap<String, i64> =
        imported.iter().flat_map(|i| &i.opsets).map(|(d, v)| (full_domain(d).to_string(), *v)).collect();
    let (integers, tiled) = super::integers::rows(&graph)?;
    let (compression, told) = (crate::compress::report(&args.freedom)?, crate::compress::told(&args.freedom)?);
    if args.json {
        let io = |ids: &[ValueId]| -> Vec<_> {
            ids.iter().map(|id| json!({ "name": graph.value(*id).name, "type": graph.ty(*id).to_string() })).collect()
        };
        let facts = json!({ "name": graph.name, "producer": producer, "opsets": opsets, "inputs": io(&graph.inputs),
            "outputs": io(&graph.outputs), "operators": ops, "constant_bytes": constants,
            "quantized": super::integers::json(&integers), "winograd": super::algorithms::json(&tiled), "compression": compression });
        return print_all(&format!("{facts:#}\n"));
    }
    let mut out = format!("name      {}\nproducer  {producer}\n", graph.name);
    let opsets: Vec<String> = opsets.iter().map(|(d, v)| format!("{d} {v}")).collect();
    let _ = writeln!(out, "opsets    {}", opsets.join(", "));
    for (kind, ids) in [("input", &graph.inputs), ("output", &graph.outputs)] {
        for id in ids {
            let _ = writeln!(out, "{kind:<9} {}: {}", graph.value(*id).name, graph.ty(*id));
        }
    }
    let _ = writeln!(out, "constants {constants} bytes\noperators {} (after folding of constants)", ops.values().sum::<usize>());
    for (op, n) in ops {
        let _ = writeln!(out, "{n:>9} {op}");
    }
    out += &super::algorithms::text(&tiled);
    out += &super::integers::text(&integers);
    out += &told.unwrap_or_default();
    print_all(&out)
}

/// `onnxc inspect --layers`: as far as a model can be looked at without running it, for any target.
fn layers(args: &Inspect) -> Done<()> {
    let target = super::target(&args.machine, "", 1)?;
    let compiled = pipeline::compile(&args.model, &target, &args.freedom, &Debugging::default())?;
    let plan = &compiled.plan;
    let layers = profile::layers(plan, &compiled.graph, &target);
    let is_coded = args.freedom.weights == Weights::Coded;
    let coded = is_coded.then(|| coded_weight_bytes(plan).map_err(codegen_fault)).transpose()?;
    if args.json {
        let facts = json!({ "target": target.desc.triple, "cpu": target.desc.cpu, "arena_bytes": plan.arena_shared.range(&plan.bounds).1,
            "scratch_bytes_per_thread": plan.scratch_per_worker.range(&plan.bounds).1, "live_bytes": compiled.live_bytes,
            "weights_bytes": plan.weights_bytes, "coded_weights_bytes": coded, "layers": profile::facts(&layers) });
        return print_all(&format!("{facts:#}\n"));
    }
    let mut out = format!("{} {}\n", target.desc.triple, target.desc.cpu);
    let _ = writeln!(
        out,
        "arena {} bytes, scratch {} bytes a thread, live {} bytes at the busiest step, weights {} bytes{}\n",
        plan.arena_shared,
        plan.scratch_per_worker,
        compiled.live_bytes,
        plan.weights_bytes,
        coded.map_or(String::new(), |bytes| format!(", {bytes} bytes coded"))
    );
    out += &profile::table::facts(&layers);
    print_all(&out)
}

/// The domain with the name that it has without one.
pub fn full_domain(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// How often a graph has each operator, with what is inside of branches and loops.
pub fn operators(graph: &Graph) -> BTreeMap<&str, usize> {
    let mut ops = BTreeMap::new();
    count(graph, &mut ops);
    ops
}

fn count<'g>(graph: &'g Graph, ops: &mut BTreeMap<&'g str, usize>) {
    for node in &graph.nodes {
        *ops.entry(node.op.name).or_default() += 1;
        for attr in node.attrs.0.values() {
            if let Attr::Graph(body) = attr {
                count(body, ops);
            }
        }
    }
}

/// `onnxc targets`.
pub fn targets(as_json: bool) -> Done<()> {
    let list = onnxc_targets::targets();
    if as_json {
        let row = |(t, cpus, features): &(_, Vec<_>, Vec<_>)| json!({ "target": t, "cpus": cpus, "features": features });
        let rows: Vec<_> = list.iter().map(row).collect();
        return print_all(&format!("{:#}\n", serde_json::Value::from(rows)));
    }
    let mut out = String::new();
    for (triple, cpus, features) in list {
        let _ = writeln!(out, "{triple}\n  cpus      {}\n  features  {}", cpus.join(", "), features.join(", "));
    }
    print_all(&out)
}

/// `onnxc completions`.
pub fn completions(shell: clap_complete::Shell) -> Done<()> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "onnxc", &mut out);
    print_all(&String::from_utf8_lossy(&out))
}
