//! `onnxc ops`: what ONNX operators there are, in which versions and for which element types, and what is refused. All of it comes from
//! the operators' records and the importer's list of refusals.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use onnxc_ir::op::{Import, Lower, NEWEST, OpDef};
use onnxc_ir::target::TargetDesc;
use onnxc_onnx::{REFUSED, Refused};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::element_types::{self, GROUPS};
use super::look::full_domain;
use crate::fault::Done;
use crate::pipeline::print_all;

/// A range of versions and what carries it out.
struct Form {
    opsets: (i64, i64),
    by: By,
}

/// What carries out an ONNX operator.
#[derive(Clone, Copy)]
enum By {
    /// An operator of the intermediate representation.
    Op(&'static OpDef),
    /// A constant.
    Constant,
    /// The importer, on lists of values: sequences and optionals.
    Lists,
}

impl By {
    fn op(self) -> Option<&'static OpDef> {
        match self {
            By::Op(op) => Some(op),
            By::Constant | By::Lists => None,
        }
    }

    fn name(self) -> String {
        match self {
            By::Op(op) => format!("`{}`", op.name),
            By::Constant => "a constant".to_string(),
            By::Lists => "when compiling".to_string(),
        }
    }
}

/// An ONNX operator that is compiled.
struct Row {
    domain: &'static str,
    name: &'static str,
    forms: Vec<Form>,
}

/// Operators that the importer itself turns into nodes: they hold graphs, or nothing but a tensor.
const BY_THE_IMPORTER: [(&str, i64, &str); 4] = [("Constant", 1, ""), ("If", 1, "if"), ("Loop", 1, "loop"), ("Scan", 8, "loop")];

fn rows() -> Vec<Row> {
    let mut forms: BTreeMap<(&str, &str), Vec<Form>> = BTreeMap::new();
    for (op, i) in onnxc_ops::ALL.iter().flat_map(|op| op.onnx.iter().map(move |i: &Import| (*op, i))) {
        forms.entry((i.domain, i.name)).or_default().push(Form { opsets: i.opsets, by: By::Op(op) });
    }
    for (name, from, op) in BY_THE_IMPORTER {
        let by = onnxc_ops::ALL.iter().find(|o| o.name == op).map_or(By::Constant, |op| By::Op(op));
        forms.insert(("", name), vec![Form { opsets: (from, NEWEST), by }]);
    }
    for l in onnxc_ops::LISTS {
        // What works on tensors too is described by that.
        forms.entry(("", l.name)).or_insert_with(|| vec![Form { opsets: l.opsets, by: By::Lists }]);
    }
    let row = |((domain, name), mut forms): ((&'static str, &'static str), Vec<Form>)| {
        forms.sort_by_key(|f| f.opsets);
        Row { domain, name, forms }
    };
    forms.into_iter().map(row).collect()
}

impl Row {
    /// The newest form.
    fn newest(&self) -> &Form {
        self.forms.last().expect("internal: an operator has a form")
    }

    fn types(&self, all: &Types) -> String {
        match self.newest().by.op() {
            Some(op) if !self.by_the_importer() => {
                let types = &all[op.name];
                let letters = |name: &str| name.replace('_', "").to_lowercase();
                if letters(op.name) == letters(self.name) { types.clone() } else { format!("{types} (of `{}`)", op.name) }
            }
            _ => "any".to_string(),
        }
    }

    fn by_the_importer(&self) -> bool {
        BY_THE_IMPORTER.iter().any(|(name, ..)| self.domain.is_empty() && *name == self.name)
    }

    fn status(&self) -> &'static str {
        match self.newest().by {
            By::Op(op) => status(op),
            By::Constant => "constant",
            By::Lists => "list",
        }
    }
}

/// Element types of operators of the intermediate representation, by name.
type Types = HashMap<&'static str, String>;

/// Those of the operators that carry out these rows: planning all their samples with all types takes a while.
fn types(rows: &[Row], desc: &TargetDesc) -> Types {
    let ops: BTreeMap<&str, &OpDef> = rows.iter().filter_map(|r| r.newest().by.op()).map(|op| (op.name, op)).collect();
    ops.into_par_iter().map(|(name, op)| (name, element_types::text(&element_types::of(op, desc)))).collect()
}

/// How an operator becomes code.
fn status(op: &OpDef) -> &'static str {
    match op.lower {
        Lower::Elementwise(_) => "elementwise",
        Lower::View(_) | Lower::ViewOrNest(..) => "view",
        Lower::Nest(_) | Lower::OpenNest(_) => "loop nest",
        Lower::None if op.name == "if" => "branch",
        Lower::None if op.name == "loop" => "loop",
        Lower::None => "rewritten",
    }
}

const STATUSES: &[(&str, &str)] = &[
    ("elementwise", "one expression per element, fused with its neighbours"),
    ("view", "no work where strides can express it, else a copy"),
    ("loop nest", "loops or microkernels of its own"),
    ("branch, loop", "control flow"),
    ("rewritten", "replaced by other operators on import or by a pass"),
    ("constant", "no code"),
    ("list", "on sequences and optionals, when compiling: lengths, positions and what is there must be known then"),
    ("refused", "an error on import, with reason and remedy"),
];

/// The machine for which operators are planned to see what they take; the answer is the same for all.
fn desc() -> TargetDesc {
    onnxc_targets::describe("x86_64-unknown-linux-gnu", "x86-64-v3", 1).expect("internal: a target of ours").desc
}

fn last(opsets: (i64, i64)) -> Option<i64> {
    Some(opsets.1).filter(|n| *n != NEWEST)
}

fn refused() -> impl Iterator<Item = (&'static Refused, &'static str)> {
    REFUSED.iter().flat_map(|r| r.names.iter().map(move |n| (r, *n)))
}

/// `onnxc ops`.
pub fn ops(as_json: bool) -> Done<()> {
    print_all(&if as_json { format!("{:#}\n", json()) } else { table() })
}

fn json() -> Value {
    let rows = rows();
    let types = types(&rows, &desc());
    let form = |f: &Form| json!({ "from_opset": f.opsets.0, "to_opset": last(f.opsets), "op": f.by.op().map(|op| op.name) });
    let row = |r: &Row| {
        let forms: Vec<Value> = r.forms.iter().map(form).collect();
        json!({ "name": r.name, "domain": full_domain(r.domain), "forms": forms, "types": r.types(&types), "status": r.status() })
    };
    let mut all: Vec<Value> = rows.iter().map(row).collect();
    all.extend(refused().map(|(r, name)| {
        json!({ "name": name, "domain": full_domain(r.domain), "status": "refused", "reason": r.reason, "help": r.help })
    }));
    Value::from(all)
}

fn table() -> String {
    let rows = rows();
    let types = types(&rows, &desc());
    let mut out = format!("{:<34} {:<14} {:<10} {:<12} element types\n", "operator", "domain", "opsets", "status");
    for r in &rows {
        let range = |f: &Form| last(f.opsets).map_or(format!("{}+", f.opsets.0), |n| format!("{}-{n}", f.opsets.0));
        let opsets: Vec<String> = r.forms.iter().map(range).collect();
        let (opsets, domain) = (opsets.join(","), full_domain(r.domain));
        let _ = writeln!(out, "{:<34} {domain:<14} {opsets:<10} {:<12} {}", r.name, r.status(), r.types(&types));
    }
    for (r, name) in refused() {
        let _ = writeln!(out, "{name:<34} {:<14} {:<10} {:<12} {}", full_domain(r.domain), "", "refused", r.reason);
    }
    out
}

const INTRODUCTION: &str = "\
# Operators

Written by `onnxc ops --markdown`; a test keeps it so. Versions are those of the operator set of the domain; opset 6 is the oldest
that models may use. Behind each range stands the operator of the intermediate representation that does most of the work.

**Element types** are those with which the operator compiles, one list for each kind of operand in the order of the operands:
`all / ints` is data of any type and indices of integers. `numbers (of matmul)` is the list of the operator that does most of the work,
where the ONNX operator is built from several; the others may take fewer. What a node's types and attributes must be is said in the error
when they are something else. Groups of types:
";

/// `onnxc ops --markdown`: ONNX's operators by domain, and those that are refused.
pub fn page() -> String {
    let rows = rows();
    let types = types(&rows, &desc());
    let mut out = format!("{INTRODUCTION}\n| group | types |\n|---|---|\n");
    for g in GROUPS {
        let types: Vec<String> = g.types.iter().map(|t| format!("`{t}`")).collect();
        let _ = writeln!(out, "| {} | {} |", g.name, types.join(" "));
    }
    out.push_str("\n**Status** is how the operator becomes code:\n\n| status | meaning |\n|---|---|\n");
    for (status, meaning) in STATUSES {
        let _ = writeln!(out, "| {status} | {meaning} |");
    }
    let mut domain = None;
    for r in &rows {
        if domain != Some(r.domain) {
            domain = Some(r.domain);
            let name = full_domain(r.domain);
            let _ = write!(out, "\n## {name}\n\n| operator | versions | element types | status |\n|---|---|---|---|\n");
        }
        let form = |f: &Form| {
            let to = last(f.opsets).map_or("newest".to_string(), |n| n.to_string());
            format!("{} to {to}: {}", f.opsets.0, f.by.name())
        };
        let forms: Vec<String> = r.forms.iter().map(form).collect();
        let _ = writeln!(out, "| {} | {} | {} | {} |", r.name, forms.join("; "), r.types(&types), r.status());
    }
    out.push_str("\n## Refused\n\n| operator | reason | remedy |\n|---|---|---|\n");
    for r in REFUSED {
        let names: Vec<String> = r.names.iter().map(|n| format!("{}.{n}", full_domain(r.domain))).collect();
        let _ = writeln!(out, "| {} | {} | {} |", names.join(", "), r.reason, r.help);
    }
    out
}
