//! Convolutions and products of integers of 8 or 16 bits by integer tiles.
//!
//! `sum((x - zx) * (w - zw)) = sum(x*w) - zx * sum(w) - zw * sum(x) + k * zx * zw`: the tile computes the first sum; its accumulators start from what
//! depends on the column only, and the third sum, needed where weights have a zero point, is a product with a column of ones
//! (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 2.3).

use onnxc_ir::DType;
use onnxc_ir::float_sums;
use onnxc_ir::kernel::{Values, k_group};
use onnxc_ir::lir::{BufId, BufKind, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::OpResult;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram};
use onnxc_ir::target::Factors;

use super::depthwise;
use super::spread::{along, vector_view};
use super::weights::Weights;
use super::words::{copy_bytes, fill_bytes};
use crate::common::list::{self, List};
use crate::common::nest::{self, ExprExt, int};
use crate::common::tile::{self, Operand, Outer, Product, broadcast_strides};
use crate::common::views::channels_last;
use crate::schedule::Schedule;

/// A convolution of integers with constant weights. A product of matrices is one with a window of one element.
pub(super) struct Integer {
    /// `[N, C, space...]`.
    pub x: Arg,
    /// Zero point of x, one element.
    pub x_zero: Option<Arg>,
    /// M filters of `[C/group, kernel...]`.
    pub weights: Weights,
    /// Zero points: one per filter.
    pub w_zeros: Vec<i32>,
    pub kernel: Vec<u64>,
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    /// Before, for every dimension, then behind.
    pub pads: (Vec<u64>, Vec<u64>),
    pub group: u64,
    /// Added to the accumulators: one per filter.
    pub bias: Option<Vec<i32>>,
    /// `[N, M, out...]`.
    pub y: Arg,
    /// Over the i32 sum and `operands`, which broadcast to y.
    pub program: ScalarProgram,
    pub operands: Vec<Arg>,
    /// What all sums begin with beside their own: see [`super::float_sums`].
    pub begin: i32,
}

/// Filters for which it pays to make words of what they multiply.
const WIDENED: u64 = 16;

/// x as the tile wants it: bytes or words with channels innermost, padded to whole groups.
pub(super) struct Factor {
    pub arg: Arg,
    /// Channels of a group in memory.
    channels: u64,
    /// What was subtracted from every element (128 where the sign changed).
    moved: i32,
    /// Are it and the weights such that the target adds up products in 16 bits?
    short: bool,
}

impl Integer {
    pub fn emit(mut self, cx: &mut LowerCx) -> OpResult<()> {
        if self.y.view.shape.contains(&0) {
            return Ok(());
        }
        if self.is_depthwise() && !self.is_words() {
            self.make_floats(cx);
            let (target, in_place) = self.target(cx);
            depthwise::emit(&self, cx, &target);
            return self.finish(cx, in_place, &target.0);
        }
        if self.weights.is_unsigned() {
            self.weights.make_signed();
            self.w_zeros.iter_mut().for_each(|z| *z -= 128);
        }
        if let Some(points) = self.points(cx) {
            self.emit_in_tiles(cx, points);
            return Ok(());
        }
        let short = self.is_short(cx);
        let words = self.is_words() || self.wants_words(cx, short);
        self.make_floats(cx);
        let x = Factor { short: short && !words, ..self.operand(cx, words) };
        let (mut target, in_place) = self.target(cx);
        if self.w_zeros.iter().any(|z| *z != 0) {
            target = self.with_sums_of_x(cx, &x, target);
        }
        let start = self.start(cx, x.moved);
        let filters = self.y.view.shape[1] / self.group;
        let weights = |cx: &mut LowerCx, k, nr, nest: &[(u64, i64)]| {
            let packed =
                list::pack(cx, self.weights.tensor(), self.weights.panels(self.group as usize, x.arg.dtype, k, nr), nest, None);
            (packed.buf, packed.list)
        };
        self.product(cx, &x, filters, &weights, Some(start), &target);
        self.finish(cx, in_place, &target.0)
    }

    /// Are 16-bit integers multiplied?
    pub(super) fn is_words(&self) -> bool {
        self.x.dtype == DType::I16
    }

    /// Is it worth it to make words of bytes first, since the target multiplies these faster? Each element of x is read and written once for that, and multiplied by
    /// all filters of its group. A row by itself waits for its weights.
    fn wants_words(&self, cx: &LowerCx, short: bool) -> bool {
        let (filters, rows) =
            (self.y.view.shape[1] / self.group, self.y.view.shape.iter().product::<u64>() / self.y.view.shape[1]);
        cx.target.words_beat_bytes() && filters >= WIDENED && rows > 1 && !Schedule::of(cx.attrs).sparse && !short
    }

    /// One filter of one channel for each of several groups.
    pub fn is_depthwise(&self) -> bool {
        self.group > 1 && self.x.view.shape[1] == self.group && self.y.view.shape[1] == self.group
    }

    /// True when kernels write the result: they want neighbouring channels beside each other.
    pub fn in_place(&self) -> bool {
        let shape = &self.y.view.shape;
        let dense = |s: &[i64]| s[1] == 1 || s[1] == 0;
        (self.y.view.strides[1] == 1 || shape[1] == 1) && self.operands.iter().all(|o| dense(&broadcast_strides(o, shape)))
    }

    /// Where kernels write, and whether that is the result; else sums go to scratch memory.
    fn target(&self, cx: &mut LowerCx) -> (Target, bool) {
        let shape = &self.y.view.shape;
        if self.in_place() {
            return ((self.y.clone(), self.program.clone(), self.operands.clone()), true);
        }
        let buf = cx.scratch(DType::I32, shape.iter().product(), false);
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::I32);
        let view = channels_last(shape).with_open(self.y.view.open.clone());
        ((Arg { buf, dtype: DType::I32, view, constant: None }, identity, Vec::new()), false)
    }

    /// The program as a pass of its own over sums in scratch memory.
    fn finish(&self, cx: &mut LowerCx, in_place: bool, sums: &Arg) -> OpResult<()> {
        if in_place {
            return Ok(());
        }
        let shape = &self.y.view.shape;
        let strides: Vec<Vec<i64>> = self.operands.iter().map(|o| broadcast_strides(o, shape)).collect();
        // The sums of x, if any, were taken off by the kernel already.
        cx.for_each(&self.y.view, &self.y.view.strides.clone(), |cx, at| {
            let mut args = vec![cx.load(sums, at)];
            for (o, s) in self.operands.iter().zip(&strides) {
                let index = at.iter().zip(s).fold(Expr::Int(o.view.offset), |e, (i, s)| e.add(i.clone().times(*s)));
                args.push(nest::at(o.buf, index));
            }
            let value = cx.program(&self.program, &args);
            cx.store(&self.y, at, value);
        });
        Ok(())
    }

    /// True when x has padding.
    pub fn is_padded(&self) -> bool {
        self.pads.0.iter().chain(&self.pads.1).any(|p| *p > 0)
    }

    /// x with its padding, when the buffer of x has a border of its zero points.
    pub fn bordered(&self, cx: &LowerCx) -> Option<Arg> {
        let zero = self.known_x_zero()?;
        if zero as u8 != cx.halos[0].fill || self.x.dtype == DType::I16 && zero != 0 {
            return None;
        }
        let mut x = self.x.clone();
        for d in 0..self.kernel.len() {
            let (before, behind) = cx.halos[0].at(d + 2);
            let (begin, end) = (self.pads.0[d], self.pads.1[d]);
            if before < begin || behind < end {
                return None;
            }
            x.view.shape[d + 2] += begin + end;
            x.view.offset -= begin as i64 * x.view.strides[d + 2];
        }
        Some(x)
    }

    /// x in place if it has the right form, else a copy with its padding (of zero points) around.
    fn operand(&self, cx: &mut LowerCx, words: bool) -> Factor {
        let want = match cx.target.i8_unsigned_a {
            _ if words => DType::I16,
            true => DType::U8,
            false => DType::I8,
        };
        let moved = match (self.x.dtype, want) {
            (DType::U8, DType::I8) => 128,
            (DType::I8, DType::U8) => -128,
            _ => 0,
        };
        let channels = self.x.view.shape[1] / self.group;
        let whole = channels == channels.next_multiple_of(k_group(want));
        let with_padding = if self.is_padded() { self.bordered(cx) } else { Some(self.x.clone()) };
        match with_padding {
            Some(arg) if moved == 0 && whole && arg.view.strides[1] == 1 && arg.dtype == want => {
                Factor { arg, channels, moved, short: false }
            }
            // A border that is there is copied too, if its extents are known.
            Some(x) if words && whole && x.view.is_fixed() => self.copied(cx, &x, false, want, moved),
            _ => self.copied(cx, &self.x, self.is_padded(), want, moved),
        }
    }

    /// A copy of x with elements of a type, and its padding around it if that is missing.
    pub(super) fn copied(&self, cx: &mut LowerCx, x: &Arg, padded: bool, want: DType, moved: i32) -> Factor {
        let channels = x.view.shape[1] / self.group;
        let whole = channels.next_multiple_of(k_group(want));
        let mut shape = x.view.shape.clone();
        shape[1] = whole * self.group;
        let mut first = vec![0i64; shape.len()];
        for d in (0..self.kernel.len()).filter(|_| padded) {
            shape[d + 2] += self.pads.0[d] + self.pads.1[d];
            first[d + 2] = self.pads.0[d] as i64;
        }
        let buf = cx.scratch(want, shape.iter().product(), false);
        let all = Arg { buf, dtype: want, view: channels_last(&shape), constant: None };
        let copy = Factor { arg: all.clone(), channels: whole, moved, short: false };
        let convert = |e: Expr, from: DType| {
            let wide = e.cast_from(from, DType::I32);
            let shifted = if moved == 0 { wide } else { wide.minus(int(DType::I32, i64::from(moved))) };
            shifted.cast_from(DType::I32, want)
        };
        let bytes = want != DType::I16;
        if padded || whole != channels {
            let zero = self.x_zero.as_ref().map_or_else(
                || int(want, i64::from(-moved)),
                |z| convert(cx.load(z, &vec![Expr::Int(0); z.view.shape.len()]), z.dtype),
            );
            if bytes { fill_bytes(cx, &all, zero) } else { nest::fill(cx, &all, &zero) }
        }
        if bytes && self.group == 1 && whole == 4 {
            self.quads(cx, &all, &first, &convert);
            return copy;
        }
        if bytes && whole == channels && copy_bytes(cx, x, &nest::part(&all, &first, &x.view.extents()), moved != 0) {
            return copy;
        }
        for g in 0..self.group as i64 {
            first[1] = g * whole as i64;
            let mut from_start = vec![0i64; shape.len()];
            from_start[1] = g * channels as i64;
            let mut extent = x.view.extents();
            extent[1] = channels.into();
            let (from, to) = (nest::part(x, &from_start, &extent), nest::part(&all, &first, &extent));
            cx.for_each(&extent, &to.view.strides.clone(), |cx, at| {
                let value = convert(cx.load(&from, at), from.dtype);
                cx.store(&to, at, value);
            });
        }
        copy
    }

    /// Writes the bytes of up to four channels, of which x may have planes, in one go for each pixel.
    fn quads(&self, cx: &mut LowerCx, all: &Arg, first: &[i64], convert: &dyn Fn(Expr, DType) -> Expr) {
        let channels = self.x.view.shape[1] as i64;
        let same = cx.func.buf(DType::I32, BufKind::Same(all.buf));
        let pixels = nest::part(all, first, &self.x.view.extents()).view;
        let outer = |list: &[i64]| [&list[..1], &list[2..]].concat();
        let mut extents = self.x.view.extents();
        extents.remove(1);
        let steps: Vec<i64> = outer(&pixels.strides).into_iter().map(|s| s / 4).collect();
        let view = nest::view(&extents, steps.clone(), pixels.offset / 4);
        let to = Arg { buf: same, dtype: DType::I32, view, constant: None };
        cx.for_each(&extents, &steps, |cx, at| {
            let mut quad: Option<Expr> = None;
            for c in 0..channels {
                let mut from = at.to_vec();
                from.insert(1, Expr::Int(c));
                let byte = convert(cx.load(&self.x, &from), self.x.dtype).cast_from(all.dtype, DType::I32);
                let byte = Expr::bin(BinOp::And, byte, int(DType::I32, 0xff));
                let byte = if c == 0 { byte } else { Expr::bin(BinOp::Shl, byte, int(DType::I32, 8 * c)) };
                quad = Some(quad.map_or(byte.clone(), |q| Expr::bin(BinOp::Or, q, byte)));
            }
            cx.store(&to, at, quad.unwrap_or_else(|| int(DType::I32, 0)));
        });
    }

    /// What is known of operand `n` of the program: the first one of a requantisation scales the sums.
    pub fn values(&self, cx: &LowerCx, n: usize, o: &Arg) -> Values {
        let values = tile::values(cx, o);
        let largest = |all: Vec<f32>| all.iter().fold(0.0, |m: f64, x| m.max(f64::from(x.abs())));
        let Some(largest) = tile::constants(cx, o).map(largest) else {
            return values;
        };
        // Elements of x and zero points are below 256, or 65536, and so are weights without theirs; the zero point of x takes as much off as there are products.
        let zero = self.w_zeros.iter().fold(0, |m, z| z.abs().max(m));
        let bias = self.bias.iter().flatten().fold(0, |m, b| b.unsigned_abs().max(m));
        let (most, half) = match self.x.dtype {
            DType::I16 => (65535.0, 32768),
            _ => (255.0, 128),
        };
        let sums = f64::from(bias) + 2.0 * most * f64::from(half + zero) * self.weights.per_filter() as f64;
        let scale = Values::power(largest * sums).filter(|_| values >= Values::Finite && self.is_scale(n));
        scale.map_or(values, Values::Scale)
    }

    /// True when the program multiplies sums with operand `n`.
    fn is_scale(&self, n: usize) -> bool {
        if self.program.nodes.iter().any(|node| float_sums::scale_of(&self.program, *node) == Some(n as u8 + 1)) {
            return true;
        }
        let op = |at: NodeIx| self.program.nodes[at as usize].op;
        let is_sum = |at: NodeIx| matches!(op(at), ScalarOp::Cast(sum) if op(sum) == ScalarOp::Arg(0));
        let is_operand = |at: NodeIx| op(at) == ScalarOp::Arg(n as u8 + 1);
        let product = |a: NodeIx, b: NodeIx| is_sum(a) && is_operand(b) || is_sum(b) && is_operand(a);
        self.program.nodes.iter().any(|n| matches!(n.op, ScalarOp::Bin(BinOp::Mul, a, b) if product(a, b)))
    }

    /// The zero point of x, if it is known when compiling.
    pub fn known_x_zero(&self) -> Option<i32> {
        let Some(zero) = &self.x_zero else { return Some(0) };
        zero.constant.as_ref()?.to_i64s()?.first().map(|z| *z as i32)
    }

    /// The zero point of x in the tile's bytes, as an i32 variable.
    fn x_zero(&self, cx: &mut LowerCx, moved: i32) -> Expr {
        let given = match &self.x_zero {
            Some(z) => cx.load(z, &vec![Expr::Int(0); z.view.shape.len()]).cast_from(z.dtype, DType::I32),
            None => int(DType::I32, 0),
        };
        Expr::Var(cx.let_(given.minus(int(DType::I32, i64::from(moved)))))
    }

    /// What the elements of each filter add up to, without its zero point.
    fn filter_sums(&self) -> Vec<i32> {
        let per_filter = self.weights.per_filter() as i32;
        self.weights
            .sums()
            .iter()
            .zip(&self.w_zeros)
            .map(|(sum, zero)| sum.wrapping_sub(per_filter.wrapping_mul(*zero)))
            .collect()
    }

    /// First values of the accumulators, `bias - zx * (sum(w) - k * zw)` of an x from which `moved` was taken, if they are known when compiling.
    pub fn first_values(&self, moved: i32) -> Option<Vec<i32>> {
        let zero = self.known_x_zero()? - moved;
        let value = |(f, sum): (usize, &i32)| {
            let first = self.bias.as_ref().map_or(0, |b| b[f]);
            first.wrapping_sub(zero.wrapping_mul(*sum)).wrapping_add(self.begin)
        };
        Some(self.filter_sums().iter().enumerate().map(value).collect())
    }

    /// The same in memory.
    pub fn start(&self, cx: &mut LowerCx, moved: i32) -> BufId {
        let m = self.y.view.shape[1] as usize;
        if let Some(values) = self.first_values(moved) {
            return along(cx, DType::I32, values.into_iter().flat_map(i32::to_le_bytes).collect(), 0, 1).buf;
        }
        let all = self.filter_sums();
        let (sum, first) = (|f: usize| all[f], |f: usize| self.bias.as_ref().map_or(0, |b| b[f]));
        let zero = self.x_zero(cx, moved);
        let table = |cx: &mut LowerCx, value: &dyn Fn(usize) -> i32| {
            cx.const_buf(DType::I32, (0..m).flat_map(|f| value(f).to_le_bytes()).collect())
        };
        let sums = table(cx, &sum);
        let firsts = self.bias.as_ref().map(|_| table(cx, &first));
        let buf = cx.scratch(DType::I32, m as u64 + 64, false);
        cx.for_(LoopKind::Vector, m as u64, |cx, j| {
            let first = firsts.map_or_else(|| int(DType::I32, 0), |b| nest::at(b, j.clone()));
            let value = first.minus(zero.mul(nest::at(sums, j.clone())));
            cx.push(Stmt::Store(buf, j, value));
        });
        buf
    }

    /// The target with `- zw * sum(x)` put in front of its program: the sums of all windows come from a product with ones.
    fn with_sums_of_x(&self, cx: &mut LowerCx, x: &Factor, target: Target) -> Target {
        let mut shape = self.y.view.shape.clone();
        shape[1] = self.group;
        let buf = cx.scratch(DType::I32, shape.iter().product(), false);
        let view = channels_last(&shape).with_open(self.y.view.open.clone());
        let sums = Arg { buf, dtype: DType::I32, view, constant: None };
        let mut identity = ScalarProgram::default();
        identity.arg(0, DType::I32);
        let ones = |cx: &mut LowerCx, (taps, channels, padded): (u64, u64, u64), nr: u32, _: &[(u64, i64)]| {
            let one = |k: usize, column: usize| u8::from(column == 0 && (k as u64 % padded) < channels);
            let (k, group) = ((taps * padded) as usize, k_group(x.arg.dtype) as usize);
            let panels = (0..self.group).flat_map(|_| tile::pack_bytes((k, group), 1, nr as usize, one)).collect();
            (cx.const_buf(DType::I8, panels), None)
        };
        self.product(cx, x, 1, &ones, None, &(sums.clone(), identity, Vec::new()));
        let rank = shape.len();
        let filters = self.y.view.shape[1] / self.group;
        // One sum per group: grouped convolutions with zero points spread them over the filters first.
        let sums = if self.group == 1 {
            sums
        } else {
            let full = &self.y.view.shape;
            let buf = cx.scratch(DType::I32, full.iter().product(), false);
            let spread = Arg { buf, dtype: DType::I32, view: channels_last(full), constant: None };
            for g in 0..self.group as i64 {
                let mut extent = self.y.view.extents();
                extent[1] = filters.into();
                let (mut start, mut start_sum) = (vec![0i64; rank], vec![0i64; rank]);
                (start[1], start_sum[1]) = (g * filters as i64, g);
                let mut from = nest::part(&sums, &start_sum, &extent);
                from.view.strides[1] = 0;
                nest::copy(cx, &from, &nest::part(&spread, &start, &extent));
            }
            spread
        };
        let zeros = along(cx, DType::I32, self.w_zeros.iter().flat_map(|z| z.to_le_bytes()).collect(), 1, rank);
        let mut program = ScalarProgram::default();
        let (acc, sum, zero) = (program.arg(0, DType::I32), program.arg(1, DType::I32), program.arg(2, DType::I32));
        let part = program.bin(BinOp::Mul, sum, zero);
        let result = program.bin(BinOp::Sub, acc, part);
        let program = super::behind(&program, result, &target.1, 2);
        let mut operands = vec![sums, zeros];
        operands.extend(target.2);
        (target.0, program, operands)
    }

    /// Are the weights small enough for products of a step to be added up in 16 bits, and is the target faster at it? Those of ones are where these are.
    fn is_short(&self, cx: &LowerCx) -> bool {
        let elements = (self.kernel.iter().product(), self.x.view.shape[1] / self.group);
        !cx.target.short_tiles.is_empty() && cx.target.i8_unsigned_a && !self.is_words() && self.weights.are_short(elements)
    }

    /// What is multiplied, and the tile for it: of short weights the most steps whose sums the weights permit in its panels.
    fn factors(&self, cx: &LowerCx, x: &Factor, (rows, filters): (u64, u64), nest: &Nest) -> (Factors, (u32, u32)) {
        let mut steps: Vec<u32> = cx.target.short_tiles.iter().map(|t| t.0).filter(|_| x.short).collect();
        steps.sort_unstable_by_key(|steps| std::cmp::Reverse(*steps));
        let fewest = steps.last().copied();
        let short = steps.into_iter().map(|steps| {
            let factors = Factors::ShortBytes(steps);
            (steps, factors, tile::scheduled(cx, factors, rows, filters))
        });
        let fits = |(steps, _, (_, nr)): &(u32, Factors, (u32, u32))| {
            let panels = self.weights.panels(self.group as usize, x.arg.dtype, self.elements(x), *nr);
            Some(*steps) == fewest || list::adds_up(cx, self.weights.tensor(), &panels, nest, *steps)
        };
        let all = if x.arg.dtype == DType::I16 { Factors::Words } else { Factors::Bytes };
        let found = short.into_iter().find(fits).map(|(_, factors, tile)| (factors, tile));
        found.unwrap_or_else(|| (all, tile::scheduled(cx, all, rows, filters)))
    }

    /// Elements of a filter: taps, channels, and the channels of a tap with those that fill up.
    fn elements(&self, x: &Factor) -> (u64, u64, u64) {
        (self.kernel.iter().product(), self.x.view.shape[1] / self.group, x.channels)
    }

    /// `target = program(sum over k of x * weight, operands)`; `weights` packs those of all groups for k of taps, channels, and the channels of a tap
    /// with those that fill up, a panel's width, and the nest of k.
    fn product(
        &self,
        cx: &mut LowerCx,
        x: &Factor,
        filters: u64,
        weights: &Pack,
        start: Option<BufId>,
        (y, program, operands): &Target,
    ) {
        let rank = y.view.shape.len();
        let spread: Vec<Vec<i64>> = operands.iter().map(|o| broadcast_strides(o, &y.view.shape)).collect();
        let xs = &x.arg.view.strides;
        let mut dims: Vec<tile::Dimension> =
            vec![(y.view.extent(0), xs[0], y.view.strides[0], spread.iter().map(|s| s[0]).collect())];
        for d in 0..rank - 2 {
            let step = xs[d + 2] * self.strides[d];
            dims.push((y.view.extent(d + 2), step, y.view.strides[d + 2], spread.iter().map(|s| s[d + 2]).collect()));
        }
        tile::merge(&mut dims);
        let (rows, a_row, c_row, row_steps) = dims.pop().expect("internal: dimensions");
        let mut nest: Nest = (0..rank - 2).map(|d| (self.kernel[d], xs[d + 2] * self.dilations[d])).collect();
        nest.push((x.channels, xs[1]));
        let (factors, (mr, nr)) = self.factors(cx, x, (rows.bound, filters), &nest);
        let elements = self.elements(x);
        let (b, list) = weights(cx, elements, nr, &nest);
        let panels = filters.div_ceil(u64::from(nr));
        let per_group = if list.is_some() { panels } else { panels * elements.0 * x.channels * u64::from(nr) } as i64;
        let f = filters as i64;
        let mut outer: Vec<Outer> =
            dims.into_iter().map(|(n, a, c, operands)| Outer { n, a, b: 0, c, bias: 0, operands }).collect();
        outer.push(Outer {
            n: self.group.into(),
            a: x.channels as i64 * xs[1],
            b: per_group,
            c: f * y.view.strides[1],
            bias: f,
            operands: spread.iter().map(|s| f * s[1]).collect(),
        });
        let operand = |(n, (o, (s, row))): (usize, (&Arg, (&Vec<i64>, &i64)))| Operand {
            buf: o.buf,
            dtype: o.dtype,
            start: o.view.offset,
            row: *row,
            per_column: s[1] == 1,
            values: self.values(cx, n, o),
        };
        let product = Product {
            outer,
            rows,
            cols: filters.into(),
            a: (x.arg.buf, x.arg.dtype, x.arg.view.offset),
            a_row,
            nest,
            open_k: None,
            b: (b, self.weights.packed(), 0),
            short: if let Factors::ShortBytes(steps) = factors { steps } else { 0 },
            table: None,
            list,
            c: (y.buf, y.dtype, y.view.offset),
            c_row,
            bias: start.map(|s| (s, 0)),
            epilogue: program.clone(),
            operands: operands.iter().zip(spread.iter().zip(&row_steps)).enumerate().map(operand).collect(),
            nr,
            mr,
        };
        tile::emit(cx, &product);
    }
}

/// Loops of k: counts and steps in elements of A.
type Nest = Vec<(u64, i64)>;

/// Packs weights, see [`Integer::product`].
type Pack<'a> = dyn Fn(&mut LowerCx, (u64, u64, u64), u32, &[(u64, i64)]) -> (BufId, Option<List>) + 'a;

/// Where results go: the argument, the program over the sums, its operands.
pub(super) type Target = (Arg, ScalarProgram, Vec<Arg>);

/// The multipliers `sx * sw / sy` of every filter as an operand along dimension `d`, computed when they are not constants.
pub(super) fn multipliers(cx: &mut LowerCx, (sx, sw, sy): (&Arg, &Arg, &Arg), m: u64, d: usize, rank: usize) -> Arg {
    let constant = |a: &Arg| a.constant.as_ref().and_then(onnxc_ir::Tensor::to_f64s);
    if let (Some(x), Some(w), Some(y)) = (constant(sx), constant(sw), constant(sy)) {
        let factor = |f: usize| x[0] as f32 * w[f % w.len()] as f32 / y[0] as f32;
        let bytes = (0..m as usize).flat_map(|f| factor(f).to_le_bytes()).collect();
        return along(cx, DType::F32, bytes, d, rank);
    }
    let buf = cx.scratch(DType::F32, m + 64, false);
    let one = |cx: &LowerCx, a: &Arg| cx.load(a, &vec![Expr::Int(0); a.view.shape.len()]).cast_from(a.dtype, DType::F32);
    cx.for_(LoopKind::Serial, m, |cx, j| {
        let per_filter = sw.view.shape.iter().product::<u64>() > 1;
        let w = if per_filter { cx.load(sw, std::slice::from_ref(&j)).cast_from(sw.dtype, DType::F32) } else { one(cx, sw) };
        let product = one(cx, sx).mul(w);
        let value = Expr::bin(BinOp::Div, product, one(cx, sy));
        cx.push(Stmt::Store(buf, j, value));
    });
    Arg { buf, dtype: DType::F32, view: vector_view(m, d, rank), constant: None }
}
