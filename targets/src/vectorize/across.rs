//! Nests of two loops as one function: those in which an operand lies across the result, of which blocks are loaded along the outer loop, transposed in
//! registers and stored along the inner one, and those whose inner loop is short, for which a call would take longer than what it does.

use std::collections::BTreeMap;

use onnxc_ir::DType;
use onnxc_ir::lir::{Expr, Func, LoopKind, Stmt};

use super::analysis::{Analysis, Env};
use super::index::Linear;
use super::{Access, Body, Item, Plan, Pointer, Source};
use crate::cpu::Target;
use crate::emitter::{Emitter, Lanes, Mem, P, V};
use crate::error::Error;
use crate::kernels::{KernelCode, with_emitter};
use crate::program::{Eval, Val, lane_type, load_operand};

/// A nest after analysis.
pub(super) struct Nest {
    /// The body, in which the outer loop counts as an inner one: pointers advance by one step per row.
    pub plan: Plan,
    /// The operand that lies across, if there is one.
    across: Option<Access>,
    /// Iterations of the outer loop, when they are constant.
    rows: Option<u64>,
    /// Iterations of the inner loop.
    columns: u64,
}

/// Inner loops of more vectors are worth a call.
const SHORT: u64 = 8;
/// Rows at a time when nothing lies across.
const ROWS: u32 = 4;

/// The nest, when its inner loop does nothing but store along itself, and one operand is dense along the outer loop instead or the inner loop is of at
/// most [`SHORT`] vectors of `lanes`.
pub(super) fn analyse(func: &Func, stmt: &Stmt, lanes: u32) -> Option<Nest> {
    let Stmt::For { var: outer, lo: first, hi: bound, step: 1, kind: _, body } = stmt else { return None };
    let [Stmt::For { var, lo: Expr::Int(lo), hi: Expr::Int(hi), step: 1, kind: LoopKind::Vector, body }] = &body[..] else {
        return None;
    };
    let columns = u64::try_from(hi - lo).ok().filter(|n| *n > 1)?;
    let mut a = Analysis::new(func, *var, Expr::Int(*lo), 1, body);
    a.assigned.insert(*outer);
    a.depth = 1;
    let mut env = Env::default();
    env.indices.insert(*outer, Linear { inner: vec![1], rest: Expr::Var(*outer), ..Linear::constant(0) });
    let mut out = Body::default();
    a.block(body, &mut env, &mut out)?;
    let plan = a.finish(out);
    let mut across: Option<&Access> = None;
    for source in &plan.body.args {
        let Source::Load { at, .. } = source else { continue };
        if plan.body.items.iter().any(|i| matches!(i, Item::Store { at: to, .. } if to.buf == at.buf)) {
            return None;
        }
        if at.strided() {
            let dense = at.pointer.1 == [at.dtype.bytes() as i64];
            if !dense || across.is_some_and(|known| known != at) {
                return None;
            }
            across = Some(at);
        }
    }
    if !plan.body.items.iter().all(|i| matches!(i, Item::Store { at, .. } if at.neighbours())) {
        return None;
    }
    let rows = match (first, bound) {
        (Expr::Int(first), Expr::Int(bound)) => Some(u64::try_from(bound - first).ok()?),
        _ => None,
    };
    let short = columns <= SHORT * u64::from(lanes);
    let across = across.cloned();
    (across.is_some() || short).then_some(Nest { across, rows, columns, plan })
}

/// The code of the nest.
pub(super) fn emit(target: &Target, nest: &Nest) -> Result<KernelCode, Error> {
    with_emitter(target, 1, |e, _| {
        if let Some(t) = nest.plan.memory.iter().find(|t| !e.memory(t.0)) {
            return Err(Error::Unsupported(format!("vectors of {}", t.0)));
        }
        let block = e.arg(0)?;
        let mut pointers = BTreeMap::new();
        for access in nest.accesses() {
            if !pointers.contains_key(&access.pointer) {
                let p = e.load_ptr(Mem { base: block, disp: i64::from(access.pointer.0) })?;
                pointers.insert(access.pointer.clone(), p);
            }
        }
        let count = e.load_ptr(Mem { base: block, disp: 0 })?;
        let most = if nest.across.is_some() { u64::from(e.lanes()) } else { u64::from(ROWS) };
        // Tasks get any number of rows; the remainder of all rows is only the likely one.
        let mut sizes = vec![most, nest.rows.map_or(1, |n| n % most), 1];
        sizes.retain(|n| *n > 0);
        sizes.dedup();
        for rows in sizes {
            let open = e.while_at_least(count, rows as u32)?;
            Rows { nest, block, rows: rows as u32 }.emit(e, &pointers)?;
            for (pointer, p) in &pointers {
                e.advance(*p, rows as i64 * pointer.1[0])?;
            }
            e.end(open)?;
        }
        Ok(())
    })
}

impl Nest {
    fn accesses(&self) -> impl Iterator<Item = &Access> {
        let loads = self.plan.body.args.iter().filter_map(|s| if let Source::Load { at, .. } = s { Some(at) } else { None });
        let stores = self.plan.body.items.iter().filter_map(|i| if let Item::Store { at, .. } = i { Some(at) } else { None });
        loads.chain(stores)
    }
}

/// Some rows of the nest.
struct Rows<'n> {
    nest: &'n Nest,
    block: P,
    rows: u32,
}

impl Rows<'_> {
    fn emit(&self, e: &mut dyn Emitter, start: &BTreeMap<Pointer, P>) -> Result<(), Error> {
        let lanes = u64::from(e.lanes());
        let mut pointers = BTreeMap::new();
        for (pointer, p) in start {
            pointers.insert(pointer.clone(), e.copy_ptr(*p)?);
        }
        if self.nest.columns >= lanes {
            let open = e.repeat(self.nest.columns / lanes)?;
            self.block(e, &pointers, lanes as u32)?;
            for (slot, stride) in &self.nest.plan.pointers {
                for (_, p) in pointers.iter().filter(|(key, _)| key.0 == *slot) {
                    e.advance(*p, lanes as i64 * stride)?;
                }
            }
            e.end(open)?;
        }
        let rest = self.nest.columns % lanes;
        if rest > 0 {
            self.block(e, &pointers, rest as u32)?;
        }
        pointers.into_values().for_each(|p| e.free_ptr(p));
        Ok(())
    }

    /// One block: what lies across as `columns` vectors along the rows, transposed; worked on, stored as rows.
    fn block(&self, e: &mut dyn Emitter, pointers: &BTreeMap<Pointer, P>, columns: u32) -> Result<(), Error> {
        let lanes = e.lanes();
        let of = |n: u32| if n == lanes { Lanes::All } else { Lanes::First(n) };
        let Some(across) = &self.nest.across else {
            return (0..self.rows).try_for_each(|row| self.row(e, pointers, row, None, of(columns)));
        };
        let mut registers = vec![None; lanes as usize];
        for (c, register) in registers.iter_mut().enumerate().take(columns as usize) {
            let v = e.alloc(lane_type(across.dtype)?)?;
            let at = Mem { base: pointers[&across.pointer], disp: across.disp + c as i64 * across.stride };
            e.load(v, across.dtype, at, of(self.rows))?;
            *register = Some(v);
        }
        transpose(e, across.dtype, &mut registers, self.rows)?;
        for row in 0..self.rows {
            let value = registers[position(row)].expect("internal: targets: a row of the block");
            self.row(e, pointers, row, Some(value), of(columns))?;
            e.free(value);
        }
        Ok(())
    }

    fn row(
        &self,
        e: &mut dyn Emitter,
        pointers: &BTreeMap<Pointer, P>,
        row: u32,
        across: Option<V>,
        lanes: Lanes,
    ) -> Result<(), Error> {
        let body = &self.nest.plan.body;
        let place = |a: &Access| Mem { base: pointers[&a.pointer], disp: a.disp + i64::from(row) * a.pointer.1[0] };
        let stores: Vec<_> = body
            .items
            .iter()
            .filter_map(|i| if let Item::Store { at, node, .. } = i { Some((at, *node)) } else { None })
            .collect();
        let roots: Vec<_> = stores.iter().map(|s| s.1).collect();
        let mut eval = Eval::new(&body.program, &roots, e.has_lesser());
        for (to, node) in stores {
            let (v, own) = eval.take_reg(e, node, &mut |e, a, _| match (&body.args[a as usize], across) {
                (Source::Load { at, .. }, Some(v)) if Some(at) == self.nest.across.as_ref() => Ok(Val::Lent(v)),
                (Source::Load { at, .. }, _) => load_operand(e, at.dtype, place(at), at.stride != 0, lanes),
                (Source::Scalar { offset, dtype }, _) => {
                    load_operand(e, *dtype, Mem { base: self.block, disp: i64::from(*offset) }, false, Lanes::All)
                }
                (Source::Cell(_), _) => Err(Error::Internal("a cell outside a loop".to_string())),
            })?;
            e.store(v, to.dtype, place(to), lanes)?;
            if own {
                e.free(v);
            }
        }
        Ok(())
    }
}

/// Where row `r` is after `transpose`.
fn position(r: u32) -> usize {
    (r & !3 | (r & 1) << 1 | (r & 2) >> 1) as usize
}

/// Transposes a square of registers in place, of which those missing do not matter and only the first `rows` results are wanted. Row r of the result
/// is at `position(r)`. Stage by stage units of 1, 2, 4, ... lanes of two registers are interleaved (Eklundh, "A Fast Computer Method for Matrix
/// Transposing", 1972, with the shuffles that machines have).
fn transpose(e: &mut dyn Emitter, dtype: DType, registers: &mut [Option<V>], rows: u32) -> Result<(), Error> {
    let n = registers.len();
    let ty = lane_type(dtype)?;
    let stages: Vec<usize> = std::iter::successors(Some(1), |h| Some(2 * h)).take_while(|h| *h < n).collect();
    let mut wanted = vec![vec![false; n]];
    (0..rows).for_each(|r| wanted[0][position(r)] = true);
    for h in stages.iter().rev() {
        let after = &wanted[wanted.len() - 1];
        let before = (0..n).map(|i| after[i] || after[i ^ h]).collect();
        wanted.push(before);
    }
    for (h, wanted) in stages.iter().zip(wanted.iter().rev().skip(1)) {
        for i in (0..n).filter(|i| i & h == 0) {
            let (a, b) = match (registers[i], registers[i + h]) {
                (None, None) => continue,
                (Some(a), b) => (a, b),
                (None, Some(b)) => (b, None),
            };
            let other = b.unwrap_or(a);
            let (low, high) = (wanted[i], wanted[i + h]);
            registers[i] = None;
            registers[i + h] = None;
            if high {
                let d = if low { e.alloc(ty)? } else { a };
                e.interleave(ty, d, a, other, *h as u32, true)?;
                registers[i + h] = Some(d);
            }
            if low {
                e.interleave(ty, a, a, other, *h as u32, false)?;
                registers[i] = Some(a);
            }
            if !low && !high {
                e.free(a);
            }
            b.into_iter().for_each(|b| e.free(b));
        }
    }
    Ok(())
}
