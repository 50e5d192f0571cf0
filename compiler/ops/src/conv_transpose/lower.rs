//! Code of `conv_transpose`: outputs whose coordinates leave the same remainders by the strides read the same taps, so each such phase is an ordinary
//! convolution of stride 1 with a part of the filter, written with gaps (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016).

use onnxc_ir::dim::DimBounds;
use onnxc_ir::kernel::Values;
use onnxc_ir::lir::{BufId, Expr, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, OpError, OpResult, View};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::target::Factors;
use onnxc_ir::{DType, Dim};

use super::{Geometry, dims};
use crate::common::convolution::groups;
use crate::common::nest::{self, ExprExt, compute_type};
use crate::common::tile::{self, Operand, Outer, Product, broadcast_strides};
use crate::common::views::channels_last;
use crate::conv::OWN_INPUTS;

/// One dimension of one phase.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Phase {
    /// First output, and number of outputs (a stride apart).
    first: u64,
    count: u64,
    /// First tap, number of taps, taps between them.
    tap: u64,
    taps: u64,
    tap_step: u64,
    /// Input element that the first tap reads for the first output; the next tap reads `back` elements before it.
    input: i64,
    back: i64,
}

struct Layer {
    x: Arg,
    y: Arg,
    geometry: Geometry,
    group: u64,
    channels: u64,
    filters: u64,
    program: ScalarProgram,
    operands: Vec<Arg>,
}

pub(super) fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, w, y) = (cx.input(0), cx.input(1), cx.output(0));
    nest::require(x.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let group = groups(cx.attrs)?;
    let geometry = Geometry::new(cx.attrs, &dims(&x.view.shape[2..]), &dims(&w.view.shape[2..]))?;
    let (program, operands) = tile::epilogue(cx, OWN_INPUTS, x.dtype);
    let (channels, filters) = (x.view.shape[1] / group, w.view.shape[1]);
    let layer = Layer { x, y, geometry, group, channels, filters, program, operands };
    if !(layer.x.view.is_fixed() && layer.y.view.is_fixed()) {
        layer.check_open(cx, w.constant.is_some())?;
        nest::broadcasts(cx, OWN_INPUTS, &layer.y.view)?;
    }
    match &w.constant {
        Some(weights) if layer.x.dtype == DType::F32 => {
            let values = weights.to_vec::<f32>();
            layer.phases(cx, &values)
        }
        _ => layer.scalar(cx, &w),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Layer {
    fn spatial(&self) -> usize {
        self.geometry.kernel.len()
    }

    /// The phases of dimension `d`.
    fn phases_along(&self, d: usize) -> Vec<Phase> {
        let g = &self.geometry;
        let (stride, dilation, begin) = (g.strides[d], g.dilations[d], g.begin[d]);
        let out = self.y.view.shape[d + 2];
        let common = gcd(stride, dilation);
        let reads = |first: u64, k: u64| first as i64 + begin - (k * dilation) as i64;
        let phase = |first: u64| {
            let tap = (0..g.kernel[d]).find(|k| reads(first, *k).rem_euclid(stride as i64) == 0);
            let tap_step = stride / common;
            let taps = tap.map_or(0, |t| (g.kernel[d] - t).div_ceil(tap_step));
            let input = tap.map_or(0, |t| reads(first, t).div_euclid(stride as i64));
            let tap = tap.unwrap_or(0);
            Phase { first, count: (out - first).div_ceil(stride), tap, taps, tap_step, input, back: (dilation / common) as i64 }
        };
        (0..stride.min(out)).map(phase).collect()
    }

    /// Outputs of a phase of dimension `d`.
    fn count(&self, d: usize, phase: &Phase) -> Extent {
        let open =
            self.y.view.open(d + 2).map(|n| {
                n.offset(-(phase.first as i64)).div_ceil(&Dim::Const(self.geometry.strides[d])).within(&DimBounds::new())
            });
        Extent { bound: phase.count, open }
    }

    /// Every phase of dimension `d` reads each element of x once, at its own place: then there is no border.
    fn is_one_to_one(&self, d: usize) -> bool {
        let n = self.x.view.extent(d + 2).dim();
        self.x.view.open(d + 2).is_none() && self.y.view.open(d + 2).is_none()
            || self.phases_along(d).iter().all(|p| p.taps == 1 && p.input == 0 && self.count(d, p).dim() == n)
    }

    /// Open extents have code where weights are known, and the padding does not depend on sizes.
    fn check_open(&self, cx: &LowerCx, constant: bool) -> OpResult<()> {
        let padded_to = cx.attrs.ints("output_shape").is_some_and(|s| !s.is_empty());
        if constant && self.x.view.open(1).is_none() && self.x.dtype == DType::F32 && !padded_to {
            return Ok(());
        }
        let error = OpError::new(
            "transposed convolutions with computed weights, of other types than f32 or with output_shape have no code yet for sizes that come with the call",
        );
        Err(error.help(nest::ONE_VALUE))
    }

    /// x with as many zeros around it as the phases reach.
    fn padded(&self, cx: &mut LowerCx, along: &[Vec<Phase>]) -> Arg {
        let mut shape = self.x.view.shape.clone();
        let mut before = vec![0i64; shape.len()];
        for (d, phases) in along.iter().enumerate() {
            let reading = || phases.iter().filter(|p| p.taps > 0);
            let low = reading().map(|p| p.input - (p.taps as i64 - 1) * p.back).min().unwrap_or(0).min(0);
            let high = reading().map(|p| p.input + p.count as i64).max().unwrap_or(0).max(shape[d + 2] as i64);
            before[d + 2] = -low;
            shape[d + 2] = (high - low) as u64;
        }
        // Behind an open extent that is smaller than its bound there are no zeros yet.
        if shape == self.x.view.shape && (0..self.spatial()).all(|d| self.is_one_to_one(d)) {
            return self.x.clone();
        }
        let whole = Arg {
            buf: cx.scratch(DType::F32, shape.iter().product(), false),
            dtype: DType::F32,
            view: channels_last(&shape),
            constant: None,
        };
        nest::fill(cx, &whole, &Expr::f32(0.0));
        let inner = nest::part(&whole, &before, &self.x.view);
        nest::copy(cx, &self.x, &inner);
        // Positions stay those of x.
        inner
    }

    fn phases(self, cx: &mut LowerCx, weights: &[f32]) -> OpResult<()> {
        let shape = self.y.view.shape.clone();
        let dense = |s: &[i64]| s[1] == 1 || s[1] == 0;
        let in_place =
            (self.y.view.strides[1] == 1 || shape[1] == 1) && self.operands.iter().all(|o| dense(&broadcast_strides(o, &shape)));
        let along: Vec<Vec<Phase>> = (0..self.spatial()).map(|d| self.phases_along(d)).collect();
        let x = self.padded(cx, &along);
        let bias = self.bias(cx);
        let mut combined: Vec<Vec<Phase>> = vec![Vec::new()];
        let (last, others) = along.split_last().expect("internal: a spatial dimension");
        for list in others {
            combined = combined.iter().flat_map(|c| list.iter().map(|p| [&c[..], &[*p]].concat())).collect();
        }
        // Each set of phases along the last dimension is a product.
        let sets: Vec<&[Phase]> =
            if in_place && self.joins(last) { vec![&last[..]] } else { last.iter().map(std::slice::from_ref).collect() };
        let combined: Vec<(Vec<Phase>, &[Phase])> =
            combined.iter().flat_map(|c| sets.iter().map(|set| ([&c[..], &set[..1]].concat(), *set))).collect();
        if in_place {
            let (program, operands) = (self.program.clone(), self.operands.clone());
            combined.iter().for_each(|c| self.phase(cx, weights, (&c.0, c.1), &x, &self.y, bias, &program, &operands));
            return Ok(());
        }
        let buf = cx.scratch(DType::F32, shape.iter().product(), false);
        let raw = Arg { buf, dtype: DType::F32, view: channels_last(&shape), constant: None };
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::F32);
        combined.iter().for_each(|c| self.phase(cx, weights, (&c.0, c.1), &x, &raw, bias, &identity, &[]));
        let strides: Vec<Vec<i64>> = self.operands.iter().map(|o| broadcast_strides(o, &shape)).collect();
        cx.for_each(&self.y.view, &self.y.view.strides.clone(), |cx, at| {
            let mut args = vec![cx.load(&raw, at)];
            for (o, s) in self.operands.iter().zip(&strides) {
                let index = at.iter().zip(s).fold(Expr::Int(o.view.offset), |e, (i, s)| e.add(i.clone().times(*s)));
                args.push(nest::at(o.buf, index));
            }
            let value = cx.program(&self.program, &args);
            cx.store(&self.y, at, value);
        });
        Ok(())
    }

    /// True when the phases of the last dimension read the same inputs, and their outputs are neighbours in memory like filters are: they are more
    /// columns of one product.
    fn joins(&self, phases: &[Phase]) -> bool {
        let last = self.y.view.shape.len() - 1;
        let f = self.filters as i64;
        let as_many = |p: &Phase| self.count(last - 2, p) == self.count(last - 2, &phases[0]);
        let same = |p: &Phase| as_many(p) && Phase { first: phases[0].first, tap: phases[0].tap, ..*p } == phases[0];
        let strides = &self.y.view.strides;
        let neighbours =
            strides[last] == f && (strides[1] == 1 || f == 1) && phases.len() as u64 == self.geometry.strides[last - 2];
        let operand = |o: &Arg| {
            let s = broadcast_strides(o, &self.y.view.shape);
            let per_channel = o.constant.is_some() && s.iter().enumerate().all(|(d, s)| d == 1 || *s == 0);
            per_channel || s[last] == 0 && s[1] == 0 || s[last] == f && (s[1] == 1 || f == 1)
        };
        phases.len() > 1 && self.group == 1 && neighbours && phases.iter().all(same) && self.operands.iter().all(operand)
    }

    /// A constant with a value for each channel, or one for all, `times` times one after the other.
    fn repeated(&self, cx: &mut LowerCx, values: &[f32], times: usize) -> BufId {
        let value = |c: usize| if values.len() == 1 { values[0] } else { values[c] };
        let mut all: Vec<f32> = (0..times).flat_map(|_| (0..self.filters as usize).map(value)).collect();
        // The last tile may load whole vectors.
        all.resize(all.len().next_multiple_of(16) + 64, 0.0);
        nest::f32_table(cx, &all)
    }

    #[expect(clippy::too_many_arguments, reason = "one phase of `phases`, which has all of it")]
    fn phase(
        &self,
        cx: &mut LowerCx,
        weights: &[f32],
        (phase, set): (&[Phase], &[Phase]),
        x: &Arg,
        y: &Arg,
        bias: Option<BufId>,
        program: &ScalarProgram,
        operands: &[Arg],
    ) {
        let rank = y.view.shape.len();
        let spread: Vec<Vec<i64>> = operands.iter().map(|o| broadcast_strides(o, &y.view.shape)).collect();
        let step = |strides: &[i64], d: usize| strides[d + 2] * self.geometry.strides[d] as i64;
        let first =
            |start: i64, strides: &[i64]| phase.iter().enumerate().fold(start, |s, (d, p)| s + p.first as i64 * strides[d + 2]);
        let a_start = phase.iter().enumerate().fold(x.view.offset, |s, (d, p)| s + p.input * x.view.strides[d + 2]);
        let last = phase.len() - 1;
        let rows = self.count(last, &phase[last]);
        let taps: u64 = phase.iter().map(|p| p.taps).product();
        let mut nest: Vec<(u64, i64)> =
            phase.iter().enumerate().map(|(d, p)| (p.taps, -p.back * x.view.strides[d + 2])).collect();
        nest.push((self.channels, x.view.strides[1]));
        let cols = self.filters * set.len() as u64;
        let (mr, nr) = match rows.open {
            None => tile::scheduled_for(cx, rows.bound, cols, x.view.strides[last + 2], &nest),
            Some(_) => tile::scheduled(cx, Factors::Floats, rows.bound, cols),
        };
        let b = cx.const_buf(DType::F32, self.pack(weights, phase, set, nr as usize));
        let outer = |n: Extent, a: i64, c: i64, operands: Vec<i64>| Outer { n, a, b: 0, c, bias: 0, operands };
        let mut around =
            vec![outer(self.y.view.extent(0), x.view.strides[0], y.view.strides[0], spread.iter().map(|s| s[0]).collect())];
        for (d, part) in phase.iter().enumerate().take(last) {
            let operands = spread.iter().map(|s| step(s, d)).collect();
            around.push(outer(self.count(d, part), x.view.strides[d + 2], step(&y.view.strides, d), operands));
        }
        let f = self.filters as i64;
        around.push(Outer {
            n: self.group.into(),
            a: self.channels as i64 * x.view.strides[1],
            b: (taps * self.channels * u64::from(nr) * cols.div_ceil(u64::from(nr))) as i64,
            c: f * y.view.strides[1],
            bias: f,
            operands: spread.iter().map(|s| f * s[1]).collect(),
        });
        debug_assert_eq!(rank, phase.len() + 2, "internal: one phase per spatial dimension");
        let many = set.len() > 1;
        let mut operand = |(o, s): (&Arg, &Vec<i64>)| {
            let row = step(s, last);
            match &o.constant {
                // One value per channel: the phases of the set need a copy each.
                Some(t) if many && row == 0 => {
                    let buf = self.repeated(cx, &t.to_vec::<f32>(), set.len());
                    Operand { buf, dtype: DType::F32, start: 0, row: 0, per_column: true, values: Values::Any }
                }
                _ => {
                    let per_column = s[1] == 1 || many && s[last + 2] != 0;
                    Operand { buf: o.buf, dtype: o.dtype, start: first(o.view.offset, s), row, per_column, values: Values::Any }
                }
            }
        };
        let operands: Vec<Operand> = operands.iter().zip(&spread).map(&mut operand).collect();
        let bias = match (bias, cx.opt(2).and_then(|b| b.constant)) {
            (Some(_), Some(t)) if many => Some(self.repeated(cx, &t.to_vec::<f32>(), set.len())),
            (bias, _) => bias,
        };
        let product = Product {
            outer: around,
            rows,
            cols: cols.into(),
            a: (x.buf, DType::F32, a_start),
            a_row: x.view.strides[last + 2],
            nest,
            open_k: None,
            b: (b, DType::F32, 0),
            short: 0,
            table: None,
            list: None,
            c: (y.buf, y.dtype, first(y.view.offset, &y.view.strides)),
            c_row: step(&y.view.strides, last),
            bias: bias.map(|b| (b, 0)),
            epilogue: program.clone(),
            operands,
            nr,
            mr,
        };
        tile::emit(cx, &product);
    }

    /// Weights of a set of phases in panels: rows are taps, then channels; columns are phases, then filters.
    fn pack(&self, weights: &[f32], phase: &[Phase], set: &[Phase], nr: usize) -> Vec<u8> {
        let kernel: u64 = self.geometry.kernel.iter().product();
        let kernel_strides = View::contiguous(&self.geometry.kernel).strides;
        let taps_of = |last: &Phase| {
            let mut taps = vec![0u64];
            for (d, p) in phase[..phase.len() - 1].iter().chain([last]).enumerate() {
                let at = |j: u64| (p.tap + j * p.tap_step) * kernel_strides[d] as u64;
                taps = taps.iter().flat_map(|t| (0..p.taps).map(move |j| t + at(j))).collect();
            }
            taps
        };
        let taps: Vec<Vec<u64>> = set.iter().map(taps_of).collect();
        let (c, f) = (self.channels as usize, self.filters as usize);
        let mut bytes = Vec::new();
        for g in 0..self.group as usize {
            bytes.extend(tile::pack_f32(taps[0].len() * c, f * set.len(), nr, |row, col| {
                let (tap, channel) = (taps[col / f][row / c] as usize, row % c);
                weights[((g * c + channel) * f + col % f) * kernel as usize + tap]
            }));
        }
        // A phase without taps still hands a pointer to the tile.
        bytes.resize(bytes.len().max(64), 0);
        bytes
    }

    fn bias(&self, cx: &mut LowerCx) -> Option<BufId> {
        let b = cx.opt(2)?;
        if let Some(tensor) = &b.constant {
            let mut bytes = tensor.bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(64) + 256, 0);
            return Some(cx.const_buf(DType::F32, bytes));
        }
        let n = b.view.shape[0];
        let buf = cx.scratch(DType::F32, n + 64, false);
        let to = Arg { buf, dtype: DType::F32, view: View::contiguous(&[n]), constant: None };
        nest::copy(cx, &b, &to);
        Some(buf)
    }

    /// The formula, one output after the other: for weights that are computed, and other float types.
    fn scalar(&self, cx: &mut LowerCx, w: &Arg) -> OpResult<()> {
        let (x, y, g, bias) = (&self.x, &self.y, &self.geometry, cx.opt(2));
        let wide = compute_type(x.dtype);
        let shape = y.view.shape.clone();
        let order = View::contiguous(&shape).strides;
        let mut taps = vec![self.channels];
        taps.extend(&g.kernel);
        cx.for_rows(&shape, &order, |cx, at| {
            let start = bias.as_ref().map_or_else(|| nest::number(wide, 0.0), |b| nest::load(cx, b, &at[1..2]));
            let sum = cx.let_(start);
            let group = Expr::bin(BinOp::Div, at[1].clone(), Expr::Int(self.filters as i64));
            let group = Expr::Var(cx.let_(group));
            let filter = at[1].clone().minus(group.clone().times(self.filters as i64));
            let filter = Expr::Var(cx.let_(filter));
            cx.for_serial(&taps, |cx, tap| {
                let channel = Expr::Var(cx.let_(group.clone().times(self.channels as i64).add(tap[0].clone())));
                let mut from = vec![at[0].clone(), channel.clone()];
                let mut inside: Option<Expr> = None;
                for d in 0..g.strides.len() {
                    let stride = g.strides[d] as i64;
                    let shifted = at[d + 2].clone().add(Expr::Int(g.begin[d]));
                    let reach = Expr::Var(cx.let_(shifted.minus(tap[d + 1].clone().times(g.dilations[d] as i64))));
                    let i = Expr::Var(cx.let_(Expr::bin(BinOp::Div, reach.clone(), Expr::Int(stride))));
                    let whole = Expr::bin(BinOp::Eq, i.clone().times(stride), reach.clone());
                    let positive = Expr::bin(BinOp::Ge, reach, Expr::Int(0));
                    let below = Expr::bin(BinOp::Lt, i.clone(), Expr::Int(x.view.shape[d + 2] as i64));
                    let all = Expr::bin(BinOp::And, Expr::bin(BinOp::And, whole, positive), below);
                    inside = Some(match inside {
                        Some(e) => Expr::bin(BinOp::And, e, all),
                        None => all,
                    });
                    from.push(i);
                }
                let mut at_w = vec![channel, filter.clone()];
                at_w.extend_from_slice(&tap[1..]);
                let inside = inside.expect("internal: spatial dimensions");
                cx.if_(
                    inside,
                    |cx| {
                        let product = nest::load(cx, x, &from).mul(nest::load(cx, w, &at_w));
                        cx.set(sum, Expr::bin(BinOp::Add, Expr::Var(sum), product));
                    },
                    |_| {},
                );
            });
            let mut args = vec![Expr::Var(sum).cast_from(wide, x.dtype)];
            for o in &self.operands {
                let steps = broadcast_strides(o, &shape);
                let index = at.iter().zip(&steps).fold(Expr::Int(o.view.offset), |e, (i, s)| e.add(i.clone().times(*s)));
                args.push(nest::at(o.buf, index));
            }
            let value = cx.program(&self.program, &args);
            cx.push(Stmt::Store(y.buf, y.index(at), value));
        });
        Ok(())
    }
}
