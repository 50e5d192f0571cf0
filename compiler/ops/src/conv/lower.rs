//! Lowering of `conv`.

use onnxc_ir::DType;
use onnxc_ir::kernel::{DepthwiseKernel, EpilogueOperand, OutputRows, Values};
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{OpError, OpResult, View};
use onnxc_ir::scalar::ScalarProgram;

use super::edges::{self, Run};
use super::winograd::{self, Tiled, numbers::Numbers, points::Points};
use super::{Geometry, OWN_INPUTS};
use crate::common::coded::{self, Table};
use crate::common::depthwise::Depthwise;
use crate::common::list::{self, Packed};
use crate::common::nest::{self, ExprExt};
use crate::common::panels::Panels;
use crate::common::strassen;
use crate::common::tile::{self, Dimension, Operand, Outer, Product, broadcast_strides};
use crate::common::views::channels_last;
use crate::schedule::Schedule;

/// Everything about one convolution: shapes, geometry, and the arguments with x padded.
pub(super) struct Conv {
    pub(super) geometry: Geometry,
    /// x has no zeros around it: taps outside are left out.
    pub(super) edges: bool,
    pub x: Arg,
    pub y: Arg,
    pub w: Arg,
    pub b: Option<Arg>,
    pub kernel: Vec<u64>,
    /// Channels of a group, filters of a group.
    pub channels: u64,
    pub filters: u64,
    pub program: ScalarProgram,
    pub operands: Vec<Arg>,
}

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, w, y) = (cx.input(0), cx.input(1), cx.output(0));
    let geometry = Geometry::of(cx.attrs, x.view.shape.len() - 2);
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    if !w.view.is_fixed() || x.view.open(1).is_some() {
        let error = OpError::new("channels and filters that come with the call have no code yet");
        return Err(error.help("give the dimension one value, or a list of values: --dim N=1,2,4"));
    }
    nest::broadcasts(cx, OWN_INPUTS, &y.view)?;
    if x.dtype != DType::F32 {
        return scalar(cx, &geometry);
    }
    if geometry.pads.iter().any(|p| *p < 0) {
        return Err(OpError::new("negative pads have no code generation").help("use Slice before the convolution"));
    }
    let (program, operands) = tile::epilogue(cx, OWN_INPUTS, x.dtype);
    let depthwise = w.view.shape[1] == 1 && w.view.shape[0] == geometry.group && geometry.group > 1;
    let points = winograd::points(cx.attrs).filter(|_| x.view.is_fixed() && y.view.is_fixed());
    let transformed = points.zip(coded::with_floats(&w).constant);
    let zeros = zeros(&geometry, &y.view, points);
    let edges = depthwise && transformed.is_none() && edges::fit(cx, &geometry, &x, &y.view, &w.view.shape[2..]);
    let x = if edges { x } else { pad(cx, &x, &zeros, depthwise || transformed.is_some()) };
    let conv = Conv {
        kernel: w.view.shape[2..].to_vec(),
        channels: w.view.shape[1],
        filters: w.view.shape[0] / geometry.group,
        w,
        b: cx.opt(2),
        x,
        y,
        geometry,
        edges,
        program,
        operands,
    };
    if let Some((points, weights)) = transformed {
        let bias = conv.bias(cx);
        let Conv { x, y, channels, filters, program, operands, .. } = conv;
        let tiled = Tiled { numbers: Numbers::Floats, x, y, channels, filters, weights: (weights, 0), bias, program, operands };
        winograd::emit(cx, &tiled, points);
        return Ok(());
    }
    let across = Schedule::of(cx.attrs).across.filter(|_| !depthwise);
    if let Some(wide) = across.and_then(|p| conv.across(p)) {
        return wide.product(cx);
    }
    let in_place = conv.writes_in_place();
    if in_place { conv.emit(cx, depthwise) } else { conv.emit_through_scratch(cx, depthwise) }
}

/// The zeros that x needs before and behind each dimension of space: the pads, and what tiles reach over the end.
fn zeros(g: &Geometry, y: &View, points: Option<&Points>) -> Vec<(i64, i64)> {
    let spatial = y.shape.len() - 2;
    let mut zeros: Vec<(i64, i64)> = (0..spatial).map(|d| (g.pads[d], g.pads[d + spatial])).collect();
    if let Some(points) = points {
        let over = winograd::overhang(points, y.shape[2], y.shape[3]);
        zeros.iter_mut().zip(over).for_each(|(z, over)| z.1 += over as i64);
    }
    zeros
}

/// x with zeros around it in scratch memory, channels last unless it is planar; x itself when it needs none (and, for `dense_channels`, has these).
fn pad(cx: &mut LowerCx, x: &Arg, zeros: &[(i64, i64)], dense_channels: bool) -> Arg {
    let padded = zeros.iter().any(|z| *z != (0, 0));
    if !padded && (!dense_channels || x.view.strides[1] == 1 || x.view.shape[1] == 1) {
        return x.clone();
    }
    let there = |d: usize| cx.halos[0].at(d + 2);
    let enough = |(d, z): (usize, &(i64, i64))| there(d).0 as i64 >= z.0 && there(d).1 as i64 >= z.1;
    if zeros.iter().enumerate().all(enough) && (!dense_channels || x.view.strides[1] == 1) {
        let mut view = x.view.clone();
        for (d, (before, behind)) in zeros.iter().enumerate() {
            view.shape[d + 2] = view.shape[d + 2].saturating_add_signed(before + behind);
            view.offset -= before * view.strides[d + 2];
        }
        return Arg { view, ..x.clone() };
    }
    let mut shape = x.view.shape.clone();
    for (d, (before, behind)) in zeros.iter().enumerate() {
        shape[d + 2] += (before + behind) as u64;
    }
    let whole = if !dense_channels && is_planar(&x.view) { View::contiguous(&shape) } else { channels_last(&shape) };
    let elements: u64 = shape.iter().product();
    let buf = cx.scratch(x.dtype, elements, false);
    let all = Arg { buf, dtype: x.dtype, view: whole.clone(), constant: None };
    if padded && x.view.is_fixed() {
        around(cx, &all, zeros);
    } else if padded {
        nest::fill(cx, &all, &Expr::f32(0.0));
    }
    let mut inner = whole.clone();
    inner.shape.clone_from(&x.view.shape);
    inner.open.clone_from(&x.view.open);
    for (d, (before, _)) in zeros.iter().enumerate() {
        inner.offset += before * inner.strides[d + 2];
    }
    cx.copy(x, &Arg { buf, dtype: x.dtype, view: inner, constant: None });
    Arg { buf, dtype: x.dtype, view: whole, constant: None }
}

/// Channels of a planar image up to which a copy is planar too: rows are copied as they lie, and steps of k that are no neighbours cost little.
const PLANES: u64 = 4;

/// Few channels, in whose rows neighbours are neighbours in memory.
fn is_planar(x: &View) -> bool {
    x.strides.last() == Some(&1) && x.shape[1] <= PLANES
}

/// Zeros in the border of a padded copy.
fn around(cx: &mut LowerCx, whole: &Arg, zeros: &[(i64, i64)]) {
    let mut rest = whole.view.clone();
    for (d, (before, behind)) in zeros.iter().enumerate().map(|(d, z)| (d + 2, z)) {
        let extent = rest.shape[d] as i64;
        for (start, n) in [(0, *before), (extent - behind, *behind)] {
            let mut side = rest.clone();
            side.offset += start * side.strides[d];
            side.shape[d] = n as u64;
            if n > 0 {
                nest::fill(cx, &Arg { view: side, ..whole.clone() }, &Expr::f32(0.0));
            }
        }
        rest.offset += before * rest.strides[d];
        rest.shape[d] = (extent - before - behind) as u64;
    }
}

impl Conv {
    fn spatial(&self) -> usize {
        self.kernel.len()
    }

    /// Neighbouring filters of the result are neighbours in memory, and so are those of every operand (or it is the same for all).
    fn writes_in_place(&self) -> bool {
        let dense = |strides: &[i64]| strides[1] == 1 || strides[1] == 0;
        let y = self.y.view.strides[1] == 1 || self.y.view.shape[1] == 1;
        y && self.operands.iter().all(|o| dense(&broadcast_strides(o, &self.y.view.shape)))
    }

    /// The convolution without epilogue into dense scratch, then the epilogue as a pass over the result.
    fn emit_through_scratch(self, cx: &mut LowerCx, depthwise: bool) -> OpResult<()> {
        let shape = self.y.view.shape.clone();
        let elements: u64 = shape.iter().product();
        let buf = cx.scratch(DType::F32, elements, false);
        let raw = Arg { buf, dtype: DType::F32, view: channels_last(&shape), constant: None };
        let (program, operands, y) = (self.program.clone(), self.operands.clone(), self.y.clone());
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::F32);
        Conv { y: raw.clone(), program: identity, operands: Vec::new(), ..self }.emit(cx, depthwise)?;
        let strides: Vec<Vec<i64>> = operands.iter().map(|o| broadcast_strides(o, &shape)).collect();
        cx.for_each(&y.view, &y.view.strides.clone(), |cx, at| {
            let mut args = vec![cx.load(&raw, at)];
            for (o, s) in operands.iter().zip(&strides) {
                let index = at.iter().zip(s).fold(Expr::Int(o.view.offset), |sum, (i, s)| sum.add(i.clone().times(*s)));
                args.push(Expr::Load(o.buf, Box::new(index)));
            }
            let value = cx.program(&program, &args);
            cx.store(&y, at, value);
        });
        Ok(())
    }

    fn emit(&self, cx: &mut LowerCx, depthwise: bool) -> OpResult<()> {
        if depthwise { self.depthwise(cx) } else { self.product(cx) }
    }

    /// Strides of x and y along the output dimensions, outermost first: (extent, x step, y step, operand steps).
    fn output_dims(&self) -> Vec<Dimension> {
        let spread: Vec<Vec<i64>> = self.operands.iter().map(|o| broadcast_strides(o, &self.y.view.shape)).collect();
        let dim = |d: usize, x_step: i64| {
            (self.y.view.extent(d), x_step, self.y.view.strides[d], spread.iter().map(|s| s[d]).collect())
        };
        let mut dims = vec![dim(0, self.x.view.strides[0])];
        for s in 0..self.spatial() {
            dims.push(dim(s + 2, self.x.view.strides[s + 2] * self.geometry.strides[s]));
        }
        dims
    }

    /// Dense and grouped convolution as a product: rows are outputs along the last dimensions that merge.
    fn product(&self, cx: &mut LowerCx) -> OpResult<()> {
        let mut dims = self.output_dims();
        tile::merge(&mut dims);
        let (rows, a_row, c_row, row_steps) = dims.pop().expect("internal: a convolution has output dimensions");
        let nest = self.nest();
        let ((mr, nr), table) = tile::scheduled_coded(cx, self.w.constant.as_ref(), (&rows, self.filters), a_row, &nest);
        let single = self.geometry.group == 1 && dims.iter().all(|d| d.0.is_one()) && self.kernel.iter().all(|k| *k == 1);
        let fast = single && strassen::fits(cx, self.w.constant.as_ref(), &rows, &nest, self.filters);
        let ((mr, nr), table) = if fast { (strassen::tile(cx, rows.bound, self.filters), None) } else { ((mr, nr), table) };
        let panels = self.filters.div_ceil(u64::from(nr)) as i64;
        let Packed { buf: b, dtype, list, table } = match &self.w.constant {
            Some(tensor) if fast => {
                let (rows, cols) = ((self.channels, 1), (self.filters, self.channels as i64));
                strassen::packed(cx, tensor, 0, rows, cols, nr)
            }
            _ => self.packed(cx, nr, &nest, table)?,
        };
        let spread: Vec<Vec<i64>> = self.operands.iter().map(|o| broadcast_strides(o, &self.y.view.shape)).collect();
        let operand = |(o, (s, row)): (&Arg, (&Vec<i64>, &i64))| Operand {
            buf: o.buf,
            dtype: o.dtype,
            start: o.view.offset,
            row: *row,
            per_column: s[1] == 1,
            values: Values::Any,
        };
        let operands: Vec<Operand> = self.operands.iter().zip(spread.iter().zip(&row_steps)).map(operand).collect();
        let mut outer: Vec<Outer> =
            dims.into_iter().map(|(n, a, c, operands)| Outer { n, a, b: 0, c, bias: 0, operands }).collect();
        let f = self.filters as i64;
        outer.push(Outer {
            n: self.geometry.group.into(),
            a: self.channels as i64 * self.x.view.strides[1],
            b: if list.is_some() { panels } else { panels * tile::panel_elements(dtype, &nest, nr) as i64 },
            c: f * self.y.view.strides[1],
            bias: f,
            operands: spread.iter().map(|s| f * s[1]).collect(),
        });
        let bias = self.bias(cx);
        let product = Product {
            outer,
            rows,
            cols: self.filters.into(),
            a: (self.x.buf, DType::F32, self.x.view.offset),
            a_row,
            nest,
            open_k: None,
            b: (b, dtype, 0),
            short: 0,
            table,
            list,
            c: (self.y.buf, self.y.dtype, self.y.view.offset),
            c_row,
            bias,
            epilogue: self.program.clone(),
            operands,
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

    /// The k loop: kernel positions, then channels; neighbours in memory merge.
    fn nest(&self) -> Vec<(u64, i64)> {
        let mut nest: Vec<(u64, i64)> =
            (0..self.spatial()).map(|d| (self.kernel[d], self.x.view.strides[d + 2] * self.geometry.dilations[d])).collect();
        nest.push((self.channels, self.x.view.strides[1]));
        let mut i = nest.len() - 1;
        while i > 0 {
            let (n, step) = nest[i];
            if nest[i - 1].0 == 1 {
                nest.remove(i - 1);
            } else if n == 1 {
                nest.remove(i);
            } else if nest[i - 1].1 == step * n as i64 {
                nest[i - 1] = (nest[i - 1].0 * n, step);
                nest.remove(i);
            }
            i -= 1;
        }
        nest
    }

    /// Weights in panels: packed now when they are constants, else by code in front; and the list of what they have if that is not all.
    fn packed(&self, cx: &mut LowerCx, nr: u32, nest: &[(u64, i64)], table: Option<Table>) -> OpResult<Packed> {
        let w = &self.w;
        let taps: u64 = self.kernel.iter().product();
        let (c, f, nr) = (self.channels as usize, self.filters as usize, nr as usize);
        let k = taps as usize * c;
        if let Some(tensor) = &w.constant {
            // Row r of B is kernel position r / c, channel r % c; ONNX keeps weights as [filter][channel][position].
            let how = Panels {
                dtype: w.dtype,
                group: 1,
                starts: (0..self.geometry.group as i64).map(|g| g * (f * k) as i64).collect(),
                rows: vec![(taps, 1), (c as u64, taps as i64)],
                padded: c as u64,
                cols: (f as u64, k as i64),
                nr: nr as u32,
                flip: 0,
            };
            return Ok(list::pack(cx, tensor, how, nest, table));
        }
        let panels = f.div_ceil(nr);
        let buf = cx.scratch(DType::F32, (self.geometry.group as usize * panels * k * nr) as u64, false);
        let group = self.geometry.group;
        let kernel = self.kernel.clone();
        cx.for_(LoopKind::Serial, group, |cx, g| {
            for col in 0..f {
                let filter = g.clone().times(f as i64).add(Expr::Int(col as i64));
                let to = g.clone().times((panels * k * nr) as i64).add(Expr::Int(((col / nr) * k * nr + col % nr) as i64));
                let mut extents = kernel.clone();
                extents.push(c as u64);
                let order: Vec<i64> = View::contiguous(&extents).strides;
                cx.for_each(&extents, &order, |cx, at| {
                    let mut from = vec![filter.clone(), at[at.len() - 1].clone()];
                    from.extend_from_slice(&at[..at.len() - 1]);
                    let row = at.iter().zip(&order).fold(to.clone(), |sum, (i, s)| sum.add(i.clone().times(s * nr as i64)));
                    let value = cx.load(w, &from).cast_from(w.dtype, DType::F32);
                    cx.push(Stmt::Store(buf, row, value));
                });
            }
        });
        Ok(Packed { buf, dtype: DType::F32, list: None, table: None })
    }

    /// The bias as dense f32: its own buffer, which tiles read from the filter on.
    pub fn bias(&self, cx: &mut LowerCx) -> Option<(BufId, i64)> {
        let b = self.b.as_ref()?;
        if let Some(tensor) = &b.constant {
            // Padded by a panel: the last tile of the last group may load whole vectors.
            let mut bytes = tensor.bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(64) + 256, 0);
            return Some((cx.const_buf(DType::F32, bytes), 0));
        }
        let n = b.view.shape[0];
        let buf = cx.scratch(DType::F32, n + 64, false);
        cx.for_(LoopKind::Vector, n, |cx, i| {
            let value = cx.load(b, std::slice::from_ref(&i));
            cx.push(Stmt::Store(buf, i, value));
        });
        Some((buf, 0))
    }

    /// One filter per channel: rows of outputs by the depthwise kernel.
    fn depthwise(&self, cx: &mut LowerCx) -> OpResult<()> {
        let mut dims = self.output_dims();
        // The row is the last dimension that is one.
        let row = dims.iter().rposition(|d| d.0.bound > 1).unwrap_or(dims.len() - 1);
        dims.truncate(row + 1);
        let channels = self.geometry.group;
        let w = self.depthwise_weights(cx, channels);
        let bias = self.bias(cx);
        let mut taps = vec![0i64];
        for d in 0..self.spatial() {
            let step = self.x.view.strides[d + 2] * self.geometry.dilations[d] * 4;
            taps = taps.iter().flat_map(|t| (0..self.kernel[d] as i64).map(move |i| t + i * step)).collect();
        }
        let (n, x_step, y_step, row_steps) = dims.last().expect("internal: output dimensions").clone();
        let spread: Vec<Vec<i64>> = self.operands.iter().map(|o| broadcast_strides(o, &self.y.view.shape)).collect();
        let operand = |(o, (s, row)): (&Arg, (&Vec<i64>, &i64))| EpilogueOperand {
            dtype: o.dtype,
            row: row * o.dtype.bytes() as i64,
            per_column: s[1] == 1,
            values: Values::Any,
        };
        let kernel = DepthwiseKernel {
            x_dtype: DType::F32,
            y_dtype: self.y.dtype,
            channels: channels as u32,
            outputs: if n.open.is_none() { n.bound as u32 } else { 0 },
            rows: OutputRows { count: 1, x: 0, y: 0, operands: vec![0; self.operands.len()] },
            taps,
            outside: Vec::new(),
            x_step: x_step * 4,
            y_step: y_step * self.y.dtype.bytes() as i64,
            w_step: channels as i64 * 4,
            columns: 0,
            below: false,
            words: false,
            paired: false,
            bias: bias.is_some(),
            epilogue: self.program.clone(),
            operands: self.operands.iter().zip(spread.iter().zip(&row_steps)).map(operand).collect(),
        };
        let outer = &dims[..dims.len() - 1];
        let all = Depthwise { kernel, outer, n, x: &self.x, w: (w, 0), y: &self.y, bias, operands: &self.operands };
        if self.edges {
            self.between_edges(cx, &all)
        } else {
            all.emit(cx)
        }
        Ok(())
    }

    /// The same without zeros around x: runs of rows whose windows see the same rows of taps.
    fn between_edges(&self, cx: &mut LowerCx, all: &Depthwise) {
        let (g, xs) = (&self.geometry, &self.x.view);
        let [height, width] = [self.y.view.shape[2], self.y.view.shape[3]];
        let columns = self.kernel[1];
        for Run { rows, taps } in edges::runs(g, height, self.kernel[0], xs.shape[2]) {
            let first = rows.start as i64;
            let some = |arg: &Arg, step: i64| {
                let mut view = arg.view.clone();
                view.offset += step;
                Arg { view, ..arg.clone() }
            };
            let row = first * g.strides[0] - g.pads[0] + taps.start as i64 * g.dilations[0];
            let x = some(&self.x, row * xs.strides[2]);
            let y = some(&self.y, first * self.y.view.strides[2]);
            let spread = |o: &Arg| broadcast_strides(o, &self.y.view.shape)[2];
            let operands: Vec<Arg> = self.operands.iter().map(|o| some(o, first * spread(o))).collect();
            let mut outer = all.outer.to_vec();
            if let Some(last) = outer.last_mut() {
                last.0 = (rows.end - rows.start).into();
            }
            let mut kernel = all.kernel.clone();
            let tap = |r: u64, c: u64| {
                let down = r as i64 * g.dilations[0] * xs.strides[2];
                4 * (down + (c as i64 * g.dilations[1] - g.pads[1]) * xs.strides[3])
            };
            let seen = taps.end - taps.start;
            kernel.taps = (0..seen).flat_map(|r| (0..columns).map(move |c| (r, c))).map(|(r, c)| tap(r, c)).collect();
            kernel.outside = edges::outside(g, width, (seen, columns), xs.shape[3]);
            let w = (all.w.0, (taps.start * columns) as i64 * kernel.w_step / 4);
            let part =
                Depthwise { kernel, outer: &outer, n: all.n.clone(), x: &x, w, y: &y, bias: all.bias, operands: &operands };
            part.emit(cx);
        }
    }

    fn depthwise_weights(&self, cx: &mut LowerCx, channels: u64) -> BufId {
        let w = &self.w;
        let taps: u64 = self.kernel.iter().product();
        if let Some(tensor) = &w.constant {
            let values = coded::floats(tensor).to_vec::<f32>();
            let (t, c) = (taps as usize, channels as usize);
            let bytes = (0..t * c).flat_map(|i| values[(i % c) * t + i / c].to_le_bytes()).collect();
            return cx.const_buf(DType::F32, bytes);
        }
        let buf = cx.scratch(DType::F32, taps * channels, false);
        let mut extents = self.kernel.clone();
        extents.push(channels);
        let order = View::contiguous(&extents).strides;
        cx.for_each(&extents, &order, |cx, at| {
            let mut from = vec![at[at.len() - 1].clone(), Expr::Int(0)];
            from.extend_from_slice(&at[..at.len() - 1]);
            let to = at.iter().zip(&order).fold(Expr::Int(0), |sum, (i, s)| sum.add(i.clone().times(*s)));
            let value = cx.load(w, &from).cast_from(w.dtype, DType::F32);
            cx.push(Stmt::Store(buf, to, value));
        });
        buf
    }
}

/// Other float types: the formula as scalar loops, in the type itself (f64) or f32 (f16, bf16).
fn scalar(cx: &mut LowerCx, g: &Geometry) -> OpResult<()> {
    let (x, w, y, b) = (cx.input(0), cx.input(1), cx.output(0), cx.opt(2));
    let wide = if x.dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let (program, operands) = tile::epilogue(cx, OWN_INPUTS, x.dtype);
    let filters = w.view.shape[0] / g.group;
    let shape = y.view.shape.clone();
    let order = View::contiguous(&shape).strides;
    let cast = |e: Expr| Expr::Cast(wide, Box::new(e));
    let counts: Vec<Expr> = (0..g.strides.len()).map(|d| cx.count(&x.view.extent(d + 2))).collect();
    cx.for_rows(&y.view, &order, |cx, at| {
        let start = b.as_ref().map_or(Expr::Const(wide, 0), |b| cast(cx.load(b, &at[1..2])));
        let sum = cx.let_(start);
        let group = Expr::bin(onnxc_ir::scalar::BinOp::Div, at[1].clone(), Expr::Int(filters as i64));
        let first = cx.let_(group.times(w.view.shape[1] as i64));
        let taps = w.view.shape[1..].to_vec();
        cx.for_serial(&taps, |cx, tap| {
            let mut from = vec![at[0].clone(), Expr::Var(first).add(tap[0].clone())];
            let mut inside: Option<Expr> = None;
            for d in 0..g.strides.len() {
                let i = at[d + 2]
                    .clone()
                    .times(g.strides[d])
                    .add(tap[d + 1].clone().times(g.dilations[d]))
                    .add(Expr::Int(-g.pads[d]));
                let i = Expr::Var(cx.let_(i));
                let ge = Expr::bin(onnxc_ir::scalar::BinOp::Ge, i.clone(), Expr::Int(0));
                let lt = Expr::bin(onnxc_ir::scalar::BinOp::Lt, i.clone(), counts[d].clone());
                let both = Expr::bin(onnxc_ir::scalar::BinOp::And, ge, lt);
                inside = Some(inside.map_or(both.clone(), |e| Expr::bin(onnxc_ir::scalar::BinOp::And, e, both)));
                from.push(i);
            }
            let inside = inside.expect("internal: a convolution has spatial dimensions");
            cx.if_(
                inside,
                |cx| {
                    let mut at_w = vec![at[1].clone()];
                    at_w.extend_from_slice(tap);
                    let product = Expr::bin(onnxc_ir::scalar::BinOp::Mul, cast(cx.load(&x, &from)), cast(cx.load(&w, &at_w)));
                    cx.set(sum, Expr::bin(onnxc_ir::scalar::BinOp::Add, Expr::Var(sum), product));
                },
                |_| {},
            );
        });
        let mut args = vec![Expr::Cast(x.dtype, Box::new(Expr::Var(sum)))];
        for o in &operands {
            let steps = broadcast_strides(o, &shape);
            let index = at.iter().zip(&steps).fold(Expr::Int(o.view.offset), |e, (i, s)| e.add(i.clone().times(*s)));
            args.push(Expr::Load(o.buf, Box::new(index)));
        }
        let value = cx.program(&program, &args);
        cx.store(&y, at, value);
    });
    Ok(())
}
