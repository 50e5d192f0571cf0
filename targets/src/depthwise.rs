//! Depthwise convolution of rows of outputs, channels in the lanes.
//!
//! For each group of channels the weights are loaded once if the registers allow it; outputs are then computed one row after another, a few at a
//! time so that the chains of additions overlap. What the windows of neighbouring rows share is a line of the cache for each pixel then, which stays
//! near; all channels of these rows together would not.

mod columns;
mod strip;

use std::collections::BTreeMap;

use onnxc_ir::DType;
use onnxc_ir::kernel::DepthwiseKernel;
use onnxc_ir::scalar::BinOp;

use crate::emitter::{Emitter, Lanes, Mem, Opd, Order, P, Ty, V, alloc_many};
use crate::epilogue::{Prepared, Stored};
use crate::error::Error;
use crate::program::{Eval, Held, Together, Val, load_operand};

/// Registers left for the epilogue and the operands of the sums.
const SPARE: usize = 4;
/// Bytes of a line of the caches.
const LINE: i64 = 64;
/// Vectors of channels that go side by side, at most: as many times the code.
const MOST_VECTORS: i64 = 2;
/// Registers for two values of x and a product.
const TEMPORARY: usize = 3;
/// Outputs that are computed at the same time: as many additions hide the latency of one, and more share what they read.
const LATENCY: usize = 4;
/// The same, at most.
const MOST_AT_ONCE: usize = 8;
/// Windows of more taps are gone through by loops: means over whole images have thousands.
const MOST_UNROLLED: usize = 128;

/// Emits the kernel. `careful`: one output at a time, weights stay in memory.
pub(crate) fn emit(e: &mut dyn Emitter, k: &DepthwiseKernel, careful: bool) -> Result<(), Error> {
    if k.rows.count == 0 || k.outputs == 0 && k.rows.count > 1 || k.rows.operands.len() != k.operands.len() {
        return Err(Error::Internal("a depthwise kernel without rows, or whose rows are not known".to_string()));
    }
    if !k.outside.is_empty() && (k.outputs == 0 || k.columns > 0 || k.taps.len() > MOST_UNROLLED) {
        return Err(Error::Internal("a depthwise kernel that cannot leave out taps".to_string()));
    }
    if k.columns > 0 {
        return columns::emit(e, k, careful);
    }
    let prepared = crate::epilogue::prepare(&k.epilogue, &k.operands, k.y_dtype, e);
    let lanes = i64::from(e.lanes());
    let full = i64::from(k.channels) / lanes;
    let rest = i64::from(k.channels) % lanes;
    let (ty, acc) = if k.x_dtype == DType::F32 { (Ty::F32, DType::F32) } else { (Ty::I32, DType::I32) };
    let row = Row {
        k,
        prepared: &prepared,
        together: &Together::new(&prepared.program, &k.operands, e.has_lesser()),
        careful,
        ty,
        acc,
    };
    if full > 3 {
        let (ptrs, of_line) = (row.pointers(e)?, row.vectors_of_line(e));
        for (times, vectors) in [(full / of_line, of_line), (full % of_line, 1)].into_iter().filter(|(times, _)| *times > 0) {
            let block = e.repeat(times as u64)?;
            row.group(e, &ptrs, (0, vectors), Lanes::All)?;
            row.next_group(e, &ptrs, vectors * lanes)?;
            e.end(block)?;
        }
        if rest > 0 {
            row.group(e, &ptrs, (0, 1), Lanes::First(rest as u32))?;
        }
        return Ok(());
    }
    let ptrs = row.pointers(e)?;
    for g in 0..full {
        row.group(e, &ptrs, (g * lanes, 1), Lanes::All)?;
    }
    if rest > 0 {
        row.group(e, &ptrs, (full * lanes, 1), Lanes::First(rest as u32))?;
    }
    Ok(())
}

/// A sum.
struct Place {
    sum: V,
    /// The row and the number of the output.
    output: (i64, i64),
    channel: i64,
    lanes: Lanes,
}

/// Rows that are gone through: how many times, and how many at a time.
type Rows = (u32, i64);

/// Sums of neighbouring outputs, and the number of the first of these.
type Sums<'v> = (usize, &'v [V]);

/// Emits outputs: the number of their width, and that of the first.
type SomeOutputs<'a> = dyn FnMut(&mut dyn Emitter, &Ptrs, usize, usize) -> Result<(), Error> + 'a;

/// Taps at equal distances in rows at equal distances.
struct Window {
    rows: usize,
    columns: usize,
    /// Bytes between rows, and between the taps of one.
    row: i64,
    step: i64,
}

impl Window {
    fn of(taps: &[i64]) -> Option<Window> {
        let step = taps.get(1)? - taps[0];
        let columns = taps.windows(2).position(|t| t[1] - t[0] != step).map_or(taps.len(), |last| last + 1);
        let row = taps.get(columns).map_or(0, |t| t - taps[0]);
        let window = Window { rows: taps.len() / columns, columns, row, step };
        let at = |i: usize| taps[0] + (i / columns) as i64 * row + (i % columns) as i64 * step;
        let regular = taps.len().is_multiple_of(columns) && taps.iter().enumerate().all(|(i, t)| *t == at(i));
        // Pointers that move have the first taps where they were.
        (regular && taps[0] == 0).then_some(window)
    }
}

struct Row<'k> {
    k: &'k DepthwiseKernel,
    prepared: &'k Prepared,
    together: &'k Together,
    careful: bool,
    /// The accumulators.
    ty: Ty,
    acc: DType,
}

/// Pointers at the start of the first row.
struct Ptrs {
    x: P,
    w: P,
    y: P,
    bias: Option<P>,
    ops: Vec<P>,
    /// The outputs of a row where they come with the call.
    n: Option<P>,
}

impl Ptrs {
    /// Pointers that go along the row while these stay.
    fn moving(&self, e: &mut dyn Emitter) -> Result<Ptrs, Error> {
        let (x, y) = (e.copy_ptr(self.x)?, e.copy_ptr(self.y)?);
        let n = self.n.map(|n| e.copy_ptr(n)).transpose()?;
        let ops = self.ops.iter().map(|q| e.copy_ptr(*q)).collect::<Result<_, _>>()?;
        Ok(Ptrs { x, y, n, ops, ..*self })
    }

    /// Gives those back.
    fn free(self, e: &mut dyn Emitter) {
        [self.x, self.y].into_iter().chain(self.n).chain(self.ops).for_each(|q| e.free_ptr(q));
    }
}

impl Row<'_> {
    fn pointers(&self, e: &mut dyn Emitter) -> Result<Ptrs, Error> {
        let first = 3 + usize::from(self.k.bias);
        let (x, w, y) = (e.arg(0)?, e.arg(1)?, e.arg(2)?);
        let bias = if self.k.bias { Some(e.arg(3)?) } else { None };
        let ops = (0..self.k.operands.len()).map(|i| e.arg(first + i)).collect::<Result<_, _>>()?;
        let n = if self.k.outputs == 0 { Some(e.arg(first + self.k.operands.len())?) } else { None };
        Ok(Ptrs { x, w, y, bias, ops, n })
    }

    /// Moves the pointers on by `channels` channels.
    fn next_group(&self, e: &mut dyn Emitter, p: &Ptrs, channels: i64) -> Result<(), Error> {
        e.advance(p.x, self.k.x_dtype.bytes() as i64 * channels)?;
        e.advance(p.y, self.k.y_dtype.bytes() as i64 * channels)?;
        for q in [Some(p.w), p.bias].into_iter().flatten() {
            e.advance(q, 4 * channels)?;
        }
        for (q, operand) in p.ops.iter().zip(&self.k.operands).filter(|o| o.1.per_column) {
            e.advance(*q, channels * operand.dtype.bytes() as i64)?;
        }
        Ok(())
    }

    /// Moves pointers along the row by so many outputs.
    fn next_outputs(&self, e: &mut dyn Emitter, p: &Ptrs, outputs: i64) -> Result<(), Error> {
        self.move_by(e, p, outputs, 0)
    }

    /// Goes along rows, `widths[i]` outputs at a time as long as there are so many, then as many as the next one says; their last one leaves none.
    /// `begin` comes before each row, `some` gets the number of the width and that of its first output, if outputs are not alike.
    fn along(
        &self,
        e: &mut dyn Emitter,
        start: &Ptrs,
        (times, at_once): Rows,
        widths: &[usize],
        begin: &mut dyn FnMut(&mut dyn Emitter, &Ptrs) -> Result<(), Error>,
        some: &mut SomeOutputs,
    ) -> Result<(), Error> {
        if let Some(n) = start.n {
            debug_assert_eq!((times, at_once), (1, 1), "internal: targets: rows that come with the call");
            let p = start.moving(e)?;
            let n = p.n.unwrap_or(n);
            begin(e, &p)?;
            for (i, width) in widths.iter().enumerate() {
                let open = e.while_at_least(n, *width as u32)?;
                some(e, &p, i, 0)?;
                self.next_outputs(e, &p, *width as i64)?;
                e.end(open)?;
            }
            p.free(e);
            return Ok(());
        }
        // Where all is known the pointers come back by themselves: no others are needed.
        let outputs = self.k.outputs as usize;
        let around = if times > 1 { Some(e.repeat(u64::from(times))?) } else { None };
        begin(e, start)?;
        let mut left = outputs;
        for (i, width) in widths.iter().enumerate() {
            let times = left / width;
            let alike = self.k.outside.is_empty();
            let open = if alike && times > 1 { Some(e.repeat(times as u64)?) } else { None };
            for _ in 0..if alike { times.min(1) } else { times } {
                some(e, start, i, if alike { 0 } else { outputs - left })?;
                self.next_outputs(e, start, *width as i64)?;
                left -= width;
            }
            open.map_or(Ok(()), |open| e.end(open))?;
            left %= width;
        }
        debug_assert_eq!(left, 0, "internal: targets: all outputs of a row");
        let back = -(outputs as i64);
        match around {
            Some(around) => {
                self.move_by(e, start, back, at_once)?;
                e.end(around)?;
                self.move_by(e, start, 0, -i64::from(times) * at_once)
            }
            None => self.next_outputs(e, start, back),
        }
    }

    /// Moves pointers by so many outputs and rows.
    fn move_by(&self, e: &mut dyn Emitter, p: &Ptrs, outputs: i64, rows: i64) -> Result<(), Error> {
        let (k, r) = (self.k, &self.k.rows);
        e.advance(p.x, outputs * k.x_step + rows * r.x)?;
        e.advance(p.y, outputs * k.y_step + rows * r.y)?;
        let ops = p.ops.iter().zip(&k.operands).zip(&r.operands);
        ops.into_iter().try_for_each(|((q, operand), row)| e.advance(*q, outputs * operand.row + rows * row))
    }

    /// How many outputs there is room for with the weights in registers, if that is enough.
    fn beside_weights(&self, e: &dyn Emitter) -> Option<usize> {
        let room = e.available().saturating_sub(self.k.taps.len() + TEMPORARY + SPARE);
        Some(room).filter(|room| !self.careful && *room >= 3)
    }

    /// Vectors of channels that are gone through side by side: pixels of many channels are lines far from each other, which leave the first cache before the
    /// next vector of channels needs the rest of them. Where weights are loaded again and again, those of another vector cost no more.
    fn vectors_of_line(&self, e: &dyn Emitter) -> i64 {
        let vector = self.k.x_dtype.bytes() as i64 * i64::from(e.lanes());
        if self.careful || self.beside_weights(e).is_some() { 1 } else { (LINE / vector).clamp(1, MOST_VECTORS) }
    }

    /// Some vectors of channels, `channel` after the pointers.
    fn group(&self, e: &mut dyn Emitter, start: &Ptrs, (channel, vectors): (i64, i64), lanes: Lanes) -> Result<(), Error> {
        let taps = self.k.taps.len();
        let room = self.beside_weights(e);
        // Otherwise some weights are loaded at a time; the epilogue takes the registers of these once the sums are complete.
        let beside = (self.together.registers(1) - 1).max(TEMPORARY + SPARE);
        let most = room.unwrap_or_else(|| e.available().saturating_sub(beside).max(LATENCY));
        let keep = room.is_some();
        let widths = self.widths(most.min(MOST_AT_ONCE), keep);
        let at_once = widths[0];
        let weights = if keep { alloc_many(e, self.ty, taps)? } else { Vec::new() };
        for (t, v) in weights.iter().enumerate() {
            e.load(*v, self.acc, Mem { base: start.w, disp: t as i64 * self.k.w_step + 4 * channel }, lanes)?;
        }
        let others = self.together.registers(at_once).max(at_once + TEMPORARY);
        let held = if keep { Held::load(e, &self.prepared.program, others)? } else { Held::default() };
        self.along(e, start, (self.k.rows.count, 1), &widths, &mut |_, _| Ok(()), &mut |e, p, i, first| {
            let channels = (0..vectors).map(|v| channel + v * i64::from(e.lanes())).collect::<Vec<_>>();
            channels.into_iter().try_for_each(|c| self.outputs(e, p, (&weights, &held), (first, widths[i]), c, lanes))
        })?;
        held.free(e);
        weights.into_iter().for_each(|v| e.free(v));
        Ok(())
    }

    /// How many outputs are computed at the same time, as long as there are so many, then fewer; at most `most`. `keep`: the weights stay in registers.
    fn widths(&self, most: usize, keep: bool) -> Vec<usize> {
        let (n, taps) = (self.k.outputs as usize, self.k.taps.len());
        if self.careful {
            return vec![1];
        }
        if n == 0 {
            // Few outputs are common too: rows of 7 are 4 + 2 + 1.
            return std::iter::successors(Some(most.min(LATENCY)), |n| Some(n / 2).filter(|n| *n > 0)).collect();
        }
        let begin = if keep { LATENCY } else { taps };
        let some = |width: usize| if width > 0 { width.max(LATENCY) * taps + begin } else { 0 };
        let time = |width: &usize| n / width * some(*width) + some(n % width);
        let width = (1..=most.min(n)).min_by_key(time).expect("internal: targets: a row has an output");
        [width, n % width].into_iter().filter(|w| *w > 0).collect()
    }

    /// `width` neighbouring outputs of one group, of which the first has a number.
    fn outputs(
        &self,
        e: &mut dyn Emitter,
        p: &Ptrs,
        (weights, held): (&[V], &Held),
        (first, width): (usize, usize),
        channel: i64,
        lanes: Lanes,
    ) -> Result<(), Error> {
        let acc = alloc_many(e, self.ty, width)?;
        for v in &acc {
            match p.bias {
                Some(bias) => e.load(*v, self.acc, Mem { base: bias, disp: 4 * channel }, lanes)?,
                None => e.copy(self.ty, *v, Opd::Const(0))?,
            }
        }
        if weights.is_empty() {
            self.sum_in_parts(e, p, (first, &acc), channel, lanes)?;
        } else {
            self.sum(e, p, (first, &acc), (0, weights), channel, lanes)?;
        }
        let place = |(o, sum): (usize, V)| Place { sum, output: (0, o as i64), channel, lanes };
        let places: Vec<Place> = acc.into_iter().enumerate().map(place).collect();
        self.finish(e, p, held, Order::Natural, &places)
    }

    /// The sums with weights from memory, as many at a time as there are registers for.
    fn sum_in_parts(&self, e: &mut dyn Emitter, p: &Ptrs, acc: Sums, channel: i64, lanes: Lanes) -> Result<(), Error> {
        let taps = self.k.taps.len();
        let room = if self.careful { 1 } else { e.available().saturating_sub(TEMPORARY).clamp(1, taps) };
        let window = Window::of(&self.k.taps).filter(|_| taps > MOST_UNROLLED);
        let columns = window.as_ref().map_or(taps, |w| w.columns);
        // Parts of equal size.
        let most = columns.div_ceil(columns.div_ceil(room));
        let weights = alloc_many(e, self.ty, most)?;
        match window {
            Some(window) => self.sum_in_loops(e, p, acc, (&window, &weights), channel, lanes)?,
            None => (0..taps)
                .step_by(most)
                .try_for_each(|first| self.part(e, p, acc, (first, &weights[..most.min(taps - first)]), channel, lanes))?,
        }
        weights.into_iter().for_each(|v| e.free(v));
        Ok(())
    }

    /// The terms of as many taps as there are registers for weights, from `first` on.
    fn part(
        &self,
        e: &mut dyn Emitter,
        p: &Ptrs,
        acc: Sums,
        (first, weights): (usize, &[V]),
        channel: i64,
        lanes: Lanes,
    ) -> Result<(), Error> {
        for (t, w) in weights.iter().enumerate() {
            e.load(*w, self.acc, Mem { base: p.w, disp: (first + t) as i64 * self.k.w_step + 4 * channel }, lanes)?;
        }
        self.sum(e, p, acc, (first, weights), channel, lanes)
    }

    /// The sums over a window by loops over its rows and parts of them. The pointers move through the window and back.
    fn sum_in_loops(
        &self,
        e: &mut dyn Emitter,
        p: &Ptrs,
        acc: Sums,
        (window, weights): (&Window, &[V]),
        channel: i64,
        lanes: Lanes,
    ) -> Result<(), Error> {
        let (most, step) = (weights.len(), window.step);
        let along = |e: &mut dyn Emitter, taps: usize| {
            self.part(e, p, acc, (0, &weights[..taps]), channel, lanes)?;
            e.advance(p.x, taps as i64 * step)?;
            e.advance(p.w, taps as i64 * self.k.w_step)
        };
        let rows = e.repeat(window.rows as u64)?;
        let parts = e.repeat((window.columns / most) as u64)?;
        along(e, most)?;
        e.end(parts)?;
        if window.columns % most > 0 {
            along(e, window.columns % most)?;
        }
        e.advance(p.x, window.row - window.columns as i64 * step)?;
        e.end(rows)?;
        e.advance(p.x, -(window.rows as i64) * window.row)?;
        e.advance(p.w, -((window.rows * window.columns) as i64) * self.k.w_step)
    }

    /// The terms of some taps, from `first` on. Neighbouring outputs share most of what they read, which is loaded once; each sum is taken in the order of
    /// its taps all the same.
    fn sum(
        &self,
        e: &mut dyn Emitter,
        p: &Ptrs,
        acc: Sums,
        (first, weights): (usize, &[V]),
        channel: i64,
        lanes: Lanes,
    ) -> Result<(), Error> {
        let (output, acc) = acc;
        let inside = |t: usize, o: usize| !self.k.outside.contains(&((output + o) as u32, (first + t) as u32));
        let mut places: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
        for (t, tap) in self.k.taps[first..][..weights.len()].iter().enumerate() {
            (0..acc.len())
                .filter(|o| inside(t, *o))
                .for_each(|o| places.entry(tap + o as i64 * self.k.x_step).or_default().push((t, o)));
        }
        let (xs, product) = (alloc_many(e, self.ty, 2)?, e.alloc(self.ty)?);
        for (n, (disp, uses)) in places.into_iter().enumerate() {
            let x = xs[n % 2];
            e.load(x, self.k.x_dtype, self.x_at(p, disp, channel), lanes)?;
            for (t, o) in uses {
                self.add_product(e, acc[o], x, weights[t], product)?;
            }
        }
        xs.into_iter().chain([product]).for_each(|v| e.free(v));
        Ok(())
    }

    fn x_at(&self, p: &Ptrs, disp: i64, channel: i64) -> Mem {
        Mem { base: p.x, disp: disp + self.k.x_dtype.bytes() as i64 * channel }
    }

    /// `acc += x * w`; the product of integers may be left in a register.
    fn add_product(&self, e: &mut dyn Emitter, acc: V, x: V, w: V, product: V) -> Result<(), Error> {
        if self.ty == Ty::F32 {
            return e.fma(acc, Opd::Reg(x), Opd::Reg(w), Opd::Reg(acc));
        }
        e.bin(BinOp::Mul, self.ty, product, Opd::Reg(x), Opd::Reg(w))?;
        e.bin(BinOp::Add, self.ty, acc, Opd::Reg(acc), Opd::Reg(product))
    }

    /// Epilogue and store of some sums.
    fn finish(&self, e: &mut dyn Emitter, p: &Ptrs, held: &Held, order: Order, places: &[Place]) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let most = if self.careful { 1 } else { self.together.width(places.len(), e.available(), true) };
        let together = self.prepared.together();
        for chunk in places.chunks(most.max(together)) {
            let mut stored: Vec<Stored> = Vec::new();
            for some in chunk.chunks(most) {
                stored.extend(self.results(e, p, held, some)?);
            }
            stored.chunks(together).try_for_each(|some| self.prepared.store(e, self.k.y_dtype, order, some))?;
        }
        Ok(())
    }

    /// Operand `n` of the epilogue of a sum.
    fn operand(&self, e: &mut dyn Emitter, p: &Ptrs, n: usize, place: &Place) -> Result<Val, Error> {
        let Place { output: (row, o), channel, lanes, .. } = *place;
        let operand = &self.k.operands[n];
        let column = if operand.per_column { channel * operand.dtype.bytes() as i64 } else { 0 };
        let disp = row * self.k.rows.operands[n] + o * operand.row + column;
        load_operand(e, operand.dtype, Mem { base: p.ops[n], disp }, operand.per_column, lanes)
    }

    /// The results of some sums.
    fn results(&self, e: &mut dyn Emitter, p: &Ptrs, held: &Held, places: &[Place]) -> Result<Vec<Stored>, Error> {
        let mut read = vec![false; places.len()];
        let mut args = |e: &mut dyn Emitter, k: usize, n: u8, _: DType| -> Result<Val, Error> {
            let Place { sum, channel, .. } = places[k];
            if n == 0 {
                read[k] = true;
                return Ok(Val::Own(sum));
            }
            let n = n as usize - 1;
            let vector = (channel / i64::from(e.lanes())) as usize;
            held.operand(n, vector).map_or_else(|| self.operand(e, p, n, &places[k]), Ok)
        };
        let mut evals: Vec<Eval> =
            places.iter().map(|_| Eval::of_epilogue(&self.prepared.program, &self.k.operands, held, e.has_lesser())).collect();
        let results = self.together.run(e, &mut evals, &mut args)?;
        let mut stored = Vec::new();
        for (((v, own), place), read) in results.into_iter().zip(places).zip(read) {
            let (row, o) = place.output;
            let disp = row * self.k.rows.y + o * self.k.y_step + self.k.y_dtype.bytes() as i64 * place.channel;
            stored.push((v, own, Mem { base: p.y, disp }, place.lanes));
            if !read {
                e.free(place.sum);
            }
        }
        Ok(stored)
    }
}
