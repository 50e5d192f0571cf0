//! The code of one operator within that of another: its own lowering, on arguments that the outer one chooses.

use super::{Arg, Halo, LowerCx};
use crate::graph::Attrs;
use crate::lir::{Buf, BufId, BufKind, Expr, Stmt};
use crate::op::{OpError, OpResult};
use crate::scalar::BinOp;

/// What a nested operator works on.
pub struct Part<'p> {
    /// Its attributes.
    pub attrs: &'p Attrs,
    /// Its operands.
    pub inputs: Vec<Option<Arg>>,
    /// See [`LowerCx::halos`].
    pub halos: Vec<Halo>,
    /// Its results.
    pub outputs: Vec<Arg>,
}

impl LowerCx<'_> {
    /// Appends the code that `lower` makes for a part. Every index in one of the buffers of `moved`, also as elements of another type, goes up by what stands
    /// beside it; scratch memory of the part is one for each worker if `per_worker`.
    pub fn nested(
        &mut self,
        part: Part,
        moved: &[(BufId, Expr)],
        per_worker: bool,
        lower: impl FnOnce(&mut LowerCx) -> OpResult<()>,
    ) -> OpResult<()> {
        let first = self.func.bufs.len();
        let in_place = vec![false; part.inputs.len()];
        let mut inner = LowerCx {
            attrs: part.attrs,
            inputs: part.inputs,
            halos: part.halos,
            in_place,
            outputs: part.outputs,
            target: self.target,
            func: std::mem::take(&mut self.func),
            // Two blocks are open: what the part emits is not at the top level.
            blocks: vec![Vec::new(), Vec::new()],
            sizes: self.sizes,
            table: self.table,
            known: self.known.clone(),
        };
        let result = lower(&mut inner);
        let mut stmts: Vec<Stmt> = inner.blocks.drain(..).flatten().collect();
        self.table = inner.table;
        self.func = inner.func;
        for buf in &mut self.func.bufs[first..] {
            if let BufKind::Scratch { per_worker: own, .. } = &mut buf.kind {
                *own |= per_worker;
            }
        }
        result?;
        let mut moved = moved.to_vec();
        for n in first..self.func.bufs.len() {
            moved.extend(with_another_type(&self.func.bufs, n, &moved)?);
        }
        move_block(&mut stmts, &moved);
        stmts.into_iter().for_each(|s| self.push(s));
        Ok(())
    }
}

/// How far buffer `n` moves, if it is a moved one as elements of another type.
fn with_another_type(bufs: &[Buf], n: usize, moved: &[(BufId, Expr)]) -> OpResult<Option<(BufId, Expr)>> {
    let BufKind::Same(of) = bufs[n].kind else { return Ok(None) };
    let Some((_, by)) = moved.iter().find(|(buf, _)| *buf == of) else { return Ok(None) };
    let bytes = |n: usize| bufs[n].dtype.bytes() as i64;
    let (from, to) = (bytes(of.0 as usize), bytes(n));
    let within = || OpError::new("a part of an operand begins within one of its words".to_string());
    let by = if from % to == 0 { by.clone().times(from / to) } else { divided(by, to / from).ok_or_else(within)? };
    Ok(Some((BufId(n as u32), by)))
}

/// A sum of multiples of `by`, divided by it.
fn divided(e: &Expr, by: i64) -> Option<Expr> {
    match e {
        Expr::Int(n) => (n % by == 0).then_some(Expr::Int(n / by)),
        Expr::Bin(BinOp::Add, a, b) => Some(divided(a, by)?.add(divided(b, by)?)),
        Expr::Bin(BinOp::Mul, a, b) => match **b {
            Expr::Int(n) if n % by == 0 => Some(a.as_ref().clone().times(n / by)),
            _ => None,
        },
        _ => None,
    }
}

fn move_block(block: &mut [Stmt], moved: &[(BufId, Expr)]) {
    for stmt in block {
        match stmt {
            Stmt::For { lo, hi, body, .. } => {
                [lo, hi].into_iter().for_each(|e| move_loads(e, moved));
                move_block(body, moved);
            }
            Stmt::Set(_, e) => move_loads(e, moved),
            Stmt::Store(buf, index, e) => {
                [&mut *index, e].into_iter().for_each(|e| move_loads(e, moved));
                move_index(*buf, index, moved);
            }
            Stmt::If(c, a, b) => {
                move_loads(c, moved);
                [a, b].into_iter().for_each(|block| move_block(block, moved));
            }
            Stmt::While(c, body) => {
                move_loads(c, moved);
                move_block(body, moved);
            }
            Stmt::Call(_, pointers, ints) => {
                ints.iter_mut().for_each(|e| move_loads(e, moved));
                for (buf, index) in pointers {
                    move_loads(index, moved);
                    move_index(*buf, index, moved);
                }
            }
        }
    }
}

fn move_index(buf: BufId, index: &mut Expr, moved: &[(BufId, Expr)]) {
    for (_, by) in moved.iter().filter(|(b, _)| *b == buf) {
        *index = std::mem::replace(index, Expr::Int(0)).add(by.clone());
    }
}

fn move_loads(e: &mut Expr, moved: &[(BufId, Expr)]) {
    match e {
        Expr::Int(_) | Expr::Const(..) | Expr::Var(_) => {}
        Expr::Load(buf, index) => {
            move_loads(index, moved);
            move_index(*buf, index, moved);
        }
        Expr::Un(_, a) | Expr::Cast(_, a) => move_loads(a, moved),
        Expr::Bin(_, a, b) => [a, b].into_iter().for_each(|e| move_loads(e, moved)),
        Expr::Fma(a, b, c) | Expr::Select(a, b, c) => [a, b, c].into_iter().for_each(|e| move_loads(e, moved)),
    }
}
