//! Code of stacks of matrix products: operands as strided matrices, packing of the right one, tiles.

use onnxc_ir::kernel::Values;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpError, OpResult, View};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::target::Factors;
use onnxc_ir::{DType, Dim};

use crate::common::coded::Table;
use crate::common::list::{self, Packed};
use crate::common::nest::{self, ExprExt, compute_type};
use crate::common::panels::Panels;
use crate::common::strassen;
use crate::common::tile::{self, Operand, Outer, broadcast_strides};

/// A stack of matrices in an operand: strides along the stack, rows and columns.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub arg: Arg,
    pub outer: Vec<i64>,
    pub row: i64,
    pub col: i64,
}

impl Stack {
    /// The last two dimensions of `arg`, which has or is broadcast to the shape given.
    pub fn of(arg: &Arg, shape: &[u64]) -> Stack {
        let strides = broadcast_strides(arg, shape);
        let n = shape.len();
        Stack { arg: arg.clone(), outer: strides[..n - 2].to_vec(), row: strides[n - 2], col: strides[n - 1] }
    }

    /// The same with rows and columns exchanged.
    pub fn transposed(self) -> Stack {
        Stack { row: self.col, col: self.row, ..self }
    }

    /// Index of an element.
    pub fn index(&self, outer: &[Expr], row: &Expr, col: &Expr) -> Expr {
        let start = Expr::Int(self.arg.view.offset);
        let at = outer.iter().zip(&self.outer).fold(start, |e, (i, s)| e.add(i.clone().times(*s)));
        at.add(row.clone().times(self.row)).add(col.clone().times(self.col))
    }
}

/// `y = epilogue(a * b, operands)`, with an optional bias per column.
pub(crate) struct Product {
    /// Extents of the stack.
    pub outer: Vec<Extent>,
    /// Rows, depth, columns.
    pub m: Extent,
    pub k: Extent,
    pub n: Extent,
    pub a: Stack,
    pub b: Stack,
    pub y: Stack,
    /// A constant vector, one value per column.
    pub bias: Option<onnxc_ir::Tensor>,
    pub program: ScalarProgram,
    pub operands: Vec<Stack>,
}

fn bounds(extents: &[Extent]) -> Vec<u64> {
    extents.iter().map(|n| n.bound).collect()
}

/// Columns from which a tile is worth its panel.
const NARROW: u64 = 3;

impl Product {
    /// Emits the code for any element type that compiled code has.
    pub fn emit(mut self, cx: &mut LowerCx) -> OpResult<()> {
        nest::require(self.a.arg.dtype)?;
        if self.m.bound == 0 || self.n.bound == 0 || self.outer.iter().any(|n| n.bound == 0) {
            return Ok(());
        }
        self.drop_ones();
        if self.a.arg.dtype != DType::F32 || self.n.bound < NARROW && self.m.bound > 1 {
            self.dots(cx);
            return Ok(());
        }
        self.merge_rows();
        let dense = |s: &Stack, n: &Extent| s.col == 1 || n.is_one();
        let in_place = dense(&self.y, &self.n) && self.operands.iter().all(|o| o.col == 0 || dense(o, &self.n));
        if in_place { self.tiles(cx) } else { self.through_scratch(cx) }
    }

    /// Removes dimensions of extent 1 from the stack.
    fn drop_ones(&mut self) {
        let keep: Vec<bool> = self.outer.iter().map(|n| !n.is_one()).collect();
        let filter = |list: &mut Vec<i64>| {
            let mut k = keep.iter();
            list.retain(|_| *k.next().unwrap_or(&true));
        };
        [&mut self.a, &mut self.b, &mut self.y].into_iter().chain(&mut self.operands).for_each(|s| filter(&mut s.outer));
        self.outer.retain(|n| !n.is_one());
    }

    /// Matrices of the stack that share b and follow each other become rows of one matrix.
    fn merge_rows(&mut self) {
        while let Some(n) = self.outer.last().cloned() {
            let last = self.outer.len() - 1;
            // Behind an open number of rows the next matrix is somewhere else.
            if self.m.open.is_some() {
                return;
            }
            let m = self.m.bound as i64;
            let follows = |s: &Stack| s.outer[last] == s.row * m || (s.outer[last] == 0 && s.row == 0);
            let single = self.m.is_one();
            let fits = self.b.outer[last] == 0 && (single || [&self.a, &self.y].into_iter().chain(&self.operands).all(follows));
            if !fits {
                return;
            }
            for s in [&mut self.a, &mut self.y].into_iter().chain(&mut self.operands) {
                let step = s.outer.pop().unwrap_or(0);
                if single {
                    s.row = step;
                }
            }
            self.b.outer.pop();
            self.outer.pop();
            self.m = n.times(&self.m);
        }
    }

    /// One dot product per element: other element types, and results with very few columns.
    fn dots(&self, cx: &mut LowerCx) {
        let wide = compute_type(self.a.arg.dtype);
        let mut shape = self.outer.clone();
        shape.extend([self.m.clone(), self.n.clone()]);
        let order = View::contiguous(&bounds(&shape)).strides;
        let bias = self.bias.as_ref().map(|b| cx.const_buf(b.dtype(), b.bytes().to_vec()));
        cx.for_rows(&shape, &order, |cx, at| {
            let (outer, last) = at.split_at(self.outer.len());
            let acc = cx.let_(nest::number(wide, 0.0));
            cx.for_in(LoopKind::Vector, &self.k, |cx, l| {
                let load = |s: &Stack, i: Expr| nest::at(s.arg.buf, i).cast_from(s.arg.dtype, wide);
                let x = load(&self.a, self.a.index(outer, &last[0], &l));
                let w = load(&self.b, self.b.index(outer, &l, &last[1]));
                cx.set(acc, Expr::bin(BinOp::Add, Expr::Var(acc), x.mul(w)));
            });
            let mut sum = Expr::Var(acc);
            if let Some(bias) = bias {
                let value = nest::at(bias, last[1].clone()).cast_from(self.a.arg.dtype, wide);
                sum = Expr::bin(BinOp::Add, sum, value);
            }
            let mut args = vec![sum.cast_from(wide, self.a.arg.dtype)];
            args.extend(self.operands.iter().map(|o| nest::at(o.arg.buf, o.index(outer, &last[0], &last[1]))));
            let value = cx.program(&self.program, &args);
            cx.push(Stmt::Store(self.y.arg.buf, self.y.index(outer, &last[0], &last[1]), value));
        });
    }

    /// The raw product row-major in scratch, then the epilogue over it.
    fn through_scratch(self, cx: &mut LowerCx) -> OpResult<()> {
        let mut extents = self.outer.clone();
        extents.extend([self.m.clone(), self.n.clone()]);
        let shape = bounds(&extents);
        let buf = cx.scratch(DType::F32, shape.iter().product(), false);
        let raw = Arg { buf, dtype: DType::F32, view: View::contiguous(&shape), constant: None };
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::F32);
        let (program, operands, y) = (self.program.clone(), self.operands.clone(), self.y.clone());
        let outer = self.outer.len();
        Product { y: Stack::of(&raw, &shape), program: identity, operands: Vec::new(), ..self }.tiles(cx)?;
        let order: Vec<i64> = y.outer.iter().copied().chain([y.row, y.col]).collect();
        cx.for_each(&extents, &order, |cx, at| {
            let (o, last) = at.split_at(outer);
            let mut args = vec![cx.load(&raw, at)];
            args.extend(operands.iter().map(|s| nest::at(s.arg.buf, s.index(o, &last[0], &last[1]))));
            let value = cx.program(&program, &args);
            cx.push(Stmt::Store(y.arg.buf, y.index(o, &last[0], &last[1]), value));
        });
        Ok(())
    }

    fn tiles(&self, cx: &mut LowerCx) -> OpResult<()> {
        let (m, n, k) = (self.m.bound, self.n.bound, self.k.bound);
        let nest = [(k, self.a.col)];
        let open = [&self.n, &self.k].into_iter().any(|n| n.open.is_some());
        let ((mr, nr), table) = if open {
            (tile::scheduled(cx, Factors::Floats, m, n), None)
        } else {
            tile::scheduled_coded(cx, self.b.arg.constant.as_ref(), (&self.m, n), self.a.row, &nest)
        };
        let fast = self.outer.is_empty() && strassen::fits(cx, self.b.arg.constant.as_ref(), &self.m, &nest, n) && !open;
        let ((mr, nr), table) = if fast { (strassen::tile(cx, m, n), None) } else { ((mr, nr), table) };
        let (Packed { buf: b, dtype, list, table }, b_steps) = match &self.b.arg.constant {
            Some(tensor) if fast => {
                let (rows, cols) = ((k, self.b.row), (n, self.b.col));
                (strassen::packed(cx, tensor, self.b.arg.view.offset, rows, cols, nr), Vec::new())
            }
            _ => self.packed(cx, nr, table)?,
        };
        let bias = self.bias.as_ref().map(|t| {
            // Padded by a panel: the last tile may load whole vectors.
            let mut bytes = t.bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(64) + 256, 0);
            (cx.const_buf(DType::F32, bytes), 0)
        });
        let outer = (0..self.outer.len()).map(|d| Outer {
            n: self.outer[d].clone(),
            a: self.a.outer[d],
            b: b_steps[d],
            c: self.y.outer[d],
            bias: 0,
            operands: self.operands.iter().map(|o| o.outer[d]).collect(),
        });
        let operand = |o: &Stack| Operand {
            buf: o.arg.buf,
            dtype: o.arg.dtype,
            start: o.arg.view.offset,
            row: o.row,
            per_column: o.col == 1,
            values: Values::Any,
        };
        let product = tile::Product {
            outer: outer.collect(),
            rows: self.m.clone(),
            cols: self.n.clone(),
            a: (self.a.arg.buf, DType::F32, self.a.arg.view.offset),
            a_row: self.a.row,
            nest: nest.to_vec(),
            open_k: self.k.open.clone(),
            b: (b, dtype, 0),
            short: 0,
            table,
            list,
            c: (self.y.arg.buf, self.y.arg.dtype, self.y.arg.view.offset),
            c_row: self.y.row,
            bias,
            epilogue: self.program.clone(),
            operands: self.operands.iter().map(operand).collect(),
            nr,
            mr,
        };
        if fast {
            strassen::emit(cx, &product)
        } else {
            tile::emit(cx, &product)
        }
        Ok(())
    }

    /// b in panels, once for every matrix of the stack that differs, and the steps of the stack in it.
    pub fn packed(&self, cx: &mut LowerCx, nr: u32, table: Option<Table>) -> OpResult<(Packed, Vec<i64>)> {
        let width = u64::from(nr);
        let panels = match &self.n.open {
            None => Extent::from(self.n.bound.div_ceil(width)),
            Some(n) => Extent { bound: self.n.bound.div_ceil(width), open: Some(n.div_ceil(&Dim::Const(width))) },
        };
        let size = panels.bound.checked_mul(self.k.bound).and_then(|s| s.checked_mul(width)).filter(|s| *s < 1 << 40);
        let size = size.ok_or_else(|| OpError::new("the packed matrix is too large"))?;
        let one = || Extent::from(1);
        let extents: Vec<Extent> =
            self.outer.iter().zip(&self.b.outer).map(|(n, s)| if *s == 0 { one() } else { n.clone() }).collect();
        let steps: Vec<i64> = View::contiguous(&bounds(&extents)).strides.iter().map(|s| s * size as i64).collect();
        let stack: Vec<i64> = steps.iter().zip(&extents).map(|(s, n)| if n.is_one() { 0 } else { *s }).collect();
        if let Some(tensor) = self.b.arg.constant.as_ref().filter(|_| self.n.open.is_none() && self.k.open.is_none()) {
            let packed = self.pack_constant(cx, tensor, &bounds(&extents), nr, table);
            // Steps are panels where there is a list.
            let panel = (self.k.bound * width) as i64;
            let elements = tile::panel_elements(packed.dtype, &[(self.k.bound, self.a.col)], nr) as i64;
            let unit = if packed.list.is_some() { 1 } else { elements };
            return Ok((packed, stack.into_iter().map(|s| s / panel.max(1) * unit).collect()));
        }
        let buf = cx.scratch(DType::F32, size * bounds(&extents).iter().product::<u64>(), false);
        let mut shape = extents;
        shape.push(panels.clone());
        let order = View::contiguous(&bounds(&shape)).strides;
        let full = self.n.bound / width;
        cx.for_rows(&shape, &order, |cx, at| {
            let (outer, panel) = (&at[..at.len() - 1], &at[at.len() - 1]);
            let to = outer.iter().zip(&steps).fold(Expr::Int(0), |e, (i, s)| e.add(i.clone().times(*s)));
            let to = to.add(panel.clone().times((self.k.bound * width) as i64));
            let copy = |cx: &mut LowerCx, columns: Expr| self.pack_panel(cx, buf, outer, panel, &to, (width, columns));
            let (all, some) = (Expr::Int(width as i64), |n: u64| Expr::Int(n as i64));
            if self.n.open.is_some() {
                let n = cx.count(&self.n);
                let left = n.minus(panel.clone().times(width as i64));
                let columns = cx.let_(Expr::bin(BinOp::Min, left, all));
                copy(cx, Expr::Var(columns));
            } else if full == panels.bound {
                copy(cx, all);
            } else if full == 0 {
                copy(cx, some(self.n.bound));
            } else {
                let last = Expr::bin(BinOp::Eq, panel.clone(), Expr::Int(full as i64));
                cx.if_(last, |cx| copy(cx, some(self.n.bound - full * width)), |cx| copy(cx, all));
            }
        });
        Ok((Packed { buf, dtype: DType::F32, list: None, table: None }, stack))
    }

    /// Copies `columns` columns of one panel of `width`; the densest dimension of b is the inner one.
    fn pack_panel(&self, cx: &mut LowerCx, buf: BufId, outer: &[Expr], panel: &Expr, to: &Expr, (width, columns): (u64, Expr)) {
        let by_row = self.b.row.unsigned_abs() < self.b.col.unsigned_abs() && self.b.row != 0;
        let k = cx.count(&self.k);
        let (first, second) = if by_row { (columns, k) } else { (k, columns) };
        let range = |cx: &mut LowerCx, kind, n: Expr, body: &mut dyn FnMut(&mut LowerCx, Expr)| match n {
            Expr::Int(n) => cx.for_(kind, n as u64, body),
            n => cx.for_range(kind, Expr::Int(0), n, 1, body),
        };
        range(cx, LoopKind::Serial, first, &mut |cx, i| {
            range(cx, LoopKind::Vector, second.clone(), &mut |cx, j| {
                let (l, c) = if by_row { (j, i.clone()) } else { (i.clone(), j) };
                let column = panel.clone().times(width as i64).add(c.clone());
                let value = nest::at(self.b.arg.buf, self.b.index(outer, &l, &column)).cast_from(self.b.arg.dtype, DType::F32);
                cx.push(Stmt::Store(buf, to.clone().add(l.times(width as i64)).add(c), value));
            });
        });
    }

    fn pack_constant(
        &self,
        cx: &mut LowerCx,
        tensor: &onnxc_ir::Tensor,
        extents: &[u64],
        nr: u32,
        table: Option<Table>,
    ) -> Packed {
        let mut starts = vec![self.b.arg.view.offset];
        for (n, step) in extents.iter().zip(&self.b.outer) {
            starts = starts.iter().flat_map(|s| (0..*n as i64).map(move |i| s + i * step)).collect();
        }
        let (k, cols) = (self.k.bound, (self.n.bound, self.b.col));
        let rows = vec![(k, self.b.row)];
        let how = Panels { dtype: tensor.dtype(), group: 1, starts, rows, padded: k, cols, nr, flip: 0 };
        list::pack(cx, tensor, how, &[(k, self.a.col)], table)
    }
}
