//! Code of attention: for each block of queries of each matrix of the stack, its scores in scratch memory of the worker.
//!
//! Scores lie transposed, `[n][queries of a block]`, a block being one panel of the matmul tile: so the softmax runs along vectors of queries and sums
//! nothing across lanes, k and q are read in place but for the one panel of queries, and the second product reads its left operand as it lies. The
//! division by the sum of exponentials waits for the results, which are fewer. v is packed once for all blocks. With all keys at once there is no
//! need of the running maximum of Milakov and Gimelshein ("Online normalizer calculation for softmax", 2018) and Dao et al. ("FlashAttention", 2022);
//! memory grows with the length of a sequence and not with its square, as in Rabe and Staats ("Self-attention does not need O(n^2) memory", 2021).

use onnxc_ir::DType;
use onnxc_ir::kernel::Values;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpResult, View};
use onnxc_ir::scalar::{BinOp, ScalarProgram, UnOp};
use onnxc_ir::target::Factors;

use super::{OWN, program};
use crate::common::list::Packed;
use crate::common::nest::{self, ExprExt, split};
use crate::common::tile::{self, Operand};
use crate::matmul::product::{Product, Stack};

/// Keys that a round of the loops of the softmax takes: what one costs beside its arithmetic, and the latency of the maximum, are shared.
const ROUND: u64 = 4;

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let attention = Attention::of(cx);
    if attention.m > 0 && attention.e > 0 && !attention.outer.contains(&0) {
        attention.emit(cx)?;
    }
    Ok(())
}

/// The operands as stacks of matrices.
struct Attention {
    /// Extents of the stack.
    outer: Vec<u64>,
    m: u64,
    d: u64,
    n: u64,
    e: u64,
    q: Stack,
    k: Stack,
    v: Stack,
    y: Stack,
    program: ScalarProgram,
    operands: Vec<Stack>,
}

/// Scratch memory of a worker, and what all blocks share.
struct Room {
    /// Queries of a block: columns of a tile of scores.
    width: u64,
    /// Height of these tiles.
    height: u32,
    /// A panel of queries, `[d][width]`.
    queries: BufId,
    /// `[n][width]`.
    scores: BufId,
    /// The largest score of each query, then the reciprocal of the sum of its exponentials.
    row: BufId,
    /// The second product of one block, with its packed v and the steps of the stack in it.
    second: tile::Product,
    steps: Vec<i64>,
}

/// One block of queries of one matrix of the stack.
struct Block<'b> {
    outer: &'b [Expr],
    /// The first query.
    first: Expr,
    queries: u64,
}

impl Attention {
    fn of(cx: &LowerCx) -> Attention {
        let (q, k, v, y) = (cx.input(0), cx.input(1), cx.input(2), cx.output(0));
        let last = |arg: &Arg, back: usize| arg.view.shape[arg.view.shape.len() - back];
        let (m, d, n, e) = (last(&q, 2), last(&q, 1), last(&k, 1), last(&v, 1));
        let outer = y.view.shape[..y.view.shape.len() - 2].to_vec();
        let stack = |arg: &Arg, rows: u64, columns: u64| Stack::of(arg, &[&outer[..], &[rows, columns]].concat());
        let operands = cx.inputs.iter().skip(OWN).flatten().map(|o| stack(o, m, n)).collect();
        let (q, k, v, y) = (stack(&q, m, d), stack(&k, d, n), stack(&v, n, e), stack(&y, m, e));
        Attention { outer, m, d, n, e, q, k, v, y, program: program(cx.attrs), operands }
    }

    fn emit(&self, cx: &mut LowerCx) -> OpResult<()> {
        let room = self.room(cx)?;
        let blocks = self.m.div_ceil(room.width);
        let rest = self.m % room.width;
        let stack: u64 = self.outer.iter().product();
        // A thread that has the same queries of all matrices, as of the product before, finds them in its caches.
        let threads = u64::from(cx.target.max_threads.max(1));
        let parts = if blocks.is_multiple_of(threads) { threads } else { 1 };
        cx.for_(LoopKind::Parallel, stack * blocks, |cx, task| {
            let (mut at, mut block) = split(cx, task, blocks / parts);
            if parts > 1 {
                let (part, matrix) = split(cx, at, stack);
                (at, block) = (matrix, block.add(part.times((blocks / parts) as i64)));
            }
            let mut outer = vec![Expr::Int(0); self.outer.len()];
            for (i, n) in outer.iter_mut().zip(&self.outer).rev() {
                (at, *i) = split(cx, at, *n);
            }
            let block = Expr::Var(cx.let_(block));
            let first = block.clone().times(room.width as i64);
            let some =
                |cx: &mut LowerCx, queries: u64| self.block(cx, &room, &Block { outer: &outer, first: first.clone(), queries });
            if rest == 0 || blocks == 1 {
                return some(cx, room.width.min(self.m));
            }
            let is_last = Expr::bin(BinOp::Eq, block, Expr::Int(blocks as i64 - 1));
            cx.if_(is_last, |cx| some(cx, rest), |cx| some(cx, room.width));
        });
        Ok(())
    }

    fn room(&self, cx: &mut LowerCx) -> OpResult<Room> {
        let (height, width) = tile::choose(cx.target, Factors::Floats, self.n, self.m);
        let width = u64::from(width);
        let (queries, scores) = (cx.scratch(DType::F32, self.d * width, true), cx.scratch(DType::F32, self.n * width, true));
        let row = cx.scratch(DType::F32, width, true);
        let (mr, nr) = tile::choose(cx.target, Factors::Floats, width.min(self.m), self.e);
        let (Packed { buf: v, list, .. }, steps) = self.values().packed(cx, nr, None)?;
        // Results whose columns are no neighbours go through memory of the worker.
        let (c, c_row) = match self.y.col == 1 || self.e == 1 {
            true => ((self.y.arg.buf, DType::F32, 0), self.y.row),
            false => ((cx.scratch(DType::F32, width * self.e, true), DType::F32, 0), self.e as i64),
        };
        let mut share = ScalarProgram::default();
        let (sum, factor) = (share.arg(0, DType::F32), share.arg(1, DType::F32));
        share.bin(BinOp::Mul, sum, factor);
        let second = tile::Product {
            outer: Vec::new(),
            rows: Extent::from(width),
            cols: Extent::from(self.e),
            a: (scores, DType::F32, 0),
            a_row: 1,
            nest: vec![(self.n, width as i64)],
            open_k: None,
            b: (v, DType::F32, 0),
            short: 0,
            table: None,
            list,
            c,
            c_row,
            bias: None,
            epilogue: share,
            operands: vec![Operand { buf: row, dtype: DType::F32, start: 0, row: 1, per_column: false, values: Values::Any }],
            nr,
            mr,
        };
        Ok(Room { width, height, queries, scores, row, second, steps })
    }

    /// v as the right operand of a product, for its panels.
    fn values(&self) -> Product {
        let none = |s: &Stack| Stack { row: 0, col: 0, ..s.clone() };
        Product {
            outer: self.outer.iter().copied().map(Extent::from).collect(),
            m: Extent::from(self.m),
            k: Extent::from(self.n),
            n: Extent::from(self.e),
            a: none(&self.q),
            b: self.v.clone(),
            y: none(&self.y),
            bias: None,
            program: ScalarProgram::default(),
            operands: Vec::new(),
        }
    }

    fn block(&self, cx: &mut LowerCx, room: &Room, block: &Block) {
        self.pack_queries(cx, room, block);
        self.scores(cx, room, block);
        exponentials(cx, room, self.n, block.queries.next_multiple_of(u64::from(cx.target.lanes)));
        self.results(cx, room, block);
    }

    /// `queries[l][i] = q[first + i][l]`.
    fn pack_queries(&self, cx: &mut LowerCx, room: &Room, block: &Block) {
        let along_d = self.q.col.unsigned_abs() < self.q.row.unsigned_abs();
        let (outer, inner) = if along_d { (block.queries, self.d) } else { (self.d, block.queries) };
        cx.for_(LoopKind::Serial, outer, |cx, a| {
            cx.for_(LoopKind::Vector, inner, |cx, b| {
                let (i, l) = if along_d { (a, b) } else { (b, a) };
                let value = nest::at(self.q.arg.buf, self.q.index(block.outer, &block.first.clone().add(i.clone()), &l));
                cx.push(Stmt::Store(room.queries, l.times(room.width as i64).add(i), value));
            });
        });
    }

    /// Can the tile apply the program? Its operands are then neighbours along queries, or the same for all of them.
    fn in_tile(&self) -> bool {
        self.operands.iter().all(|o| matches!(o.row, 0 | 1))
    }

    fn scores(&self, cx: &mut LowerCx, room: &Room, block: &Block) {
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::F32);
        let (epilogue, operands) = if self.in_tile() { (self.program.clone(), &self.operands[..]) } else { (identity, &[][..]) };
        let operand = |o: &Stack| {
            let values = tile::values(cx, &o.arg);
            Operand { buf: o.arg.buf, dtype: o.arg.dtype, start: 0, row: o.col, per_column: o.row == 1, values }
        };
        let product = tile::Product {
            outer: Vec::new(),
            rows: Extent::from(self.n),
            cols: Extent::from(block.queries),
            a: (self.k.arg.buf, DType::F32, 0),
            a_row: self.k.col,
            nest: vec![(self.d, self.k.row)],
            open_k: None,
            b: (room.queries, DType::F32, 0),
            short: 0,
            table: None,
            list: None,
            c: (room.scores, DType::F32, 0),
            c_row: room.width as i64,
            bias: None,
            epilogue,
            operands: operands.iter().map(operand).collect(),
            nr: room.width as u32,
            mr: room.height,
        };
        let zero = Expr::Int(0);
        let operands = operands.iter().map(|o| o.index(block.outer, &block.first, &zero)).collect();
        let k = self.k.index(block.outer, &zero, &zero);
        tile::emit_at(cx, &product, (k, zero.clone(), zero), operands);
        if !self.in_tile() {
            self.apply_program(cx, room, block);
        }
    }

    /// The program over the products in scratch memory.
    fn apply_program(&self, cx: &mut LowerCx, room: &Room, block: &Block) {
        let shape = [self.n, block.queries];
        let view = View { shape: shape.to_vec(), open: Vec::new(), strides: vec![room.width as i64, 1], offset: 0 };
        let scores = Arg { buf: room.scores, dtype: DType::F32, view, constant: None };
        cx.for_(LoopKind::Serial, self.n, |cx, key| {
            cx.for_(LoopKind::Vector, block.queries, |cx, i| {
                let query = block.first.clone().add(i.clone());
                let mut args = vec![cx.load(&scores, &[key.clone(), i.clone()])];
                args.extend(self.operands.iter().map(|o| nest::at(o.arg.buf, o.index(block.outer, &query, &key))));
                let value = cx.program(&self.program, &args);
                cx.store(&scores, &[key.clone(), i], value);
            });
        });
    }

    fn results(&self, cx: &mut LowerCx, room: &Room, block: &Block) {
        let y = self.y.index(block.outer, &block.first, &Expr::Int(0));
        let direct = room.second.c.0 == self.y.arg.buf;
        let product = tile::Product { rows: Extent::from(block.queries), ..room.second.clone() };
        let v = block.outer.iter().zip(&room.steps).fold(Expr::Int(0), |e, (i, s)| e.add(i.clone().times(*s)));
        let y = if direct { y } else { Expr::Int(0) };
        tile::emit_at(cx, &product, (Expr::Int(0), v, y), vec![Expr::Int(0)]);
        if direct {
            return;
        }
        cx.for_(LoopKind::Serial, block.queries, |cx, i| {
            cx.for_(LoopKind::Vector, self.e, |cx, j| {
                let value = nest::at(product.c.0, i.clone().times(product.c_row).add(j.clone()));
                let to = self.y.index(block.outer, &block.first.clone().add(i), &j);
                cx.push(Stmt::Store(self.y.arg.buf, to, value));
            });
        });
    }
}

/// `body` for each of `n` keys, a few in each round of a loop; it also gets which of them it is.
fn keys(cx: &mut LowerCx, n: u64, mut body: impl FnMut(&mut LowerCx, &Expr, usize)) {
    let whole = n / ROUND * ROUND;
    if whole > 0 {
        cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Int(whole as i64), ROUND as i64, |cx, key| {
            (0..ROUND).for_each(|i| body(cx, &key.clone().add(Expr::Int(i as i64)), i as usize));
        });
    }
    (whole..n).for_each(|key| body(cx, &Expr::Int(key as i64), (key - whole) as usize));
}

/// Scores become exponentials of their distances to the largest of their query; `row` gets the reciprocals of the sums. Whole vectors of queries: what
/// is beyond those of the block is nobody's.
fn exponentials(cx: &mut LowerCx, room: &Room, n: u64, queries: u64) {
    let score = |key: &Expr, i: &Expr| key.clone().times(room.width as i64).add(i.clone());
    let load = |key: &Expr, i: &Expr| nest::at(room.scores, score(key, i));
    let joined =
        |op, of: Vec<Var>| of.into_iter().map(Expr::Var).reduce(|a, b| Expr::bin(op, a, b)).expect("internal: a round of keys");
    // Two loops, so that no store stands between loads that are not in the same one.
    cx.for_(LoopKind::Vector, queries, |cx, i| {
        let tops: Vec<Var> = (0..ROUND).map(|_| cx.let_(Expr::f32(f32::NEG_INFINITY))).collect();
        keys(cx, n, |cx, key, part| cx.set(tops[part], Expr::bin(BinOp::Max, Expr::Var(tops[part]), load(key, &i))));
        cx.push(Stmt::Store(room.row, i, joined(BinOp::Max, tops)));
    });
    cx.for_(LoopKind::Vector, queries, |cx, i| {
        let top = Expr::Var(cx.let_(nest::at(room.row, i.clone())));
        let sums: Vec<Var> = (0..ROUND).map(|_| cx.let_(Expr::f32(0.0))).collect();
        keys(cx, n, |cx, key, part| {
            let e = Expr::Var(cx.let_(Expr::un(UnOp::ExpNonPositive, load(key, &i).minus(top.clone()))));
            cx.push(Stmt::Store(room.scores, score(key, &i), e.clone()));
            cx.set(sums[part], Expr::bin(BinOp::Add, Expr::Var(sums[part]), e));
        });
        cx.push(Stmt::Store(room.row, i, Expr::bin(BinOp::Div, Expr::f32(1.0), joined(BinOp::Add, sums))));
    });
}
