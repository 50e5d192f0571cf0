//! Commands that compile nothing: `check`, `inspect`, `ops`, `targets`, `completions`.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::CommandFactory;
use onnxc_ir::op::{Import, Lower, NEWEST, OpDef};
use onnxc_ir::{Attr, Graph, ValueId};
use serde_json::json;

use crate::cli::{Check, Cli, Debugging, Inspect};
use crate::fault::Done;
use crate::pipeline::{self, print_all};

/// `onnxc check`: everything up to the plan when the dimensions are known; the import otherwise.
pub fn check(args: &Check) -> Done<()> {
    let (graph, _) = pipeline::import(&args.model)?;
    let path = args.model.model.display();
    if graph.inputs.iter().any(|id| graph.ty(*id).const_shape().is_none()) {
        return print_all(&format!("{path}: ok; some dimensions are open, so nothing was planned\n"));
    }
    let target = super::target(&args.machine, "", 1)?;
    pipeline::compile(&args.model, &target, &Debugging::default())?;
    print_all(&format!("{path}: ok\n"))
}

/// `onnxc inspect`.
pub fn inspect(args: &Inspect) -> Done<()> {
    let (graph, imported) = pipeline::import(&args.model)?;
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    count(&graph, &mut ops);
    let constants: u64 = graph.values.iter().filter_map(|v| v.constant.as_ref()).map(|t| t.bytes().len() as u64).sum();
    let producer = imported.as_ref().map_or("", |i| i.producer.as_str());
    let opsets: BTreeMap<String, i64> =
        imported.iter().flat_map(|i| &i.opsets).map(|(d, v)| (full_domain(d).to_string(), *v)).collect();
    let integers = super::integers::rows(&graph)?;
    if args.json {
        let io = |ids: &[ValueId]| -> Vec<_> {
            ids.iter().map(|id| json!({ "name": graph.value(*id).name, "type": graph.ty(*id).to_string() })).collect()
        };
        let facts = json!({ "name": graph.name, "producer": producer, "opsets": opsets, "inputs": io(&graph.inputs),
            "outputs": io(&graph.outputs), "operators": ops, "constant_bytes": constants,
            "quantized": super::integers::json(&integers) });
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
    out += &super::integers::text(&integers);
    print_all(&out)
}

fn full_domain(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
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

/// `onnxc ops`.
pub fn ops(as_json: bool) -> Done<()> {
    let mut list: Vec<&OpDef> = onnxc_ops::ALL.to_vec();
    list.sort_by_key(|op| op.name);
    let name = |i: &Import| if i.domain.is_empty() { i.name.to_string() } else { format!("{}.{}", i.domain, i.name) };
    let last = |i: &Import| Some(i.opsets.1).filter(|n| *n != NEWEST);
    if as_json {
        let onnx = |op: &OpDef| -> Vec<_> {
            let row = |i: &Import| json!({ "name": name(i), "from_opset": i.opsets.0, "to_opset": last(i) });
            op.onnx.iter().map(row).collect()
        };
        let rows: Vec<_> = list.iter().map(|op| json!({ "op": op.name, "onnx": onnx(op), "code": code(op) })).collect();
        return print_all(&format!("{:#}\n", serde_json::Value::from(rows)));
    }
    let mut out = String::new();
    for op in list {
        let range = |i: &Import| last(i).map_or(format!("{}+", i.opsets.0), |n| format!("{}-{n}", i.opsets.0));
        let onnx: Vec<String> = op.onnx.iter().map(|i| format!("{} {}", name(i), range(i))).collect();
        let _ = writeln!(out, "{:<32} {:<12} {}", op.name, code(op), onnx.join(", "));
    }
    print_all(&out)
}

/// `onnxc ops --markdown`: ONNX's operators by domain, and those that are refused.
pub fn operators_page() -> String {
    let mut rows: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (op, i) in onnxc_ops::ALL.iter().flat_map(|op| op.onnx.iter().map(move |i| (op, i))) {
        let to = if i.opsets.1 == NEWEST { "newest".to_string() } else { i.opsets.1.to_string() };
        rows.entry((i.domain, i.name)).or_default().push(format!("{} to {to}: `{}`", i.opsets.0, op.name));
    }
    for (name, op) in [("Constant", "a constant"), ("If", "`if`"), ("Loop", "`loop`"), ("Scan", "`loop`")] {
        let from = if name == "Scan" { 9 } else { 1 };
        rows.insert(("", name), vec![format!("{from} to newest: {op}")]);
    }
    let mut out = String::from(
        "# Operators\n\nWritten by `onnxc ops --markdown`; a test keeps it so. Versions are those of the operator set of the domain; opset 6 is the oldest\n\
         that models may use. Behind each range stands the operator of the intermediate representation that does most of the work.\n\
         What a node's types and attributes must be is said in the error when they are something else.\n",
    );
    let mut domain = None;
    for ((in_domain, name), mut forms) in rows {
        if domain != Some(in_domain) {
            domain = Some(in_domain);
            let _ = write!(out, "\n## {}\n\n| operator | versions |\n|---|---|\n", full_domain(in_domain));
        }
        forms.sort();
        let _ = writeln!(out, "| {name} | {} |", forms.join("; "));
    }
    out.push_str("\n## Refused\n\n| operator | reason | remedy |\n|---|---|---|\n");
    for r in onnxc_onnx::REFUSED {
        let names: Vec<String> = r.names.iter().map(|n| format!("{}.{n}", full_domain(r.domain))).collect();
        let _ = writeln!(out, "| {} | {} | {} |", names.join(", "), r.reason, r.help);
    }
    out
}

/// How an operator becomes code.
fn code(op: &OpDef) -> &'static str {
    match op.lower {
        Lower::Elementwise(_) => "elementwise",
        Lower::View(_) => "view",
        Lower::Nest(_) => "loop nest",
        Lower::None if op.name == "if" => "branch",
        Lower::None if op.name == "loop" => "loop",
        Lower::None => "expanded",
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
