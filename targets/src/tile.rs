//! The tile of matmul and direct convolution, written once for every instruction set.
//!
//! The accumulators of `mr` rows by `cols` columns stay in registers over the whole nest; B is read once per step, A by broadcast.

use std::ops::Range;

use onnxc_ir::DType;
use onnxc_ir::kernel::{Less, NUMBERS, TileKernel};
use onnxc_ir::scalar::BinOp;

use crate::emitter::{Dot, Emitter, Lanes, Mem, Opd, Order, P, Table, Ty, V, alloc_many};
use crate::epilogue::{Prepared, Stored};
use crate::error::Error;
use crate::program::{Eval, Held, Together, Val, lane_type, load_operand};
use short::InA;

mod halves;
mod listed;
mod short;
mod streams;

/// Distance in bytes at which packed weights are prefetched.
const PREFETCH: i64 = 4096;
/// Bytes of a line of the caches.
const LINE: i64 = 64;
/// Innermost steps that are emitted behind each other.
const UNROLL: u32 = 4;
/// Epilogues with more nodes than this run as a loop over rows, after the accumulators were stored.
const LONG_EPILOGUE: usize = 24;

/// Vectors whose long epilogues go together, if a row has no more.
const AT_ONCE: usize = 4;

/// A vector: its accumulator if that is in a register, its row and its number in the row.
type Place = (Option<V>, i64, i64);

/// What the epilogues of all vectors have in common.
struct Epilogue<'t> {
    prepared: &'t Prepared,
    together: &'t Together,
    held: Held,
    acc_dtype: DType,
}

/// What is constant during emission.
struct Tile<'k> {
    k: &'k TileKernel,
    integers: bool,
    /// What their products are of.
    dot: Dot,
    lanes: i64,
    /// Vectors of B per step, and those that have columns to be written.
    nv: i64,
    used: i64,
    /// The table that B has numbers of.
    table: Option<Table>,
    /// Where differences of B are kept, where it is made of them.
    kept: Option<P>,
}

/// Registers that `careful` code leaves to the epilogue.
const SPARE: usize = 5;

/// Emits the tile. `careful` code uses fewer registers: it handles a few rows after another, and the epilogue reads the accumulators back from C
/// where it can.
pub(crate) fn emit(e: &mut dyn Emitter, k: &TileKernel, careful: bool) -> Result<(), Error> {
    let mut t = check(e, k)?;
    let program = crate::epilogue::prepare(&k.epilogue, &k.operands, k.c_dtype, e);
    let (a, b, c) = (e.arg(0)?, e.arg(1)?, e.arg(2)?);
    if k.has_table() {
        let table = e.arg(t.behind_operands() + usize::from(k.ahead > 0))?;
        t.table = Some(e.load_table(table)?);
    }
    let kept = k.less.map(|_| e.arg(t.behind_operands() + usize::from(k.ahead > 0))).transpose()?;
    let rows = i64::from(k.mr);
    let at_once = if careful { t.careful_rows(e)? } else { t.rows_at_once(&program) };
    for first in (0..rows).step_by(at_once as usize) {
        let end = rows.min(first + at_once);
        let part = end < rows || first > 0;
        // The first rows make differences, the others find them.
        let b = kept.filter(|_| first > 0).unwrap_or(b);
        let (a, b) = if part { (e.copy_ptr(a)?, e.copy_ptr(b)?) } else { (a, b) };
        t.kept = match kept.filter(|_| first == 0) {
            Some(p) if part => Some(e.copy_ptr(p)?),
            p => p,
        };
        e.advance(a, first * k.a_row)?;
        t.rows(e, &program, (a, b, c), first..end, careful)?;
    }
    Ok(())
}

fn check<'k>(e: &dyn Emitter, k: &'k TileKernel) -> Result<Tile<'k>, Error> {
    let (integers, dot) = match (k.a_dtype, k.b_dtype) {
        (DType::F32, DType::F32 | DType::I8 | DType::U4) => (false, Dot::Signed),
        (DType::U8, DType::I8) => (true, if k.short > 0 { Dot::Short } else { Dot::Unsigned }),
        (DType::I8, DType::I8) => (true, Dot::Signed),
        (DType::I16, DType::I16) => (true, Dot::Words),
        (DType::I16, DType::I8) => (true, Dot::Widened),
        (a, b) => return Err(Error::Unsupported(format!("tiles of {a} by {b}"))),
    };
    let lanes = i64::from(e.lanes());
    if k.mr == 0 || k.cols == 0 || k.cols > k.nr || !k.nr.is_multiple_of(e.lanes()) {
        return Err(Error::Internal(format!("tile {}x{} with {} columns on {lanes} lanes", k.mr, k.nr, k.cols)));
    }
    if k.less.is_some() && (k.b_dtype != DType::F32 || k.list || k.open_k) {
        return Err(Error::Internal("differences of what is coded, listed or open".into()));
    }
    let used = i64::from(k.cols.div_ceil(e.lanes()));
    Ok(Tile { k, integers, dot, lanes, nv: i64::from(k.nr) / lanes, used, table: None, kept: None })
}

/// The pointers after an open loop are unknown, so that nothing can be around it; a list has its own count, and numbers have none that is open.
fn k_is_wrong(k: &TileKernel) -> bool {
    k.open_k && (k.nest.len() != 1 || k.list || k.has_table())
}

impl Tile<'_> {
    /// Rows of careful code that are computed at the same time.
    fn careful_rows(&self, e: &dyn Emitter) -> Result<i64, Error> {
        match e.available().saturating_sub(self.factors(e) + SPARE) as i64 / self.used {
            0 => Err(Error::Registers("vectors")),
            rows => Ok(rows),
        }
    }

    /// Number of the argument behind those of the epilogue.
    fn behind_operands(&self) -> usize {
        3 + usize::from(self.k.bias) + self.k.operands.len()
    }

    /// Steps of k that are emitted behind each other in loops of unknown and of great length: all of a word of numbers.
    fn unroll(&self) -> u32 {
        if self.k.has_table() { NUMBERS as u32 } else { UNROLL }
    }

    /// Steps of a loop of so many that are emitted behind each other.
    fn unrolled(&self, count: u32) -> u32 {
        if count <= 2 * self.unroll() { count } else { self.unroll() }
    }

    /// Where step `u` behind the place of a pointer is in B: bytes, and which of the numbers of a word.
    fn b_at(&self, u: i64) -> (i64, u32) {
        if self.k.has_table() {
            let word = u / NUMBERS as i64;
            return (self.b_bytes(word * NUMBERS as i64), (u % NUMBERS as i64) as u32);
        }
        (self.b_bytes(u), 0)
    }

    /// Bytes of B in so many steps.
    fn b_bytes(&self, steps: i64) -> i64 {
        self.k.b_bytes(steps as u64) as i64
    }

    /// Some rows of the tile. `a` points at the first of them; `a` and `b` are given back.
    fn rows(
        &self,
        e: &mut dyn Emitter,
        prepared: &Prepared,
        (a, b, c): (P, P, P),
        rows: Range<i64>,
        through_c: bool,
    ) -> Result<(), Error> {
        let (k, program) = (self.k, &prepared.program);
        let (acc_ty, acc_dtype) = if self.integers { (Ty::I32, DType::I32) } else { (Ty::F32, DType::F32) };
        let acc = alloc_many(e, acc_ty, ((rows.end - rows.start) * self.used) as usize)?;
        self.init(e, &acc, c, rows.clone())?;
        self.fetch_for_epilogue(e, rows.clone())?;
        self.steps(e, &acc, (a, b), through_c)?;
        [Some(a), Some(b), self.kept].into_iter().flatten().for_each(|p| e.free_ptr(p));
        if program.is_identity() && k.c_dtype == acc_dtype {
            return self.store_all(e, &acc, c, acc_dtype, rows);
        }
        if k.c_dtype.bytes() == 4 && k.mr > 1 && (through_c || program.nodes.len() > LONG_EPILOGUE) {
            self.store_all(e, &acc, c, acc_dtype, rows.clone())?;
            return self.epilogue_loop(e, prepared, (c, acc_dtype), rows, through_c);
        }
        let ops = self.operand_pointers(e)?;
        let mut epilogue = Epilogue {
            prepared,
            together: &Together::new(program, &k.operands, e.has_lesser()),
            held: Held::default(),
            acc_dtype,
        };
        let places: Vec<Place> =
            rows.clone().flat_map(|i| (0..self.used).map(move |j| (i, j))).zip(acc).map(|((i, j), v)| (Some(v), i, j)).collect();
        // Three vectors of a row are better stored by themselves than with one of the next row.
        let together = if self.used == 3 { prepared.together().min(3) } else { prepared.together() };
        for first in (0..places.len()).step_by(together) {
            self.hold(e, &mut epilogue, &ops, &places[first..])?;
            let some = &places[first..places.len().min(first + together)];
            self.finish(e, &epilogue, (c, &ops), some)?;
        }
        e.drop_order();
        epilogue.held.free(e);
        Ok(())
    }

    /// Brings near what the epilogue will read of each row, while the products go on.
    fn fetch_for_epilogue(&self, e: &mut dyn Emitter, rows: Range<i64>) -> Result<(), Error> {
        let first = 3 + usize::from(self.k.bias);
        for (n, operand) in self.k.operands.iter().enumerate().filter(|(_, o)| o.row != 0 && o.per_column) {
            let p = e.arg(first + n)?;
            let bytes = i64::from(self.k.cols) * operand.dtype.bytes() as i64;
            for row in rows.clone() {
                for line in (0..bytes).step_by(LINE as usize) {
                    e.prefetch(Mem { base: p, disp: row * operand.row + line }, false)?;
                }
            }
        }
        Ok(())
    }

    /// Columns of vector `j` of a row that are written.
    fn columns(&self, j: usize) -> u32 {
        (i64::from(self.k.cols) - j as i64 * self.lanes).min(self.lanes) as u32
    }

    fn lanes_of(&self, j: i64) -> Lanes {
        let left = i64::from(self.k.cols) - j * self.lanes;
        if left >= self.lanes { Lanes::All } else { Lanes::First(left as u32) }
    }

    fn c_at(&self, c: P, i: i64, j: i64, row: i64) -> Mem {
        Mem { base: c, disp: i * row + j * self.lanes * self.k.c_dtype.bytes() as i64 }
    }

    fn init(&self, e: &mut dyn Emitter, acc: &[V], c: P, rows: Range<i64>) -> Result<(), Error> {
        let (dtype, ty) = if self.integers { (DType::I32, Ty::I32) } else { (DType::F32, Ty::F32) };
        let used = self.used;
        let bias = if self.k.bias { Some(e.arg(3)?) } else { None };
        for i in rows.clone() {
            for j in 0..used {
                let v = acc[((i - rows.start) * used + j) as usize];
                if self.k.accumulate {
                    e.load(v, dtype, self.c_at(c, i, j, self.k.c_row), self.lanes_of(j))?;
                } else if let (Some(bias), 0) = (bias, i - rows.start) {
                    e.load(v, dtype, Mem { base: bias, disp: j * self.lanes * 4 }, self.lanes_of(j))?;
                } else if bias.is_some() {
                    e.copy(ty, v, Opd::Reg(acc[j as usize]))?;
                } else {
                    e.copy(ty, v, Opd::Const(0))?;
                }
            }
        }
        Ok(())
    }

    /// Loops without rounds of one and with neighbouring levels joined where that changes no address.
    fn nest(&self) -> Vec<(u32, i64)> {
        let mut nest: Vec<(u32, i64)> = Vec::new();
        // Words of numbers are those of the innermost loop, whatever its length is.
        let inner = if self.k.has_table() { self.k.nest.len() } else { 0 };
        // Steps that go together are of one round of the loops around them, whether these can be joined or not.
        let joins = |count: u32| !self.k.open_k && !self.k.has_table() && count.is_multiple_of(self.together());
        for &(count, step) in self.k.nest.iter().enumerate().filter(|(n, l)| l.0 != 1 || n + 1 == inner).map(|(_, l)| l) {
            match nest.last_mut() {
                Some(last) if joins(count) && last.1 == i64::from(count) * step => *last = (last.0 * count, step),
                _ => nest.push((count, step)),
            }
        }
        if nest.is_empty() {
            nest.push((1, self.k.nest.last().map_or(0, |l| l.1)));
        }
        nest
    }

    fn steps(&self, e: &mut dyn Emitter, acc: &[V], (a, b): (P, P), through_c: bool) -> Result<(), Error> {
        let nest = self.nest();
        if k_is_wrong(self.k) {
            return Err(Error::Internal("an open k with other loops around it".into()));
        }
        if nest.iter().any(|l| l.0 == 0) && !self.k.list {
            return Ok(());
        }
        let (a_regs, b_regs) = self.factor_registers(e, acc.len() / self.used as usize)?;
        if self.k.list {
            self.listed(e, acc, (a, b), (&a_regs, &b_regs), through_c)?;
        } else {
            self.nested(e, acc, (a, b), (&a_regs, &b_regs), &nest, through_c)?;
        }
        b_regs.into_iter().chain(a_regs).for_each(|v| e.free(v));
        Ok(())
    }

    /// Registers for A and B.
    fn factor_registers(&self, e: &mut dyn Emitter, rows: usize) -> Result<(Vec<V>, Vec<V>), Error> {
        if self.together() > 1 {
            return self.factors_together(e);
        }
        let ty = if self.integers { Ty::I32 } else { Ty::F32 };
        let parts = if self.integers { e.dot_parts(self.dot) } else { 1 };
        let b = alloc_many(e, ty, self.used as usize * parts)?;
        let temps = if self.integers { e.dot_temps(self.dot) } else { 0 };
        let sets = (e.available().saturating_sub(temps) / parts).clamp(1, 4).min(rows);
        Ok((alloc_many(e, ty, sets * parts)?, b))
    }

    /// The steps of a nest of loops.
    fn nested(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        (a, b): (P, P),
        regs: (&[V], &[V]),
        nest: &[(u32, i64)],
        through_c: bool,
    ) -> Result<(), Error> {
        let (inner, outer) = nest.split_last().expect("internal: targets: a nest has a level");
        let mut open = Vec::new();
        for level in outer {
            open.push((e.repeat(u64::from(level.0))?, level.1));
        }
        let outer_rounds: i64 = outer.iter().map(|l| i64::from(l.0)).product();
        let ahead = if through_c { None } else { self.ahead(e, outer_rounds * i64::from(inner.0 / self.unrolled(inner.0)))? };
        self.inner(e, acc, (a, b), regs, *inner, ahead)?;
        let mut done = i64::from(inner.0) * inner.1;
        for ((loop_, step), (count, _)) in open.into_iter().zip(outer).rev() {
            e.advance(a, step - done)?;
            e.end(loop_)?;
            done = i64::from(*count) * step;
        }
        if let Some((p, _)) = ahead {
            e.free_ptr(p);
        }
        Ok(())
    }

    /// The pointer to what is fetched for tiles to come, and how many of its lines in each of so many rounds.
    fn ahead(&self, e: &mut dyn Emitter, rounds: i64) -> Result<Option<(P, i64)>, Error> {
        if self.k.ahead == 0 {
            return Ok(None);
        }
        Ok(Some((e.arg(self.behind_operands())?, (i64::from(self.k.ahead) + rounds - 1) / rounds)))
    }

    /// The innermost loop; advances both pointers past it.
    fn inner(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        (a, b): (P, P),
        regs: (&[V], &[V]),
        (count, step): (u32, i64),
        ahead: Option<(P, i64)>,
    ) -> Result<(), Error> {
        if self.k.open_k {
            return self.open_inner(e, acc, (a, step), b, regs);
        }
        let streams = self.streams(count);
        let done = if streams > 1 { self.in_turns(e, acc, (a, b), regs, (count, step), streams)? } else { 0 };
        let count = count - done;
        if count == 0 {
            return Ok(());
        }
        let unroll = self.unrolled(count);
        let advance = |e: &mut dyn Emitter, n: u32| -> Result<(), Error> {
            e.advance(a, i64::from(n) * step)?;
            self.kept.map_or(Ok(()), |kept| e.advance(kept, self.b_bytes(i64::from(n))))?;
            e.advance(b, self.b_bytes(i64::from(n)))
        };
        let rounds = count / unroll;
        let open = if rounds > 1 { Some(e.repeat(u64::from(rounds))?) } else { None };
        let places = |n: u32| (0..i64::from(n)).map(|u| (a, u * step)).collect::<Vec<_>>();
        self.several(e, acc, &places(unroll), (b, 0), regs)?;
        if let Some((p, lines)) = ahead {
            (0..lines).try_for_each(|n| e.prefetch(Mem { base: p, disp: n * LINE }, true))?;
            e.advance(p, lines * LINE)?;
        }
        advance(e, unroll)?;
        if let Some(open) = open {
            e.end(open)?;
        }
        let rest = count % unroll;
        self.several(e, acc, &places(rest), (b, 0), regs)?;
        advance(e, rest)
    }

    /// The innermost loop of a nest whose count is the argument behind the pointers.
    fn open_inner(&self, e: &mut dyn Emitter, acc: &[V], (a, step): (P, i64), b: P, regs: (&[V], &[V])) -> Result<(), Error> {
        let count = e.own_arg(self.behind_operands() + usize::from(self.k.ahead > 0))?;
        for at_once in [UNROLL, 1] {
            let open = e.while_at_least(count, at_once)?;
            let places: Vec<InA> = (0..i64::from(at_once)).map(|u| (a, u * step)).collect();
            self.several(e, acc, &places, (b, 0), regs)?;
            e.advance(a, i64::from(at_once) * step)?;
            e.advance(b, self.b_bytes(i64::from(at_once)))?;
            e.end(open)?;
        }
        e.free_ptr(count);
        Ok(())
    }

    /// Bytes of B that a vector of products reads.
    fn vector(&self) -> i64 {
        match self.k.b_dtype {
            DType::U4 => self.lanes * 4,
            b => self.lanes * (self.k.group() * b.bytes()) as i64,
        }
    }

    /// Brings near what follows the vectors of a step much later.
    fn prefetch_b(&self, e: &mut dyn Emitter, b: P, b_at: i64) -> Result<(), Error> {
        let lines = (b_at..b_at + self.nv * self.vector()).filter(|at| self.k.streams == 1 && at % LINE == 0);
        lines.into_iter().try_for_each(|at| e.prefetch(Mem { base: b, disp: at + PREFETCH }, false))
    }

    fn step(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        (a, a_at): InA,
        (b, (b_at, nibble)): (P, (i64, u32)),
        (a_regs, b_regs): (&[V], &[V]),
    ) -> Result<(), Error> {
        let used = self.used as usize;
        let parts = b_regs.len() / used;
        for j in 0..used {
            let at = Mem { base: b, disp: b_at + j as i64 * self.vector() };
            if self.integers {
                e.dot_load_b(&b_regs[j * parts..][..parts], at, self.dot)?;
            } else if let Some(table) = self.table {
                e.look_up(b_regs[j], table, at, nibble)?;
            } else if self.k.is_coded() {
                e.load_numbers(b_regs[j], at, self.columns(j))?;
            } else {
                // Panels are padded: half a vector can always be read.
                let half = self.columns(j) as i64 * 2 <= self.lanes && self.lanes == 16;
                let lanes = if half { Lanes::First(8) } else { Lanes::All };
                e.load(b_regs[j], DType::F32, at, lanes)?;
                self.difference(e, (b_regs[j], a_regs[j % a_regs.len()]), at, lanes)?;
            }
        }
        // Words come once for all of their numbers.
        if nibble == 0 {
            self.prefetch_b(e, b, b_at)?;
        }
        let sets = a_regs.len() / parts;
        for i in 0..acc.len() / used {
            let a_part = &a_regs[i % sets * parts..][..parts];
            let at = Mem { base: a, disp: a_at + i as i64 * self.k.a_row };
            // A broadcast of its own for each product takes a slot that the product needs.
            if !self.integers && used == 1 && e.fma_splat(acc[i], at, b_regs[0], self.columns(0))? {
                continue;
            }
            if self.integers {
                e.dot_splat_a(a_part, at, self.dot)?;
            } else {
                e.splat(a_part[0], DType::F32, at)?;
            }
            for j in 0..used {
                let v = acc[i * used + j];
                if self.integers {
                    e.dot(v, a_part, &b_regs[j * parts..][..parts], self.dot)?;
                } else {
                    e.fma_first(v, a_part[0], b_regs[j], self.columns(j))?;
                }
            }
        }
        Ok(())
    }

    /// Makes a difference of a vector of B, if there is one to be made, and keeps it.
    fn difference(&self, e: &mut dyn Emitter, (v, temp): (V, V), at: Mem, lanes: Lanes) -> Result<(), Error> {
        let (Some(less), Some(kept)) = (self.k.less, self.kept) else { return Ok(()) };
        // B and what is kept advance together.
        let kept = Mem { base: kept, ..at };
        let other = if let Less::Apart(bytes) = less { Mem { disp: at.disp + bytes, ..at } } else { kept };
        e.load(temp, DType::F32, other, lanes)?;
        e.bin(BinOp::Sub, Ty::F32, v, Opd::Reg(v), Opd::Reg(temp))?;
        e.store(v, DType::F32, kept, lanes)
    }

    /// Stores the accumulators as they are and gives their registers back.
    fn store_all(&self, e: &mut dyn Emitter, acc: &[V], c: P, dtype: DType, rows: Range<i64>) -> Result<(), Error> {
        for i in rows.clone() {
            for j in 0..self.used {
                let v = acc[((i - rows.start) * self.used + j) as usize];
                e.store(v, dtype, self.c_at(c, i, j, self.k.c_row), self.lanes_of(j))?;
                e.free(v);
            }
        }
        Ok(())
    }

    fn operand_pointers(&self, e: &mut dyn Emitter) -> Result<Vec<P>, Error> {
        let first = 3 + usize::from(self.k.bias);
        (0..self.k.operands.len()).map(|n| e.arg(first + n)).collect()
    }

    /// The epilogue as a loop over rows that works on C in memory.
    fn epilogue_loop(
        &self,
        e: &mut dyn Emitter,
        prepared: &Prepared,
        (c, acc_dtype): (P, DType),
        rows: Range<i64>,
        careful: bool,
    ) -> Result<(), Error> {
        let program = &prepared.program;
        let together = Together::new(program, &self.k.operands, e.has_lesser());
        let used = self.used as usize;
        let most = if careful { 1 } else { together.width(AT_ONCE.max(used), e.available(), false) };
        let held = if careful { Held::default() } else { Held::load(e, program, together.registers(most))? };
        let epilogue = Epilogue { prepared, together: &together, held, acc_dtype };
        let c = e.copy_ptr(c)?;
        e.advance(c, rows.start * self.k.c_row)?;
        let mut ops = Vec::new();
        for (p, operand) in self.operand_pointers(e)?.into_iter().zip(&self.k.operands) {
            let p = e.copy_ptr(p)?;
            e.advance(p, rows.start * operand.row)?;
            ops.push(p);
        }
        // Vectors of a row, or of several rows, go together.
        let at_once = (most as i64 / self.used).clamp(1, rows.end - rows.start);
        let some_rows = |e: &mut dyn Emitter, n: i64| {
            let all: Vec<Place> = (0..n).flat_map(|i| (0..self.used).map(move |j| (None, i, j))).collect();
            all.chunks(most).try_for_each(|places| self.finish(e, &epilogue, (c, &ops), places))?;
            e.advance(c, n * self.k.c_row)?;
            ops.iter().zip(&self.k.operands).try_for_each(|(p, operand)| e.advance(*p, n * operand.row))
        };
        let open = e.repeat(((rows.end - rows.start) / at_once) as u64)?;
        some_rows(e, at_once)?;
        e.end(open)?;
        if (rows.end - rows.start) % at_once > 0 {
            some_rows(e, (rows.end - rows.start) % at_once)?;
        }
        ops.into_iter().chain([c]).for_each(|p| e.free_ptr(p));
        epilogue.held.free(e);
        Ok(())
    }

    /// Epilogue and store of some vectors, whose accumulators are registers or in C.
    fn finish(&self, e: &mut dyn Emitter, epilogue: &Epilogue, (c, ops): (P, &[P]), places: &[Place]) -> Result<(), Error> {
        let result_type = epilogue.prepared.program.dtype(epilogue.prepared.program.result());
        if lane_type(result_type)? != lane_type(self.k.c_dtype)? {
            return Err(Error::Internal(format!("a tile's epilogue gives {result_type}, its C is {}", self.k.c_dtype)));
        }
        // Results may be stored together that are not computed together.
        let at_once = if places.iter().all(|p| p.0.is_some()) {
            epilogue.together.width(places.len(), e.available(), true)
        } else {
            places.len()
        };
        let mut stored: Vec<Stored> = Vec::new();
        for some in places.chunks(at_once) {
            stored.extend(self.results(e, epilogue, (c, ops), some)?);
        }
        let prepared = epilogue.prepared;
        stored.chunks(prepared.together()).try_for_each(|some| prepared.store(e, self.k.c_dtype, Order::Natural, some))
    }

    /// The results of some vectors.
    fn results(
        &self,
        e: &mut dyn Emitter,
        epilogue: &Epilogue,
        (c, ops): (P, &[P]),
        places: &[Place],
    ) -> Result<Vec<Stored>, Error> {
        let Epilogue { prepared: Prepared { program, .. }, together, ref held, acc_dtype } = *epilogue;
        let mut read_acc = vec![false; places.len()];
        let mut args = |e: &mut dyn Emitter, k: usize, n: u8, dtype: DType| -> Result<Val, Error> {
            let (acc, i, j) = places[k];
            if n == 0 {
                read_acc[k] = true;
                return match acc {
                    Some(v) => Ok(Val::Own(v)),
                    None => load_operand(e, acc_dtype, self.c_at(c, i, j, self.k.c_row), true, self.lanes_of(j)),
                };
            }
            let n = n as usize - 1;
            debug_assert_eq!(dtype, self.k.operands[n].dtype, "internal: targets: operand type");
            held.operand(n, j as usize).map_or_else(|| self.operand(e, ops, n, (i, j)), Ok)
        };
        let mut evals: Vec<Eval> =
            places.iter().map(|_| Eval::of_epilogue(program, &self.k.operands, held, e.has_lesser())).collect();
        let results = together.run(e, &mut evals, &mut args)?;
        let mut stored = Vec::new();
        for (((v, own), (acc, i, j)), read) in results.into_iter().zip(places).zip(read_acc) {
            stored.push((v, own, self.c_at(c, *i, *j, self.k.c_row), self.lanes_of(*j)));
            if let (Some(acc), false) = (acc, read) {
                e.free(*acc);
            }
        }
        Ok(stored)
    }
}
