//! Emission of an analysed vector loop: whole vectors, several per round where that is cheap, then the rest of the iterations with a mask or one
//! by one.

use std::collections::BTreeMap;

use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp};

use super::{Access, Body, Item, Plan, Pointer, Reduction, Source, Trips};
use crate::cpu::Target;
use crate::emitter::{Emitter, Lanes, Mem, Opd, P, Ty, V};
use crate::error::Error;
use crate::kernels::{KernelCode, with_emitter};
use crate::program::{Eval, Val, lane_type, load_operand};

/// Bodies of at most this many operations are repeated in a round.
const CHEAP: usize = 12;

/// The code of the loop.
pub(crate) fn emit(target: &Target, plan: &Plan) -> Result<KernelCode, Error> {
    with_emitter(target, 1, |e, careful| Loop::new(e, plan, careful)?.emit(e))
}

struct Loop<'p> {
    plan: &'p Plan,
    block: P,
    pointers: BTreeMap<Pointer, P>,
    /// Scalars that have a register of their own, by slot.
    scalars: BTreeMap<u32, V>,
    /// One register per reduction and repetition.
    sums: Vec<Vec<V>>,
    cells: Vec<Option<V>>,
    unroll: usize,
}

/// Where an evaluation is: repetition in the round, active lanes.
#[derive(Clone, Copy)]
struct At {
    copy: usize,
    lanes: Lanes,
}

fn operations(body: &Body) -> usize {
    let nested = |i: &Item| if let Item::Loop { body, .. } = i { operations(body) + CHEAP } else { 1 };
    body.program.nodes.len() + body.items.iter().map(nested).sum::<usize>()
}

/// The value that changes nothing.
fn neutral(r: &Reduction) -> u32 {
    let float = r.dtype == DType::F32;
    match r.op {
        BinOp::Mul => {
            if float {
                1f32.to_bits()
            } else {
                1
            }
        }
        BinOp::Min => {
            if float {
                f32::INFINITY.to_bits()
            } else {
                i32::MAX as u32
            }
        }
        BinOp::Max => {
            if float {
                f32::NEG_INFINITY.to_bits()
            } else {
                i32::MIN as u32
            }
        }
        _ => 0,
    }
}

impl<'p> Loop<'p> {
    fn new(e: &mut dyn Emitter, plan: &'p Plan, careful: bool) -> Result<Loop<'p>, Error> {
        if let Some(t) = plan.memory.iter().find(|(t, strided)| !(e.memory(*t) && (!strided || e.strides(*t)))) {
            return Err(Error::Unsupported(format!("vectors of {}", t.0)));
        }
        let block = e.arg(0)?;
        let mut pointers = BTreeMap::new();
        for (offset, _) in &plan.pointers {
            pointers.insert((*offset, Vec::new()), e.load_ptr(Mem { base: block, disp: i64::from(*offset) })?);
        }
        let size = operations(&plan.body);
        let unroll = match (careful, plan.reductions.is_empty()) {
            (true, _) => 1,
            _ if size > CHEAP => 1,
            (_, false) if plan.reductions.len() == 1 => 4,
            _ => 2,
        };
        let mut sums = Vec::new();
        for r in &plan.reductions {
            let ty = lane_type(r.dtype)?;
            let mut registers = Vec::new();
            for _ in 0..unroll {
                let v = e.alloc(ty)?;
                e.copy(ty, v, Opd::Const(neutral(r)))?;
                registers.push(v);
            }
            sums.push(registers);
        }
        let mut scalars = BTreeMap::new();
        if !careful {
            for (offset, dtype) in &plan.scalars {
                // Half of the registers stay for the work.
                if scalars.len() < e.available() {
                    let v = e.alloc(lane_type(*dtype)?)?;
                    e.splat(v, *dtype, Mem { base: block, disp: i64::from(*offset) })?;
                    scalars.insert(*offset, v);
                }
            }
        }
        Ok(Loop { plan, block, pointers, scalars, sums, cells: vec![None; plan.n_cells], unroll })
    }

    fn emit(mut self, e: &mut dyn Emitter) -> Result<(), Error> {
        let count = e.load_ptr(Mem { base: self.block, disp: 0 })?;
        let lanes = e.lanes();
        let at_once = lanes * self.unroll as u32;
        // Parts that are never reached are left out.
        let trips = self.plan.trips;
        if self.unroll > 1 && trips.is_none_or(|n| n >= u64::from(at_once)) {
            let open = e.while_at_least(count, at_once)?;
            for copy in 0..self.unroll {
                self.round(e, At { copy, lanes: Lanes::All })?;
            }
            self.advance(e, i64::from(at_once))?;
            e.end(open)?;
        }
        let left = trips.map(|n| if self.unroll > 1 { n % u64::from(at_once) } else { n });
        if left.is_none_or(|n| n >= u64::from(lanes)) {
            let open = e.while_at_least(count, lanes)?;
            self.round(e, At { copy: 0, lanes: Lanes::All })?;
            self.advance(e, i64::from(lanes))?;
            e.end(open)?;
        }
        if left.is_none_or(|n| !n.is_multiple_of(u64::from(lanes))) {
            self.rest(e, count)?;
        }
        self.results(e)
    }

    /// The iterations that are left, fewer than lanes.
    fn rest(&mut self, e: &mut dyn Emitter, count: P) -> Result<(), Error> {
        // A loop that touches no memory is for all targets; not all of them have masks.
        let masked = |(t, strided): &(DType, bool)| if *strided { e.masks_strided(*t) } else { e.masks(*t) };
        if !self.plan.memory.is_empty() && self.plan.memory.iter().all(masked) {
            let open = e.if_some(count)?;
            e.set_tail(count)?;
            self.round(e, At { copy: 0, lanes: Lanes::Tail })?;
            e.end(open)?;
        } else {
            let open = e.while_at_least(count, 1)?;
            self.round(e, At { copy: 0, lanes: Lanes::First(1) })?;
            self.advance(e, 1)?;
            e.end(open)?;
        }
        Ok(())
    }

    /// One vector of iterations.
    fn round(&mut self, e: &mut dyn Emitter, at: At) -> Result<(), Error> {
        let plan = self.plan;
        self.body(e, &plan.body, at)?;
        for cell in self.cells.iter_mut() {
            cell.take().into_iter().for_each(|v| e.free(v));
        }
        Ok(())
    }

    fn advance(&self, e: &mut dyn Emitter, iterations: i64) -> Result<(), Error> {
        for (offset, step) in &self.plan.pointers {
            e.advance(self.pointers[&(*offset, Vec::new())], iterations * step)?;
        }
        Ok(())
    }

    fn body(&mut self, e: &mut dyn Emitter, body: &Body, at: At) -> Result<(), Error> {
        let roots = body.roots();
        let mut eval = Eval::new(&body.program, &roots, e.has_lesser());
        for item in &body.items {
            match item {
                Item::Store { at: to, node, before } => {
                    for n in before {
                        if let Val::Own(v) = self.take(e, &mut eval, body, *n, at)? {
                            e.free(v);
                        }
                    }
                    let (v, own) = self.take_reg(e, &mut eval, body, *node, at)?;
                    let mem = self.mem(e, to, at);
                    if to.strided() && at.lanes != Lanes::First(1) {
                        e.scatter(v, to.dtype, mem, to.stride, at.lanes)?;
                    } else {
                        e.store(v, to.dtype, mem, at.lanes)?;
                    }
                    if own {
                        e.free(v);
                    }
                }
                Item::Reduce { reduction, node } => self.reduce(e, &mut eval, body, *reduction, *node, at)?,
                Item::Open { cell, node } => {
                    let v = self.owned(e, &mut eval, body, *node, at)?;
                    self.cells[*cell] = Some(v);
                }
                Item::Carry(values) => self.carry(e, &mut eval, body, values, at)?,
                Item::Loop { trips, body } => self.inner_loop(e, trips, body, at)?,
            }
        }
        Ok(())
    }

    fn mem(&self, e: &dyn Emitter, access: &Access, at: At) -> Mem {
        let base = self.pointers[&self.resolve(&access.pointer)];
        Mem { base, disp: access.disp + at.copy as i64 * i64::from(e.lanes()) * access.stride }
    }

    /// The pointer without trailing loops in which it stands still.
    fn resolve(&self, pointer: &Pointer) -> Pointer {
        let mut steps = pointer.1.clone();
        while steps.last() == Some(&0) {
            steps.pop();
        }
        (pointer.0, steps)
    }

    fn take(&self, e: &mut dyn Emitter, eval: &mut Eval, body: &Body, n: NodeIx, at: At) -> Result<Val, Error> {
        eval.take(e, n, &mut |e, a, _| self.source(e, &body.args[a as usize], at))
    }

    fn take_reg(&self, e: &mut dyn Emitter, eval: &mut Eval, body: &Body, n: NodeIx, at: At) -> Result<(V, bool), Error> {
        eval.take_reg(e, n, &mut |e, a, _| self.source(e, &body.args[a as usize], at))
    }

    /// A value in a register that nobody else has.
    fn owned(&self, e: &mut dyn Emitter, eval: &mut Eval, body: &Body, n: NodeIx, at: At) -> Result<V, Error> {
        let (v, own) = self.take_reg(e, eval, body, n, at)?;
        if own {
            return Ok(v);
        }
        let ty = lane_type(body.program.dtype(n))?;
        let copy = e.alloc(ty)?;
        e.copy(ty, copy, Opd::Reg(v))?;
        Ok(copy)
    }

    fn source(&self, e: &mut dyn Emitter, source: &Source, at: At) -> Result<Val, Error> {
        match source {
            Source::Scalar { offset, dtype } => match self.scalars.get(offset) {
                Some(v) => Ok(Val::Lent(*v)),
                None => load_operand(e, *dtype, Mem { base: self.block, disp: i64::from(*offset) }, false, Lanes::All),
            },
            Source::Load { at: access, .. } => {
                let mem = self.mem(e, access, at);
                if !access.strided() || at.lanes == Lanes::First(1) {
                    return load_operand(e, access.dtype, mem, access.stride != 0, at.lanes);
                }
                let v = e.alloc(lane_type(access.dtype)?)?;
                e.gather(v, access.dtype, mem, access.stride, at.lanes)?;
                Ok(Val::Own(v))
            }
            Source::Cell(c) => Ok(Val::Lent(self.cells[*c].expect("internal: targets: cell is open"))),
        }
    }

    fn reduce(
        &self,
        e: &mut dyn Emitter,
        eval: &mut Eval,
        body: &Body,
        reduction: usize,
        node: NodeIx,
        at: At,
    ) -> Result<(), Error> {
        let r = &self.plan.reductions[reduction];
        let ty = lane_type(r.dtype)?;
        let sum = self.sums[reduction][at.copy];
        // A product goes straight into a sum.
        if let (ScalarOp::Bin(BinOp::Mul, a, b), BinOp::Add, Ty::F32, Lanes::All) =
            (body.program.nodes[node as usize].op, r.op, ty, at.lanes)
            && eval.is_fresh(node)
        {
            return self.fused(e, eval, body, node, (a, b), sum, at);
        }
        if at.lanes == Lanes::All {
            let value = self.take(e, eval, body, node, at)?;
            e.bin(r.op, ty, sum, Opd::Reg(sum), value.opd())?;
            if let Val::Own(v) = value {
                e.free(v);
            }
            return Ok(());
        }
        let v = self.owned(e, eval, body, node, at)?;
        e.fill_inactive(ty, v, at.lanes, neutral(r))?;
        e.bin(r.op, ty, sum, Opd::Reg(sum), Opd::Reg(v))?;
        e.free(v);
        Ok(())
    }

    /// `sum += a * b` for a product that nothing else uses.
    #[expect(clippy::too_many_arguments, reason = "the evaluation and the operands of one instruction")]
    fn fused(
        &self,
        e: &mut dyn Emitter,
        eval: &mut Eval,
        body: &Body,
        node: NodeIx,
        (a, b): (NodeIx, NodeIx),
        sum: V,
        at: At,
    ) -> Result<(), Error> {
        eval.forgo(node);
        let a = self.take(e, eval, body, a, at)?;
        let b = self.take(e, eval, body, b, at)?;
        e.fma(sum, a.opd(), b.opd(), Opd::Reg(sum))?;
        for v in [a, b] {
            if let Val::Own(v) = v {
                e.free(v);
            }
        }
        Ok(())
    }

    /// New values of the cells. `cell = op(cell, x)` is done in place when nothing else reads the cell.
    fn carry(&self, e: &mut dyn Emitter, eval: &mut Eval, body: &Body, values: &[(usize, NodeIx)], at: At) -> Result<(), Error> {
        let mut late = Vec::new();
        for (cell, node) in values {
            let register = self.cells[*cell].expect("internal: targets: cell is open");
            let dtype = body.program.dtype(*node);
            let ty = lane_type(dtype)?;
            let is_cell = |n: NodeIx| {
                let op = body.program.nodes[n as usize].op;
                matches!(op, ScalarOp::Arg(a) if body.args[a as usize] == Source::Cell(*cell)) && eval.is_fresh(n)
            };
            let wide = matches!(dtype, DType::F32 | DType::I32);
            match body.program.nodes[*node as usize].op {
                ScalarOp::Fma(a, b, c) if ty == Ty::F32 && eval.is_fresh(*node) && is_cell(c) && a != c && b != c => {
                    eval.forgo(c);
                    self.fused(e, eval, body, *node, (a, b), register, at)?;
                }
                ScalarOp::Bin(op @ (BinOp::Add | BinOp::Mul | BinOp::Min | BinOp::Max), a, b)
                    if wide && eval.is_fresh(*node) && a != b && (is_cell(a) || is_cell(b)) =>
                {
                    let (own, other) = if is_cell(a) { (a, b) } else { (b, a) };
                    eval.forgo(*node);
                    eval.forgo(own);
                    let other = self.take(e, eval, body, other, at)?;
                    e.bin(op, ty, register, Opd::Reg(register), other.opd())?;
                    if let Val::Own(v) = other {
                        e.free(v);
                    }
                }
                _ => late.push((register, ty, self.owned(e, eval, body, *node, at)?)),
            }
        }
        for (register, ty, v) in late {
            e.copy(ty, register, Opd::Reg(v))?;
            e.free(v);
        }
        Ok(())
    }

    fn inner_loop(&mut self, e: &mut dyn Emitter, trips: &Trips, body: &Body, at: At) -> Result<(), Error> {
        let mut moving = BTreeMap::new();
        collect_pointers(body, &mut moving);
        let depth = moving.keys().map(|p: &Pointer| p.1.len()).max().unwrap_or(0);
        let level = self.depth_of(body).min(depth);
        // Pointers that advance with this loop start from those of the surrounding level.
        let mut own: Vec<(Pointer, P, i64)> = Vec::new();
        for (pointer, ()) in moving {
            let steps = &pointer.1[..level.min(pointer.1.len())];
            let Some((step, before)) = steps.split_last() else { continue };
            let key = self.resolve(&(pointer.0, steps.to_vec()));
            if *step == 0 || self.pointers.contains_key(&key) {
                continue;
            }
            let from = self.pointers[&self.resolve(&(pointer.0, before.to_vec()))];
            let p = e.copy_ptr(from)?;
            self.pointers.insert(key.clone(), p);
            own.push((key, p, *step));
        }
        let mut counter = None;
        let open = match trips {
            Trips::Const(n) => e.repeat(*n)?,
            Trips::Slot(offset) => {
                let p = e.load_ptr(Mem { base: self.block, disp: i64::from(*offset) })?;
                counter = Some(p);
                e.while_at_least(p, 1)?
            }
        };
        self.body(e, body, at)?;
        for (_, p, step) in &own {
            e.advance(*p, *step)?;
        }
        e.end(open)?;
        counter.into_iter().for_each(|p| e.free_ptr(p));
        for (key, p, _) in own {
            self.pointers.remove(&key);
            e.free_ptr(p);
        }
        Ok(())
    }

    /// Inner loops around the statements of `body`: the length of every pointer's steps in it.
    fn depth_of(&self, body: &Body) -> usize {
        let direct = body.args.iter().filter_map(|s| if let Source::Load { at, .. } = s { Some(at) } else { None });
        let stores = body.items.iter().filter_map(|i| if let Item::Store { at, .. } = i { Some(at) } else { None });
        let here = direct.chain(stores).map(|a| a.pointer.1.len()).next();
        here.unwrap_or_else(|| {
            let nested = body.items.iter().filter_map(|i| if let Item::Loop { body, .. } = i { Some(body) } else { None });
            nested.map(|b| self.depth_of(b).saturating_sub(1)).max().unwrap_or(0)
        })
    }

    /// Folds the lanes of the reductions, joins them with the values from before and stores them.
    fn results(mut self, e: &mut dyn Emitter) -> Result<(), Error> {
        for v in std::mem::take(&mut self.scalars).into_values() {
            e.free(v);
        }
        for (r, sums) in self.plan.reductions.iter().zip(&self.sums) {
            let ty = lane_type(r.dtype)?;
            let (first, others) = sums.split_first().expect("internal: targets: a reduction has a register");
            for v in others {
                e.bin(r.op, ty, *first, Opd::Reg(*first), Opd::Reg(*v))?;
                e.free(*v);
            }
            let t = e.alloc(ty)?;
            let mut k = e.lanes() / 2;
            while k > 0 {
                e.rotate(ty, t, *first, k)?;
                e.bin(r.op, ty, *first, Opd::Reg(*first), Opd::Reg(t))?;
                k /= 2;
            }
            let slot = Mem { base: self.block, disp: i64::from(r.offset) };
            e.load(t, r.dtype, slot, Lanes::First(1))?;
            e.bin(r.op, ty, *first, Opd::Reg(*first), Opd::Reg(t))?;
            e.store(*first, r.dtype, slot, Lanes::First(1))?;
            e.free(t);
            e.free(*first);
        }
        Ok(())
    }
}

/// Pointers used in a body and its nested loops.
fn collect_pointers(body: &Body, out: &mut BTreeMap<Pointer, ()>) {
    for s in &body.args {
        if let Source::Load { at, .. } = s {
            out.insert(at.pointer.clone(), ());
        }
    }
    for i in &body.items {
        match i {
            Item::Store { at, .. } => {
                out.insert(at.pointer.clone(), ());
            }
            Item::Loop { body, .. } => collect_pointers(body, out),
            _ => {}
        }
    }
}
