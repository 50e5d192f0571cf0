//! A function cut into segments: serial parts, and top-level parallel loops that become tasks.
//!
//! Variables that live from one segment into another travel through slots of the context. With one thread there is one segment.

use std::collections::BTreeSet;
use std::ops::Range;

use onnxc_ir::kernel::Kernel;
use onnxc_ir::lir::{Expr, Func, LoopKind, Stmt, Var};

/// Work (roughly: scalar operations) below which splitting a loop costs more than it gains, whatever the target is: the pass `threads` knows more.
const LEAST: u64 = 4_000;
/// The same for a loop whose rounds come with the call.
const LEAST_OPEN: u64 = 16_000;
/// Work that a task should have at least.
const TASK_WORK: u64 = 4_000;

/// How the iterations of a parallel loop become tasks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Split {
    /// How many iterations there are.
    pub trips: Trips,
    /// The most tasks.
    pub tasks: u64,
}

/// Iterations of a parallel loop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trips {
    /// So many.
    Fixed(u64),
    /// As many as lie between a number and a variable, which an earlier segment saves; with fewer than `least` the loop is not worth splitting.
    Open { lo: i64, hi: Var, step: i64, least: u64 },
}

/// A part of a function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Segment {
    /// Statements of the function's body.
    pub stmts: Range<usize>,
    /// A parallel loop, and how it is split.
    pub parallel: Option<Split>,
    /// Variables that come from earlier segments, with their slots.
    pub loads: Vec<(Var, u32)>,
    /// Variables that later segments need, with their slots.
    pub saves: Vec<(Var, u32)>,
}

/// The segments of a function for an artefact of at most `threads` threads, and the number of variable slots they need.
pub(crate) fn split(func: &Func, threads: u32) -> (Vec<Segment>, u32) {
    let mut out: Vec<Segment> = Vec::new();
    let mut start = 0;
    for (i, stmt) in func.body.iter().enumerate() {
        if let Some(parallel) = tasks(stmt, threads) {
            push(&mut out, start..i, None);
            push(&mut out, i..i + 1, Some(parallel));
            start = i + 1;
        }
    }
    push(&mut out, start..func.body.len(), None);
    let slots = share(func, &mut out);
    (out, slots)
}

fn push(out: &mut Vec<Segment>, stmts: Range<usize>, parallel: Option<Split>) {
    if !stmts.is_empty() {
        out.push(Segment { stmts, parallel, loads: vec![], saves: vec![] });
    }
}

/// How a statement is split, when it is worth it.
fn tasks(stmt: &Stmt, threads: u32) -> Option<Split> {
    let Stmt::For { lo: Expr::Int(lo), hi, step, kind: LoopKind::Parallel, body, .. } = stmt else { return None };
    if threads < 2 {
        return None;
    }
    let most = 4 * u64::from(threads);
    let once = block_work(body).max(1);
    match hi {
        Expr::Int(hi) => {
            let trip = trip_count(*lo, *hi, *step);
            let work = once.saturating_mul(trip);
            let tasks = trip.min(most).min((work / TASK_WORK).max(2));
            (trip >= 2 && work >= LEAST).then_some(Split { trips: Trips::Fixed(trip), tasks })
        }
        Expr::Var(hi) => {
            let trips = Trips::Open { lo: *lo, hi: *hi, step: *step, least: LEAST_OPEN.div_ceil(once).max(2) };
            Some(Split { trips, tasks: most })
        }
        _ => None,
    }
}

/// Iterations of a counted loop.
pub(crate) fn trip_count(lo: i64, hi: i64, step: i64) -> u64 {
    if hi <= lo { 0 } else { hi.abs_diff(lo).div_ceil(step.max(1) as u64) }
}

fn block_work(block: &[Stmt]) -> u64 {
    block.iter().map(work).fold(0, u64::saturating_add)
}

/// Rough scalar operations of a statement; loops with unknown bounds count as 8 iterations.
fn work(stmt: &Stmt) -> u64 {
    match stmt {
        Stmt::For { lo, hi, step, kind, body, .. } => {
            let trip = match (lo, hi) {
                (Expr::Int(lo), Expr::Int(hi)) => trip_count(*lo, *hi, *step),
                _ => 8,
            };
            let whole = trip.saturating_mul(block_work(body).max(1));
            if *kind == LoopKind::Vector { whole / 4 } else { whole }
        }
        Stmt::Set(_, e) => expr_work(e),
        Stmt::Store(_, index, e) => 1 + expr_work(index) + expr_work(e),
        Stmt::If(c, a, b) => expr_work(c) + block_work(a).max(block_work(b)),
        Stmt::While(c, body) => 8u64.saturating_mul(expr_work(c) + block_work(body)),
        Stmt::Call(Kernel::Tile(k), ..) => {
            let steps: u64 = k.nest.iter().map(|(n, _)| u64::from(*n)).product();
            20 + steps * u64::from(k.mr) * u64::from(k.nr) / 16
        }
        Stmt::Call(Kernel::Lookup(k), ..) => 20 + u64::from(k.bytes) / 8,
        Stmt::Call(Kernel::Fetch(k), ..) => k.nest.iter().map(|(n, _)| u64::from(*n)).product(),
        Stmt::Call(Kernel::Depthwise(k), _, ints) => {
            let outputs = match ints[..] {
                [Expr::Int(n)] => n.unsigned_abs(),
                [] => u64::from(k.outputs) * u64::from(k.rows.count),
                _ => 10,
            };
            20 + outputs * k.taps.len() as u64 * u64::from(k.channels) / 8
        }
    }
}

fn expr_work(e: &Expr) -> u64 {
    let mut n = 0;
    visit(e, &mut |_| n += 1);
    n
}

/// Calls `f` on an expression and all its operands.
pub(crate) fn visit(e: &Expr, f: &mut impl FnMut(&Expr)) {
    f(e);
    match e {
        Expr::Int(_) | Expr::Const(..) | Expr::Var(_) => {}
        Expr::Load(_, a) | Expr::Un(_, a) | Expr::Cast(_, a) => visit(a, f),
        Expr::Bin(_, a, b) => {
            visit(a, f);
            visit(b, f);
        }
        Expr::Fma(a, b, c) | Expr::Select(a, b, c) => {
            visit(a, f);
            visit(b, f);
            visit(c, f);
        }
    }
}

/// Calls `on_expr` on every top expression of a block and `on_def` on every variable that it assigns.
pub(crate) fn walk(block: &[Stmt], on_expr: &mut dyn FnMut(&Expr), on_def: &mut dyn FnMut(Var)) {
    for stmt in block {
        match stmt {
            Stmt::For { var, lo, hi, body, .. } => {
                on_expr(lo);
                on_expr(hi);
                on_def(*var);
                walk(body, on_expr, on_def);
            }
            Stmt::Set(v, e) => {
                on_expr(e);
                on_def(*v);
            }
            Stmt::Store(_, i, e) => {
                on_expr(i);
                on_expr(e);
            }
            Stmt::If(c, a, b) => {
                on_expr(c);
                walk(a, on_expr, on_def);
                walk(b, on_expr, on_def);
            }
            Stmt::While(c, body) => {
                on_expr(c);
                walk(body, on_expr, on_def);
            }
            Stmt::Call(_, ptrs, ints) => {
                ptrs.iter().for_each(|(_, e)| on_expr(e));
                ints.iter().for_each(&mut *on_expr);
            }
        }
    }
}

/// Gives slots to the variables that one segment assigns and a later one reads.
fn share(func: &Func, segments: &mut [Segment]) -> u32 {
    let mut facts = Vec::new();
    for segment in segments.iter() {
        let (mut uses, mut defs) = (BTreeSet::new(), BTreeSet::new());
        let mut on_expr = |e: &Expr| {
            visit(e, &mut |e| {
                if let Expr::Var(v) = e {
                    uses.insert(*v);
                }
            });
        };
        walk(&func.body[segment.stmts.clone()], &mut on_expr, &mut |v| {
            defs.insert(v);
        });
        facts.push((uses, defs));
    }
    let mut slots: Vec<Var> = Vec::new();
    for i in 0..segments.len() {
        // A segment that assigns a variable may do so on one path only, so it starts from the old value too.
        for v in facts[i].0.union(&facts[i].1).copied().collect::<Vec<Var>>() {
            let defined_before = (0..i).any(|j| segments[j].parallel.is_none() && facts[j].1.contains(&v));
            if !defined_before {
                continue;
            }
            let is_read = (i..segments.len()).any(|j| facts[j].0.contains(&v));
            if !is_read {
                continue;
            }
            let slot = slots.iter().position(|s| *s == v).unwrap_or_else(|| {
                slots.push(v);
                slots.len() - 1
            }) as u32;
            segments[i].loads.push((v, slot));
            for j in 0..i {
                if segments[j].parallel.is_none() && facts[j].1.contains(&v) && !segments[j].saves.contains(&(v, slot)) {
                    segments[j].saves.push((v, slot));
                }
            }
        }
    }
    slots.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::DType;
    use onnxc_ir::lir::BufKind;

    #[test]
    fn parallel_loops_become_tasks_and_variables_travel() {
        let mut f = Func::default();
        let y = f.buf(DType::F32, BufKind::Output(0));
        let (scale, i, j) = (f.var(DType::F32), f.var(DType::I64), f.var(DType::I64));
        let inner = Stmt::For {
            var: j,
            lo: Expr::Int(0),
            hi: Expr::Int(10_000),
            step: 1,
            kind: LoopKind::Serial,
            body: vec![Stmt::Store(y, Expr::Var(j), Expr::Var(scale))],
        };
        f.body.push(Stmt::Set(scale, Expr::f32(2.0)));
        f.body.push(Stmt::For {
            var: i,
            lo: Expr::Int(0),
            hi: Expr::Int(100),
            step: 1,
            kind: LoopKind::Parallel,
            body: vec![inner],
        });
        let (segments, slots) = split(&f, 2);
        assert_eq!(slots, 1);
        assert_eq!(segments[0], Segment { stmts: 0..1, parallel: None, loads: vec![], saves: vec![(scale, 0)] });
        assert_eq!(
            segments[1],
            Segment {
                stmts: 1..2,
                parallel: Some(Split { trips: Trips::Fixed(100), tasks: 8 }),
                loads: vec![(scale, 0)],
                saves: vec![]
            }
        );
        assert_eq!(split(&f, 1).0.len(), 1);
    }
}
