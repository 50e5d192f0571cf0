//! Plans as text: every step with its function and the places of its buffers.

use std::fmt::Write;

use onnxc_ir::lir::{BufKind, Expr, Func, LoopKind, Stmt};
use onnxc_ir::plan::{Place, Plan, Step};

/// The whole plan.
pub fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    for (kind, list) in [("input", &plan.inputs), ("output", &plan.outputs)] {
        for (i, io) in list.iter().enumerate() {
            let _ = writeln!(out, "{kind} {i} {:?}: {}", io.name, io.ty);
        }
    }
    let _ = writeln!(out, "arena {} + {} per worker, weights {}", plan.arena_shared, plan.scratch_per_worker, plan.weights_bytes);
    steps(&mut out, &plan.steps, 0);
    out
}

fn steps(out: &mut String, list: &[Step], depth: usize) {
    let pad = "  ".repeat(depth);
    for step in list {
        match step {
            Step::Call { func, places, origins, .. } => {
                let _ = write!(out, "{pad}step {}(", func.name);
                for (b, (buf, at)) in func.bufs.iter().zip(places).enumerate() {
                    let what = match &buf.kind {
                        BufKind::Input(i) => format!("in{i}"),
                        BufKind::Output(i) => format!("out{i}"),
                        BufKind::Const(bytes) => format!("const {} bytes", bytes.len()),
                        BufKind::Scratch { bytes, per_worker: true } => format!("scratch {bytes} per worker"),
                        BufKind::Scratch { bytes, .. } => format!("scratch {bytes}"),
                    };
                    let comma = if b > 0 { ", " } else { "" };
                    let _ = write!(out, "{comma}b{b}: {} {what} @ {}", buf.dtype, place(*at));
                }
                let _ = writeln!(out, ") ; {}", origins.join(", "));
                body(out, func, &func.body, depth + 1);
            }
            Step::If { cond, then, otherwise } => {
                let _ = writeln!(out, "{pad}if {} {{", place(*cond));
                steps(out, then, depth + 1);
                let _ = writeln!(out, "{pad}}} else {{");
                steps(out, otherwise, depth + 1);
                let _ = writeln!(out, "{pad}}}");
            }
        }
    }
}

fn place(at: Place) -> String {
    match at {
        Place::Arena(n) => format!("arena+{n}"),
        Place::WorkerScratch(n) => format!("worker+{n}"),
        Place::Weights(n) => format!("weights+{n}"),
        Place::Input(i) => format!("input {i}"),
        Place::Output(j) => format!("output {j}"),
    }
}

fn body(out: &mut String, func: &Func, stmts: &[Stmt], depth: usize) {
    let pad = "  ".repeat(depth);
    for stmt in stmts {
        let _ = match stmt {
            Stmt::For { var, lo, hi, step, kind, body: inner } => {
                let kind = match kind {
                    LoopKind::Serial => "for",
                    LoopKind::Parallel => "parallel for",
                    LoopKind::Vector => "vector for",
                };
                let by = if *step == 1 { String::new() } else { format!(" step {step}") };
                let _ = writeln!(out, "{pad}{kind} v{} in {}..{}{by} {{", var.0, expr(lo), expr(hi));
                body(out, func, inner, depth + 1);
                writeln!(out, "{pad}}}")
            }
            Stmt::Set(v, e) => writeln!(out, "{pad}v{}: {} = {}", v.0, func.vars[v.0 as usize], expr(e)),
            Stmt::Store(b, i, e) => writeln!(out, "{pad}b{}[{}] = {}", b.0, expr(i), expr(e)),
            Stmt::If(c, a, b) => {
                let _ = writeln!(out, "{pad}if {} {{", expr(c));
                body(out, func, a, depth + 1);
                if !b.is_empty() {
                    let _ = writeln!(out, "{pad}}} else {{");
                    body(out, func, b, depth + 1);
                }
                writeln!(out, "{pad}}}")
            }
            Stmt::While(c, inner) => {
                let _ = writeln!(out, "{pad}while {} {{", expr(c));
                body(out, func, inner, depth + 1);
                writeln!(out, "{pad}}}")
            }
            Stmt::Call(kernel, pointers, integers) => {
                let pointers: Vec<String> = pointers.iter().map(|(b, i)| format!("&b{}[{}]", b.0, expr(i))).collect();
                let integers: Vec<String> = integers.iter().map(expr).collect();
                writeln!(out, "{pad}call {kernel:?}({}; {})", pointers.join(", "), integers.join(", "))
            }
        };
    }
}

fn expr(e: &Expr) -> String {
    match e {
        Expr::Int(n) => n.to_string(),
        Expr::Const(t, bits) if t.is_float() => format!("{t} {:?}", f64::from_bits(*bits)),
        Expr::Const(t, bits) => format!("{t} {}", *bits as i64),
        Expr::Var(v) => format!("v{}", v.0),
        Expr::Load(b, i) => format!("b{}[{}]", b.0, expr(i)),
        Expr::Un(op, a) => format!("{}({})", op.name(), expr(a)),
        Expr::Bin(op, a, b) => format!("{}({}, {})", op.name(), expr(a), expr(b)),
        Expr::Fma(a, b, c) => format!("fma({}, {}, {})", expr(a), expr(b), expr(c)),
        Expr::Select(c, a, b) => format!("select({}, {}, {})", expr(c), expr(a), expr(b)),
        Expr::Cast(t, a) => format!("{t}({})", expr(a)),
    }
}
