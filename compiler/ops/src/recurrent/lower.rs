//! Code of recurrent layers: the products of all time steps with w at once, then per step the product of the state with r and one vector loop over the gates.

use onnxc_ir::kernel::Values;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpResult, View};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::target::Factors;
use onnxc_ir::{DType, Dim};

use super::SCALE;
use super::cell::{Cell, Direction, Kind};
use super::quantized_lower::Matrices;
use crate::common::coded::Table;
use crate::common::list::{self, Packed};
use crate::common::nest::{self, ExprExt};
use crate::common::panels::Panels;
use crate::common::tile::{self, Operand, Outer, Product};
use crate::schedule::Schedule;

/// One direction of a layer while it is lowered.
pub(super) struct Layer<'c> {
    cell: &'c Cell,
    direction: &'c Direction,
    /// Integer weights in place of w and r.
    quantized: Option<&'c Matrices>,
    /// Number of the direction.
    pub d: u64,
    time: Extent,
    batch: Extent,
    hidden: u64,
    x: Arg,
    lengths: Option<Arg>,
    peepholes: Option<Arg>,
    y: Arg,
    /// State `[B, H]`, cell state, products of the state `[B, G*H]`.
    h: BufId,
    c: BufId,
    from_h: BufId,
    /// Products of x.
    from_x: FromX,
}

pub(super) fn lower(cx: &mut LowerCx, kind: Kind) -> OpResult<()> {
    for i in [1, 2, 3, 7, SCALE] {
        nest::fixed(cx, i, 0..cx.opt(i).map_or(0, |a| a.view.shape.len()))?;
    }
    let cell = Cell::of(kind, cx.attrs, cx.input(2).view.shape[2])?;
    layers(cx, &cell, None)
}

/// Refuses open extents other than those of time and batch, and operands that are not known to have the same batch.
fn check(cx: &LowerCx, cell: &Cell) -> OpResult<()> {
    nest::fixed(cx, 0, [2])?;
    let batch = cx.input(0).view.extent(1).dim();
    if let Some(lengths) = cx.opt(4) {
        nest::equal_extents(4, &lengths.view.dims(), std::slice::from_ref(&batch))?;
    }
    let state = [Dim::Const(cell.directions.len() as u64), batch, Dim::Const(cell.hidden)];
    for i in [5, 6] {
        cx.opt(i).map_or(Ok(()), |given| nest::equal_extents(i, &given.view.dims(), &state))?;
    }
    Ok(())
}

/// All directions.
pub(super) fn layers(cx: &mut LowerCx, cell: &Cell, quantized: Option<&Matrices>) -> OpResult<()> {
    check(cx, cell)?;
    let x = cx.input(0);
    let (time, batch, hidden, kind) = (x.view.extent(0), x.view.extent(1), cell.hidden, cell.kind);
    let width = kind.gates() as u64 * hidden;
    let h = cx.scratch(DType::F32, batch.bound * hidden, false);
    let c = cx.scratch(DType::F32, batch.bound * hidden, false);
    let multiplied = quantized.is_none() && cx.opt(1).is_none();
    let from_x = if multiplied { FromX::of(cx, &x) } else { FromX::new(cx, &time, &batch, width) };
    let from_h = cx.scratch(DType::F32, batch.bound * width, false);
    for (d, direction) in cell.directions.iter().enumerate() {
        let layer = Layer {
            cell,
            direction,
            quantized,
            d: d as u64,
            time: time.clone(),
            batch: batch.clone(),
            hidden,
            x: x.clone(),
            lengths: cx.opt(4),
            peepholes: cx.opt(7),
            y: cx.output(0),
            h,
            c,
            from_h,
            from_x: from_x.clone(),
        };
        layer.initial(cx, 5, h);
        if kind == Kind::Lstm {
            layer.initial(cx, 6, c);
        }
        if !multiplied {
            layer.products_of_x(cx);
        }
        layer.steps(cx);
        for (result, state) in (1..kind.results()).zip([h, c]) {
            let to = cx.output(result);
            layer.each_state(cx, |cx, at, i| cx.store(&to, at, Expr::Load(state, Box::new(i))));
        }
    }
    Ok(())
}

/// `i * n + j`.
fn flat(i: &Expr, n: u64, j: &Expr) -> Expr {
    i.clone().times(n as i64).add(j.clone())
}

impl Layer<'_> {
    pub(super) fn width(&self) -> u64 {
        self.cell.kind.gates() as u64 * self.hidden
    }

    /// Loops over a state: its coordinate in `[D, B, H]` and its index in scratch.
    fn each_state(&self, cx: &mut LowerCx, body: impl FnOnce(&mut LowerCx, &[Expr], Expr)) {
        let (d, hidden) = (self.d as i64, self.hidden);
        cx.for_in(LoopKind::Serial, &self.batch, |cx, b| {
            cx.for_(LoopKind::Vector, hidden, |cx, j| body(cx, &[Expr::Int(d), b.clone(), j.clone()], flat(&b, hidden, &j)));
        });
    }

    /// The state before the first step: an operand, or zeros.
    fn initial(&self, cx: &mut LowerCx, operand: usize, state: BufId) {
        let given = cx.opt(operand);
        self.each_state(cx, |cx, at, i| {
            let value = given.as_ref().map_or(Expr::f32(0.0), |g| cx.load(g, at));
            cx.push(Stmt::Store(state, i, value));
        });
    }

    /// A product with rows of this direction's w or r (operand), whose bias starts at `bias`.
    fn product(&self, cx: &mut LowerCx, rows: (u64, u64), a: &Rows, operand: usize, c: (BufId, i64, i64)) {
        if let Some(matrices) = self.quantized {
            return matrices.product(self, cx, a, operand - 1, c);
        }
        let (first, count) = rows;
        let matrix = cx.input(operand);
        let k = matrix.view.shape[2];
        let nest = [(k, a.k)];
        let ((mr, nr), table) = self.tile(cx, &matrix, (a, count), &nest);
        let packed = self.packed(cx, &matrix, (first, count), &nest, (nr, table));
        let before = if operand == 2 && cx.opt(1).is_some() { self.width() } else { 0 };
        let bias = cx.opt(3).map(|bias| self.row(cx, &bias, before + first, count));
        let scale = cx.opt(SCALE).filter(|_| operand == 2).map(|scale| self.row(cx, &scale, first, count));
        let (epilogue, operands) = epilogue(scale, bias);
        let product = Product {
            outer: a.outer.clone(),
            rows: a.rows.clone(),
            cols: count.into(),
            a: (a.buf, DType::F32, a.start),
            a_row: a.row,
            nest: nest.to_vec(),
            open_k: None,
            b: (packed.buf, packed.dtype, 0),
            short: 0,
            table: packed.table,
            list: packed.list,
            c: (c.0, DType::F32, c.1),
            c_row: c.2,
            bias: bias.filter(|_| scale.is_none()).map(|bias| (bias, 0)),
            epilogue,
            operands,
            nr,
            mr,
        };
        tile::emit(cx, &product);
    }

    /// The tile of a product, and the table of its weights if they are to be numbers.
    fn tile(&self, cx: &LowerCx, matrix: &Arg, (a, count): (&Rows, u64), nest: &[(u64, i64)]) -> ((u32, u32), Option<Table>) {
        let is_plain = matrix.dtype == DType::F32 && !Schedule::of(cx.attrs).sparse;
        if is_plain || matrix.constant.is_none() {
            return (tile::choose(cx.target, Factors::Floats, a.rows.bound, count), None);
        }
        tile::scheduled_coded(cx, matrix.constant.as_ref(), (&a.rows, count), a.row, nest)
    }

    /// Rows `first..first + count` of the matrix, transposed, in panels.
    fn packed(
        &self,
        cx: &mut LowerCx,
        matrix: &Arg,
        (first, count): (u64, u64),
        nest: &[(u64, i64)],
        (nr, table): (u32, Option<Table>),
    ) -> Packed {
        let (all, k) = (matrix.view.shape[1], matrix.view.shape[2]);
        if let Some(tensor) = &matrix.constant {
            let (starts, rows) = (vec![((self.d * all + first) * k) as i64], vec![(k, 1)]);
            let how = Panels { dtype: tensor.dtype(), group: 1, starts, rows, padded: k, cols: (count, k as i64), nr, flip: 0 };
            return list::pack(cx, tensor, how, nest, table);
        }
        let panels = count.div_ceil(u64::from(nr));
        let buf = cx.scratch(DType::F32, panels * k * u64::from(nr), false);
        for col in 0..count {
            let to = ((col / u64::from(nr)) * k * u64::from(nr) + col % u64::from(nr)) as i64;
            let row = [Expr::Int(self.d as i64), Expr::Int((first + col) as i64)];
            cx.for_(LoopKind::Serial, k, |cx, i| {
                let value = cx.load(matrix, &[row[0].clone(), row[1].clone(), i.clone()]).cast_from(matrix.dtype, DType::F32);
                cx.push(Stmt::Store(buf, i.times(i64::from(nr)).add(Expr::Int(to)), value));
            });
        }
        Packed { buf, dtype: DType::F32, list: None, table: None }
    }

    /// A part of this direction's row of the bias, or of the scales, padded by a panel.
    pub(super) fn row(&self, cx: &mut LowerCx, rows: &Arg, first: u64, count: u64) -> BufId {
        if let Some(tensor) = &rows.constant {
            let values = tensor.to_vec::<f32>();
            let start = (self.d * rows.view.shape[1] + first) as usize;
            let mut bytes: Vec<u8> = values[start..start + count as usize].iter().flat_map(|v| v.to_le_bytes()).collect();
            bytes.resize(bytes.len().next_multiple_of(64) + 256, 0);
            return cx.const_buf(DType::F32, bytes);
        }
        let buf = cx.scratch(DType::F32, count + 64, false);
        let d = Expr::Int(self.d as i64);
        cx.for_(LoopKind::Vector, count, |cx, i| {
            let value = cx.load(rows, &[d, i.clone().add(Expr::Int(first as i64))]);
            cx.push(Stmt::Store(buf, i, value));
        });
        buf
    }

    /// All gates of all steps: rows are steps and batch entries.
    fn products_of_x(&self, cx: &mut LowerCx) {
        let (strides, width) = (&self.x.view.strides, self.width() as i64);
        // Behind an open batch the next step is somewhere else.
        let follows = self.batch.open.is_none() && strides[0] == self.batch.bound as i64 * strides[1];
        let merged = follows || self.time.is_one() || self.batch.is_one();
        let step = if self.batch.is_one() { strides[0] } else { strides[1] };
        let c = self.batch.bound as i64 * width;
        let outer = Outer { n: self.time.clone(), a: strides[0], b: 0, c, bias: 0, operands: Vec::new() };
        let a = Rows {
            buf: self.x.buf,
            start: self.x.view.offset,
            rows: if merged { self.time.times(&self.batch) } else { self.batch.clone() },
            row: step,
            k: strides[2],
            outer: if merged { Vec::new() } else { vec![outer] },
        };
        self.product(cx, (0, self.width()), &a, 1, (self.from_x.buf, 0, width));
    }

    /// `from_h[:, first..first+count] = state * r[first..first+count]^T + bias`.
    fn product_of_state(&self, cx: &mut LowerCx, state: BufId, first: u64, count: u64) {
        let a = Rows { buf: state, start: 0, rows: self.batch.clone(), row: self.hidden as i64, k: 1, outer: Vec::new() };
        self.product(cx, (first, count), &a, 2, (self.from_h, first as i64, self.width() as i64));
    }

    fn steps(&self, cx: &mut LowerCx) {
        let scaled = (self.cell.kind == Kind::Gru && !self.cell.linear_before_reset)
            .then(|| cx.scratch(DType::F32, self.batch.bound * self.hidden, false));
        cx.for_in(LoopKind::Serial, &self.time, |cx, step| match scaled {
            Some(scaled) => {
                self.product_of_state(cx, self.h, 0, 2 * self.hidden);
                self.each_entry(cx, &step, |cx, at| self.gru_gates(cx, at, scaled));
                self.product_of_state(cx, scaled, 2 * self.hidden, self.hidden);
                self.each_entry(cx, &step, |cx, at| self.gru_state(cx, at));
            }
            None => {
                self.product_of_state(cx, self.h, 0, self.width());
                self.each_entry(cx, &step, |cx, at| match self.cell.kind {
                    Kind::Lstm => self.lstm(cx, at),
                    Kind::Gru => self.gru(cx, at),
                    Kind::Rnn => self.rnn(cx, at),
                });
            }
        });
    }

    /// Loops over the batch and the hidden units of one step; entries whose sequence has ended get zeros as results.
    fn each_entry(&self, cx: &mut LowerCx, step: &Expr, body: impl Fn(&mut LowerCx, &At)) {
        let time = cx.count(&self.time);
        cx.for_in(LoopKind::Serial, &self.batch, |cx, b| {
            let Some(lengths) = &self.lengths else {
                let t = if self.direction.reverse {
                    Expr::bin(BinOp::Sub, time.add(Expr::Int(-1)), step.clone())
                } else {
                    step.clone()
                };
                return self.units(cx, &b, t, &body);
            };
            let length = Expr::Cast(DType::I64, Box::new(cx.load(lengths, std::slice::from_ref(&b))));
            let length = Expr::bin(BinOp::Min, length, time);
            let length = Expr::Var(cx.let_(length));
            let t = if self.direction.reverse {
                let back = Expr::bin(BinOp::Sub, length.clone(), step.clone().add(Expr::Int(1)));
                Expr::Var(cx.let_(Expr::bin(BinOp::Max, back, Expr::Int(0))))
            } else {
                step.clone()
            };
            let running = Expr::bin(BinOp::Lt, step.clone(), length);
            let blank = cx.block(|cx| {
                cx.for_(LoopKind::Vector, self.hidden, |cx, j| {
                    let at = [step.clone(), Expr::Int(self.d as i64), b.clone(), j];
                    cx.store(&self.y, &at, Expr::f32(0.0));
                });
            });
            let work = cx.block(|cx| self.units(cx, &b, t, &body));
            cx.push(Stmt::If(running, work, blank));
        });
    }

    fn units(&self, cx: &mut LowerCx, b: &Expr, t: Expr, body: &impl Fn(&mut LowerCx, &At)) {
        let x_row = self.from_x.row(&t, b, (self.d * self.width()) as i64);
        cx.for_(LoopKind::Vector, self.hidden, |cx, j| {
            let at = At { t, b: b.clone(), x_row, h_row: b.clone().times(self.width() as i64), j };
            body(cx, &at);
        });
    }

    /// Index of the unit in scratch states.
    fn unit(&self, at: &At) -> Expr {
        flat(&at.b, self.hidden, &at.j)
    }

    fn gate_of(&self, buf: BufId, row: &Expr, gate: u64, at: &At) -> Expr {
        let index = row.clone().add(Expr::Int((gate * self.hidden) as i64)).add(at.j.clone());
        Expr::Load(buf, Box::new(index))
    }

    /// The sum of both products for a gate.
    fn sum(&self, gate: u64, at: &At) -> Expr {
        Expr::bin(BinOp::Add, self.gate_of(self.from_x.buf, &at.x_row, gate, at), self.gate_of(self.from_h, &at.h_row, gate, at))
    }

    /// Activation `n` of a clipped sum, as a variable.
    fn activate(&self, cx: &mut LowerCx, n: usize, sum: Expr) -> Expr {
        let sum = match self.cell.clip {
            Some(c) => Expr::bin(BinOp::Min, Expr::bin(BinOp::Max, sum, Expr::f32(-c)), Expr::f32(c)),
            None => sum,
        };
        let x = Expr::Var(cx.let_(sum));
        Expr::Var(cx.let_(self.direction.activations[n].expr(x)))
    }

    fn finish(&self, cx: &mut LowerCx, at: &At, h: Expr) {
        let h = Expr::Var(cx.let_(h));
        cx.push(Stmt::Store(self.h, self.unit(at), h.clone()));
        cx.store(&self.y, &[at.t.clone(), Expr::Int(self.d as i64), at.b.clone(), at.j.clone()], h);
    }

    fn rnn(&self, cx: &mut LowerCx, at: &At) {
        let h = self.activate(cx, 0, self.sum(0, at));
        self.finish(cx, at, h);
    }

    fn lstm(&self, cx: &mut LowerCx, at: &At) {
        let old = Expr::Var(cx.let_(Expr::Load(self.c, Box::new(self.unit(at)))));
        let peep = |cx: &LowerCx, gate: u64, sum: Expr, c: &Expr| match &self.peepholes {
            Some(p) => {
                let weight = cx.load(p, &[Expr::Int(self.d as i64), at.j.clone().add(Expr::Int((gate * self.hidden) as i64))]);
                Expr::Fma(Box::new(weight), Box::new(c.clone()), Box::new(sum))
            }
            None => sum,
        };
        let sum = peep(cx, 0, self.sum(0, at), &old);
        let input = self.activate(cx, 0, sum);
        let forget = if self.cell.input_forget {
            Expr::Var(cx.let_(Expr::bin(BinOp::Sub, Expr::f32(1.0), input.clone())))
        } else {
            let sum = peep(cx, 2, self.sum(2, at), &old);
            self.activate(cx, 0, sum)
        };
        let new = self.activate(cx, 1, self.sum(3, at));
        let kept = Expr::bin(BinOp::Mul, forget, old);
        let c: Var = cx.let_(Expr::Fma(Box::new(input), Box::new(new), Box::new(kept)));
        let c = Expr::Var(c);
        cx.push(Stmt::Store(self.c, self.unit(at), c.clone()));
        let sum = peep(cx, 1, self.sum(1, at), &c);
        let output = self.activate(cx, 0, sum);
        let shown = Expr::Var(cx.let_(self.direction.activations[2].expr(c)));
        self.finish(cx, at, Expr::bin(BinOp::Mul, output, shown));
    }

    /// GRU with the reset gate behind the product.
    fn gru(&self, cx: &mut LowerCx, at: &At) {
        let update = self.activate(cx, 0, self.sum(0, at));
        let reset = self.activate(cx, 0, self.sum(1, at));
        let x = self.gate_of(self.from_x.buf, &at.x_row, 2, at);
        let h = self.gate_of(self.from_h, &at.h_row, 2, at);
        let new = self.activate(cx, 1, Expr::Fma(Box::new(reset), Box::new(h), Box::new(x)));
        self.blend(cx, at, update, new);
    }

    /// First half of a GRU step: the update gate in place of its sum, and the state scaled by the reset gate.
    fn gru_gates(&self, cx: &mut LowerCx, at: &At, scaled: BufId) {
        let update = self.activate(cx, 0, self.sum(0, at));
        let reset = self.activate(cx, 0, self.sum(1, at));
        cx.push(Stmt::Store(self.from_h, at.h_row.clone().add(at.j.clone()), update));
        let old = Expr::Load(self.h, Box::new(self.unit(at)));
        cx.push(Stmt::Store(scaled, self.unit(at), Expr::bin(BinOp::Mul, reset, old)));
    }

    /// Second half.
    fn gru_state(&self, cx: &mut LowerCx, at: &At) {
        let update = Expr::Var(cx.let_(self.gate_of(self.from_h, &at.h_row, 0, at)));
        let new = self.activate(cx, 1, self.sum(2, at));
        self.blend(cx, at, update, new);
    }

    /// `(1 - update) * new + update * old`.
    fn blend(&self, cx: &mut LowerCx, at: &At, update: Expr, new: Expr) {
        let old = Expr::Load(self.h, Box::new(self.unit(at)));
        let fresh = Expr::bin(BinOp::Mul, Expr::bin(BinOp::Sub, Expr::f32(1.0), update.clone()), new);
        let h = Expr::Fma(Box::new(update), Box::new(old), Box::new(fresh));
        self.finish(cx, at, h);
    }
}

/// `a0 * scale + bias`, as far as the scale is there: a bias alone is where sums begin.
fn epilogue(scale: Option<BufId>, bias: Option<BufId>) -> (ScalarProgram, Vec<Operand>) {
    let mut p = ScalarProgram::default();
    let sum = p.arg(0, DType::F32);
    let Some(scale) = scale else { return (p, Vec::new()) };
    let per_column = |buf: BufId| Operand { buf, dtype: DType::F32, start: 0, row: 0, per_column: true, values: Values::Any };
    let operands: Vec<Operand> = [scale].into_iter().chain(bias).map(per_column).collect();
    let factor = p.arg(1, DType::F32);
    let product = p.bin(BinOp::Mul, sum, factor);
    if bias.is_some() {
        let bias = p.arg(2, DType::F32);
        p.bin(BinOp::Add, product, bias);
    }
    (p, operands)
}

/// What w makes of x: rows of steps and batch entries.
#[derive(Clone)]
struct FromX {
    buf: BufId,
    /// Where the rows begin, and steps from one time and from one batch entry to the next.
    start: i64,
    steps: [i64; 2],
    /// Rows have all directions.
    joint: bool,
}

impl FromX {
    /// Of one direction after the other, `[T*B, G*H]`.
    fn new(cx: &mut LowerCx, time: &Extent, batch: &Extent, width: u64) -> FromX {
        let buf = cx.scratch(DType::F32, time.bound * batch.bound * width, false);
        FromX { buf, start: 0, steps: [batch.bound * width, width].map(|n| n as i64), joint: false }
    }

    /// An operand `[T, B, D*G*H]`.
    fn of(cx: &mut LowerCx, x: &Arg) -> FromX {
        let rows = if x.view.strides[2] == 1 {
            x.clone()
        } else {
            let view = View::contiguous(&x.view.shape).with_open(x.view.open.clone());
            let buf = cx.scratch(DType::F32, x.view.shape.iter().product(), false);
            let copy = Arg { buf, dtype: DType::F32, view, constant: None };
            nest::copy(cx, x, &copy);
            copy
        };
        FromX { buf: rows.buf, start: rows.view.offset, steps: [rows.view.strides[0], rows.view.strides[1]], joint: true }
    }

    /// Where the row of a time and a batch entry begins, for a direction whose columns do so in a joint row.
    fn row(&self, t: &Expr, b: &Expr, column: i64) -> Expr {
        let start = self.start + if self.joint { column } else { 0 };
        t.clone().times(self.steps[0]).add(b.clone().times(self.steps[1])).add(Expr::Int(start))
    }
}

/// Rows of A.
pub(super) struct Rows {
    pub buf: BufId,
    pub start: i64,
    pub rows: Extent,
    pub row: i64,
    pub k: i64,
    pub outer: Vec<Outer>,
}

/// One unit of one batch entry at one step: time, batch, starts of its rows of products, unit.
struct At {
    t: Expr,
    b: Expr,
    x_row: Expr,
    h_row: Expr,
    j: Expr,
}
