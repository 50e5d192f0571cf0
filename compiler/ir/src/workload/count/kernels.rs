//! What calls of microkernels count for.

use std::collections::BTreeSet;

use super::{Around, Walk, loops_of};
use crate::DType;
use crate::byte_table::Tabled;
use crate::float_sums;
use crate::kernel::{DepthwiseKernel, EpilogueOperand, Less, LookupKernel, TileKernel, rows_of_operand};
use crate::lir::{BufId, Expr};
use crate::math;
use crate::scalar::{BinOp, ScalarOp, ScalarProgram, UnOp};
use crate::workload::{Form, KernelWork, Ops};

impl Walk<'_> {
    pub(super) fn tile(&mut self, k: &TileKernel, pointers: &[(BufId, Expr)], ints: &[Expr], times: u64) {
        let mut nest = k.nest.clone();
        if let (true, Some(last)) = (k.open_k, nest.last_mut()) {
            last.0 = self.most(ints.first(), u64::from(last.0)).min(u64::from(last.0)) as u32;
        }
        let all = nest.iter().fold(1u64, |n, l| n.saturating_mul(u64::from(l.0)));
        let steps = if k.list { self.most(ints.first(), all).min(all) } else { all };
        let (rows, cols) = (u64::from(k.mr), u64::from(k.cols));
        let (integers, group) = (k.is_integer(), k.group());
        let product = 2 * rows * cols * steps * group;
        let mut ops =
            if integers { Ops { dots: product, ..Ops::default() } } else { Ops { products: product, ..Ops::default() } };
        ops.add(program(&k.epilogue), rows * cols);
        let types = match k.is_coded() {
            true => format!("{} by {}", k.a_dtype, k.b_dtype),
            false => format!("{}{}", k.a_dtype, k.short_name().replace('_', " ")),
        };
        self.call(format!("tile {types} {}x{}", k.mr, k.nr), ops, times);
        // Each run of the innermost loop has words of its own.
        let run = if k.list { steps } else { nest.last().map_or(1, |l| u64::from(l.0)) };
        let b_bytes = k.b_bytes(run).saturating_mul(steps / run.max(1));
        let inner = if k.list { steps.max(1) } else { nest.last().map_or(1, |l| u64::from(l.0).max(1)) };
        let mut part = KernelWork {
            form: match (group, k.short) {
                (1, _) => Form::Products,
                (2, _) => Form::WordDots,
                (_, 0) => Form::Dots,
                (_, steps) => Form::ShortDots(steps),
            },
            calls: times,
            rows,
            columns: u64::from(k.nr),
            written: cols,
            steps,
            inner,
            list: k.list,
            coded: k.is_coded().then_some(k.b_dtype),
            epilogue: epilogue_steps(&k.epilogue),
            again: Vec::new(),
        };
        if let [a, b, ..] = pointers {
            part.again = vec![self.again(&a.1, 4 * rows * steps, times), self.again(&b.1, b_bytes, times)];
        }
        self.work.parts.push(part);
        let mut args = pointers.iter().map(|(b, e)| (*b, e));
        let Some(((a, b), c)) = args.next().zip(args.next()).zip(args.next()) else { return };
        // Four bytes of A are one step: a float, or four integers. Those of a list are anywhere among the others.
        let mut dims = vec![(4, 1), (rows, k.a_row)];
        dims.extend(nest.iter().map(|l| (u64::from(l.0), l.1)));
        self.touch(a, &dims, false);
        self.touch(b, &[(b_bytes, 1)], false);
        let dims = [(cols * k.c_dtype.bytes(), 1), (rows, k.c_row)];
        if k.accumulate {
            self.touch(c, &dims, false);
        }
        self.touch(c, &dims, true);
        if let (true, Some(bias)) = (k.bias, args.next()) {
            self.touch(bias, &[(4 * cols, 1)], false);
        }
        self.operands(&k.operands, args.by_ref(), rows, cols);
        args.by_ref().take(usize::from(k.ahead > 0)).for_each(drop);
        if let (true, Some(table)) = (k.has_table(), args.next()) {
            self.touch(table, &[(16, 1)], false);
        }
        if let (true, Some(list)) = (k.list, args.next()) {
            self.touch(list, &[(4 * steps, 1)], false);
        }
        let Some((less, kept)) = k.less.zip(args.next()) else { return };
        let apart = |bytes: i64| (b.0, b.1.clone().add(Expr::Int(bytes / 4)));
        let (buf, at) = if let Less::Apart(bytes) = less { apart(bytes) } else { (kept.0, kept.1.clone()) };
        self.touch((buf, &at), &[(b_bytes, 1)], false);
        self.touch(kept, &[(b_bytes, 1)], true);
    }

    pub(super) fn depthwise(&mut self, k: &DepthwiseKernel, pointers: &[(BufId, Expr)], ints: &[Expr], times: u64) {
        let (row, channels) =
            (if k.outputs > 0 { u64::from(k.outputs) } else { self.most(ints.first(), 1) }, u64::from(k.channels));
        let (rows, n) = (u64::from(k.rows.count), u64::from(k.rows.count) * row);
        let product = 2 * (k.taps.len() as u64) * n * channels;
        let float = k.x_dtype == DType::F32;
        let mut ops = if float { Ops { products: product, ..Ops::default() } } else { Ops { dots: product, ..Ops::default() } };
        ops.add(program(&k.epilogue), n * channels);
        self.call(format!("depthwise {} {}x{}", k.x_dtype, k.taps.len(), k.channels), ops, times);
        let taps = k.taps.len() as u64;
        // Some rows of a column are one operand.
        let steps = match u64::from(k.columns) {
            0 => taps,
            columns => columns * (taps / columns).div_ceil(rows_of_operand(k.words) as u64),
        };
        self.work.parts.push(KernelWork {
            form: match (float, k.columns) {
                (true, _) => Form::Depthwise,
                (false, 0) => Form::DepthwiseBytes,
                _ => Form::DepthwiseColumns,
            },
            calls: times,
            rows: n,
            columns: channels,
            written: channels,
            steps,
            inner: n.max(1),
            list: false,
            coded: None,
            epilogue: epilogue_steps(&k.epilogue),
            again: Vec::new(),
        });
        let mut args = pointers.iter().map(|(b, e)| (*b, e));
        let Some(((x, w), y)) = args.next().zip(args.next()).zip(args.next()) else { return };
        let pixel = (channels * k.x_dtype.bytes(), 1);
        for tap in &k.taps {
            let at = x.1.clone().add(Expr::Int(tap / k.x_dtype.bytes() as i64));
            self.touch((x.0, &at), &[pixel, (row, k.x_step), (rows, k.rows.x)], false);
        }
        match u64::from(k.columns) {
            0 => self.touch(w, &[(4 * channels, 1), (k.taps.len() as u64, k.w_step)], false),
            _ => self.touch(w, &[(4 * channels * steps, 1)], false),
        }
        self.touch(y, &[(channels * k.y_dtype.bytes(), 1), (row, k.y_step), (rows, k.rows.y)], true);
        if let (true, Some(bias)) = (k.bias, args.next()) {
            self.touch(bias, &[(4 * channels, 1)], false);
        }
        for ((operand, step), arg) in k.operands.iter().zip(&k.rows.operands).zip(args) {
            let bytes = operand.dtype.bytes() * if operand.per_column { channels } else { 1 };
            self.touch(arg, &[(bytes, 1), (row, operand.row), (rows, *step)], false);
        }
    }

    pub(super) fn lookup(&mut self, k: &LookupKernel, pointers: &[(BufId, Expr)], times: u64) {
        let bytes = u64::from(k.bytes);
        self.call("lookup".to_string(), Ops::default(), times);
        self.work.parts.push(KernelWork {
            form: Form::Lookups,
            calls: times,
            rows: 1,
            columns: bytes,
            written: bytes,
            steps: 1,
            inner: 1,
            list: false,
            coded: None,
            epilogue: (0, 0),
            again: Vec::new(),
        });
        for ((n, bytes), (buf, at)) in [bytes, 256, bytes].into_iter().enumerate().zip(pointers) {
            self.touch((*buf, at), &[(bytes, 1)], n == 2);
        }
    }

    /// Bytes of an operand that a kernel reads again, and how many it reads between: `bytes` in each of its calls, beginning at `index`.
    fn again(&self, index: &Expr, bytes: u64, times: u64) -> (u64, u64) {
        let mut on = BTreeSet::new();
        loops_of(index, &self.origin, &mut on);
        let depends = |a: &&Around| on.contains(&a.var);
        let product = |n: u64, a: &Around| n.saturating_mul(a.rounds.max(1));
        let once = self.around.iter().filter(depends).fold(bytes, product);
        let inner = self.around.iter().rev().filter(|a| a.rounds > 1);
        let between = inner.take_while(|a| on.contains(&a.var)).fold(bytes, product);
        (times.saturating_mul(bytes).saturating_sub(once), between)
    }

    fn operands<'e>(&mut self, list: &[EpilogueOperand], args: impl Iterator<Item = (BufId, &'e Expr)>, rows: u64, cols: u64) {
        for (operand, arg) in list.iter().zip(args) {
            let bytes = operand.dtype.bytes() * if operand.per_column { cols } else { 1 };
            self.touch(arg, &[(bytes, 1), (rows, operand.row)], false);
        }
    }

    fn call(&mut self, name: String, ops: Ops, times: u64) {
        self.work.ops.add(ops, times);
        let calls = self.work.kernels.entry(name).or_default();
        calls.calls = calls.calls.saturating_add(times);
        calls.ops = calls.ops.saturating_add(ops.all().saturating_mul(times));
    }
}

/// Instructions of an epilogue on one vector: operations, conversions, loads of operands. Then the same where bytes are looked up in tables.
fn epilogue_steps(p: &ScalarProgram) -> (u64, u64) {
    let step = |op: &ScalarOp| !matches!(op, ScalarOp::Arg(0) | ScalarOp::Const(_) | ScalarOp::Un(UnOp::Bitcast, _));
    let is_byte = |p: &ScalarProgram| p.dtype(p.result()).bytes() == 1 && p.dtype(p.result()).is_int();
    let steps = |p: &ScalarProgram| {
        let p = math::expand(p);
        let end = if is_byte(&p) { quantisation(&p) } else { p.nodes.len() };
        let packed = if end < p.nodes.len() { PACK } else { 0 };
        let divided = match p.nodes[end - 1].op {
            ScalarOp::Bin(BinOp::Div, _, by) if packed > 0 && matches!(p.nodes[by as usize].op, ScalarOp::Const(_)) => DIVIDED,
            _ => 0,
        };
        // What scaling takes off floats is loaded beside other things.
        let offsets = p.nodes.iter().filter(|n| float_sums::scale_of(&p, **n).is_some()).count() as u64;
        p.nodes[..end].iter().filter(|n| step(&n.op)).count() as u64 + packed + divided - offsets
    };
    (steps(p), Tabled::of(p).map_or_else(|| steps(p), |t| steps(&t.front) + LOOKUP))
}

/// The node behind which a program only bounds, rounds, moves and narrows: conversions and packs do most of that.
fn quantisation(p: &ScalarProgram) -> usize {
    let constant = |n: u16| matches!(p.nodes[n as usize].op, ScalarOp::Const(_));
    let mut n = p.result();
    loop {
        n = match p.nodes[n as usize].op {
            ScalarOp::Cast(a) if p.dtype(a) == DType::I32 || p.nodes[n as usize].dtype == DType::I32 => a,
            ScalarOp::Un(UnOp::Round, a) => a,
            ScalarOp::Bin(BinOp::Min | BinOp::Max | BinOp::Add, a, b) if constant(b) => a,
            ScalarOp::Bin(BinOp::Min | BinOp::Max | BinOp::Add, a, b) if constant(a) => b,
            _ => return n as usize + 1,
        };
    }
}

/// Instructions that make bytes of scaled sums, for one vector: a conversion, and a part of packs and stores.
const PACK: u64 = 3;

/// Instructions of a quotient by a constant beside one: it is a product of two parts, of a number that is bounded before.
const DIVIDED: u64 = 3;

/// Instructions of a look-up for one vector: seven for four vectors.
const LOOKUP: u64 = 2;

/// Operations of a program for one element.
pub(super) fn program(p: &ScalarProgram) -> Ops {
    let mut ops = Ops::default();
    for node in &math::expand(p).nodes {
        let n = match node.op {
            ScalarOp::Arg(_) | ScalarOp::Const(_) | ScalarOp::Select(..) | ScalarOp::Cast(_) | ScalarOp::Un(UnOp::Bitcast, _) => {
                0
            }
            ScalarOp::Un(..) | ScalarOp::Bin(..) => 1,
            ScalarOp::Fma(..) => 2,
        };
        *(if node.dtype.is_float() { &mut ops.floats } else { &mut ops.ints }) += n;
    }
    ops
}
