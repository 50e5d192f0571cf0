//! `check`: whether a model compiles, and for what sizes. Everything up to the plan is done; code is not generated.

use std::collections::BTreeMap;
use std::fmt::Write;

use onnxc_ir::Graph;
use onnxc_targets::Target;
use serde_json::{Value, json};

use super::look::operators;
use super::probe::{self, Dimensions, Found, Open, Span, Values};
use crate::cli::{Check, Debugging, Model};
use crate::fault::{Done, Fault};
use crate::pipeline::{self, print_all};
use crate::sizes;

/// Ranges are tried for models with at most so many bytes of weights: each try packs them.
const MOST_WEIGHTS: u64 = 128 << 20;

/// What is known of a model that compiles.
struct Answer {
    graph: Graph,
    dimensions: Dimensions,
    found: Found,
}

impl Answer {
    /// False when dimensions are open, and no sizes were found for them.
    fn is_planned(&self) -> bool {
        self.dimensions.open.is_empty() || !self.found.values.is_empty()
    }
}

/// `onnxc check`.
pub fn check(args: &Check) -> Done<()> {
    if args.freedom.tuning.tune {
        return Err(Fault::Usage("--tune: check makes no code that could be measured".to_string()));
    }
    let target = super::target(&args.machine, "", 1)?;
    match answer(args, &target) {
        Ok(answer) if args.json => print_all(&format!("{:#}\n", json(&answer, &target))),
        Ok(answer) => print_all(&text(&answer, &target, &args.model.model.display().to_string())),
        Err(Fault::Model(problems)) if args.json => {
            let facts = json!({ "compiles": false, "target": target.desc.triple, "cpu": target.desc.cpu, "problems": problems });
            print_all(&format!("{facts:#}\n"))?;
            Err(Fault::Model(problems))
        }
        Err(fault) => Err(fault),
    }
}

fn answer(args: &Check, target: &Target) -> Done<Answer> {
    let choices = sizes::choices(&args.model)?.1;
    let model = &choices[0].1;
    let graph = match pipeline::import(model) {
        Ok((graph, _)) => graph,
        Err(fault) => return once_sized(model, (target, &args.freedom), fault),
    };
    let dimensions = Dimensions::of(&graph);
    if dimensions.open.is_empty() {
        for (_, model) in &choices {
            pipeline::compile(model, target, &args.freedom, &Debugging::default())?;
        }
        return Ok(Answer { graph, dimensions, found: Found::default() });
    }
    let small = constant_bytes(&graph) <= MOST_WEIGHTS;
    let found = probe::explore(model, &dimensions, (target, &args.freedom), small)?;
    Ok(Answer { graph, dimensions, found })
}

/// The answer for a model that cannot even be imported as long as its dimensions are open; `fault` is why.
fn once_sized(model: &Model, target: probe::For, fault: Fault) -> Done<Answer> {
    let (Fault::Model(_), Ok((graph, _))) = (&fault, pipeline::inputs(model)) else { return Err(fault) };
    let dimensions = Dimensions::of(&graph);
    if dimensions.open.is_empty() {
        return Err(fault);
    }
    match probe::explore(model, &dimensions, target, true) {
        Ok(found) if !found.values.is_empty() => {
            let (mut planned, _) = pipeline::import(&dimensions.planned(model, &found))?;
            // Inputs as the model has them.
            planned.inputs.iter().zip(&graph.inputs).for_each(|(to, from)| {
                planned.values[to.0 as usize].ty = graph.ty(*from).clone();
            });
            Ok(Answer { graph: planned, dimensions, found })
        }
        _ => Err(fault),
    }
}

/// Bytes of the constants of a graph.
pub fn constant_bytes(graph: &Graph) -> u64 {
    graph.values.iter().filter_map(|v| v.constant.as_ref()).map(|t| t.bytes().len() as u64).sum()
}

fn text(answer: &Answer, target: &Target, path: &str) -> String {
    let known = if answer.is_planned() { "compiles" } else { "nothing is wrong so far" };
    let mut out = format!("{path}: ok; {known} for {}, {}\n", target.desc.triple, target.desc.cpu);
    for id in &answer.graph.inputs {
        let value = answer.graph.value(*id);
        let _ = writeln!(out, "input     {}: {}", value.name, value.ty);
    }
    dimensions(answer, &mut out);
    let operators = operators(&answer.graph);
    let _ = writeln!(out, "operators {} (after folding of constants)", operators.values().sum::<usize>());
    for (op, n) in operators {
        let _ = writeln!(out, "{n:>9} {op}");
    }
    out
}

fn dimensions(answer: &Answer, out: &mut String) {
    for (open, span) in answer.dimensions.open.iter().zip(&answer.found.spans) {
        let (input, axis) = &open.at;
        let _ = writeln!(out, "dimension {} (input {input}, axis {axis}): open; pass {}", open.name, flags(answer, open));
        let _ = writeln!(out, "          {}", possible(open, span));
        if let Span::Single(why) = span {
            for w in why {
                let _ = writeln!(out, "            {w}");
            }
        }
    }
    if answer.dimensions.open.is_empty() {
        return;
    }
    let tried: Vec<String> = answer.found.values.iter().map(|(name, values)| format!("{name} = {values}")).collect();
    let said = match &tried[..] {
        [] => "none that was tried fits, so nothing was planned: pass some to know more".to_string(),
        all => format!("planned for {}", all.join(", ")),
    };
    let _ = writeln!(out, "sizes     {said}");
}

/// What closes a dimension.
fn flags(answer: &Answer, open: &Open) -> String {
    let dim = format!("--dim {}=VALUE", open.name);
    let shape = answer.dimensions.shape_flag(&open.at.0).filter(|_| !open.named);
    shape.map_or(dim.clone(), |shape| format!("{shape} {dim}"))
}

fn possible(open: &Open, span: &Span) -> String {
    let name = &open.name;
    match span {
        Span::Range(Values { factor: 1, range }) => {
            format!("one value, or a range, such as --dim {name}={}..{}", range.0, range.1)
        }
        Span::Range(Values { factor, .. }) => {
            format!("one value, or a range of multiples of {factor}: {factor}*{name} in --shape, --dim {name}=1..4")
        }
        Span::Single(_) => format!("one value, or a list of values, --dim {name}=1,2,4; no range:"),
        Span::Unknown => "one value, or a list of values; whether a range works was not tried".to_string(),
    }
}

fn json(answer: &Answer, target: &Target) -> Value {
    let input =
        |id: &onnxc_ir::ValueId| json!({ "name": answer.graph.value(*id).name, "type": answer.graph.ty(*id).to_string() });
    let inputs: Vec<Value> = answer.graph.inputs.iter().map(input).collect();
    let row = |(open, span): (&Open, &Span)| {
        let mut row =
            json!({ "name": open.name, "input": open.at.0, "axis": open.at.1, "pass": flags(answer, open), "range": null });
        match span {
            Span::Range(v) => row["range"] = json!({ "works": true, "multiples_of": v.factor, "tried": v.range }),
            Span::Single(why) => row["range"] = json!({ "works": false, "why": why }),
            Span::Unknown => {}
        }
        row
    };
    let dimensions: Vec<Value> = answer.dimensions.open.iter().zip(&answer.found.spans).map(row).collect();
    let tried: BTreeMap<&String, String> = answer.found.values.iter().map(|(name, v)| (name, v.to_string())).collect();
    json!({ "compiles": answer.is_planned().then_some(true), "target": target.desc.triple, "cpu": target.desc.cpu, "inputs": inputs, "dimensions": dimensions,
        "planned_for": tried, "operators": operators(&answer.graph), "problems": [] })
}
