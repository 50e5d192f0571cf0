//! The entry `NAME_run` and the trampoline of parallel tasks.
//!
//! The entry checks what the caller gave (null pointers, alignment, overlap, CPU), sets flush-to-zero, obtains one base pointer per memory
//! region, runs the steps and restores the mode. It is re-entrant: all its state is on its stack, except a byte that remembers the CPU check.

mod checks;

pub(crate) use checks::check_cpu;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, Block, Function, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use onnxc_ir::Dim;
use onnxc_ir::lir::Var;
use onnxc_ir::plan::{OpenDim, Place, Plan, Step};
use onnxc_runtime::abi;

use crate::dispatch::{CALL_COUNTS, CALL_DIMS, Symbols};
use crate::error::{Error, Result};
use crate::generate::{CTX_ARENA, CTX_INPUTS, CTX_OUTPUTS, CTX_SLOTS, CTX_WEIGHTS, Helpers, Options, Work, start};
use crate::layout::Layout;
use crate::machine::{Code, Unit, import, import_data, signature};
use crate::segment::{Split, Trips};

/// Data object: the weight blob.
pub(crate) const DATA_WEIGHTS: u32 = 0;
/// Data object: the byte that remembers the CPU check (0 unknown, 1 passed).
pub(crate) const DATA_CPU_OK: u32 = 1;
/// Alignment that the arena must have.
pub(crate) const ARENA_ALIGN: u64 = 64;

/// Offsets of the ABI structs on the 64-bit targets that code is made for, tied to the Rust definition on 64-bit hosts.
const CALL_INPUTS: i32 = 0;
const CALL_OUTPUTS: i32 = 8;
const CALL_ARENA: i32 = 16;
const CALL_WEIGHTS: i32 = 24;
const CALL_HOOKS: i32 = 32;
const HOOKS_CTX: i32 = 0;
const HOOKS_PARALLEL: i32 = 8;
const HOOKS_PROFILE: i32 = 16;
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(abi::onnxc_call, inputs) == CALL_INPUTS as usize);
    assert!(offset_of!(abi::onnxc_call, outputs) == CALL_OUTPUTS as usize);
    assert!(offset_of!(abi::onnxc_call, arena) == CALL_ARENA as usize);
    assert!(offset_of!(abi::onnxc_call, weights) == CALL_WEIGHTS as usize);
    assert!(offset_of!(abi::onnxc_call, hooks) == CALL_HOOKS as usize);
    assert!(offset_of!(abi::onnxc_hooks, ctx) == HOOKS_CTX as usize);
    assert!(offset_of!(abi::onnxc_hooks, parallel_for) == HOOKS_PARALLEL as usize);
    assert!(offset_of!(abi::onnxc_hooks, profile) == HOOKS_PROFILE as usize);
};

/// Offsets in the block that tasks get: context, segment function, iterations, tasks.
const TASK_CTX: i32 = 0;
const TASK_FUNC: i32 = 8;
const TASK_TRIP: i32 = 16;
const TASK_COUNT: i32 = 24;

pub(crate) fn run_signature() -> Signature {
    let mut s = signature(1, 0);
    s.returns.push(AbiParam::new(types::I32));
    s
}

fn task_signature() -> Signature {
    let mut s = signature(1, 0);
    // The convention of RISC-V sign-extends even unsigned 32-bit arguments; only the low half is used, so the extension does not matter.
    s.params.extend([AbiParam::new(types::I32), AbiParam::new(types::I32)]);
    s
}

/// `int parallel_for(ctx, u32 tasks, task, arg)`.
fn parallel_signature() -> Signature {
    let mut s = Signature::new(CallConv::SystemV);
    let u32_arg = AbiParam::new(types::I32).sext();
    s.params.extend([AbiParam::new(types::I64), u32_arg, AbiParam::new(types::I64), AbiParam::new(types::I64)]);
    s.returns.push(AbiParam::new(types::I32));
    s
}

/// `void profile(ctx, u32 step, u32 phase)`.
fn profile_signature() -> Signature {
    let mut s = signature(1, 0);
    s.params.extend([AbiParam::new(types::I32).sext(), AbiParam::new(types::I32).sext()]);
    s
}

/// The plan at hand and what all plans of the model have in common.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Open dimensions.
    pub dims: &'a [OpenDim],
    /// Sizes that data decides on, with their bounds, in the order of the ABI.
    pub counts: &'a [(String, u64)],
}

/// State while the entry is built.
struct Entry<'a, 'f> {
    model: Model<'a>,
    b: FunctionBuilder<'f>,
    works: &'a [(usize, Work<'a>)],
    helpers: Helpers,
    layout: &'a Layout,
    options: &'a Options,
    call: Value,
    /// Inputs and the outputs that may have the same buffer.
    aliases: Vec<(u32, u32)>,
    ctx: StackSlot,
    task: StackSlot,
    /// Where a failing check goes: returns its parameter.
    fail: Block,
    /// Where a failing step goes: restores the mode, then returns its parameter.
    abort: Block,
    old_mode: Option<Value>,
    hooks_ctx: Value,
    parallel: Value,
    profile: Value,
}

/// Builds the inference of one plan: `NAME_run`, or what it calls for one choice of open dimensions.
pub(crate) fn unit(
    model: Model,
    works: &[(usize, Work)],
    helpers: Helpers,
    layout: &Layout,
    options: &Options,
    name: &str,
    isa: &dyn TargetIsa,
) -> Result<Unit> {
    let mut function = Function::new();
    function.signature = run_signature();
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let call = start(&mut b)[0];
    let slots =
        works.iter().flat_map(|(_, w)| &w.segments).flat_map(|(s, _)| s.loads.iter().chain(&s.saves)).map(|(_, slot)| slot + 1);
    let slots = slots.max().unwrap_or(0);
    let ctx = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, CTX_SLOTS as u32 + 8 * slots, 4));
    let task = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 32, 4));
    let (fail, abort) = (b.create_block(), b.create_block());
    b.append_block_param(fail, types::I32);
    b.append_block_param(abort, types::I32);
    let mut e = Entry {
        model,
        b,
        works,
        helpers,
        layout,
        options,
        call,
        aliases: model.plan.outputs.iter().zip(0..).filter_map(|(io, j)| Some((io.alias?, j))).collect(),
        ctx,
        task,
        fail,
        abort,
        old_mode: None,
        hooks_ctx: call,
        parallel: call,
        profile: call,
    };
    e.check()?;
    e.load_hooks();
    e.set_mode();
    e.steps(&model.plan.steps)?;
    e.finish(isa);
    Ok(Unit { name: format!("{}_{name}", options.name), export: name == "run", code: Code::Clif(Box::new(function)) })
}

impl Entry<'_, '_> {
    fn load(&mut self, at: Value, offset: i32) -> Value {
        self.b.ins().load(types::I64, MemFlagsData::trusted(), at, offset)
    }

    /// Goes on in a new block if `bad` is false, otherwise returns `status`.
    fn require_not(&mut self, bad: Value, status: i32) {
        let status = self.b.ins().iconst(types::I32, i64::from(status));
        let go_on = self.b.create_block();
        self.b.ins().brif(bad, self.fail, &[status.into()], go_on, &[]);
        self.b.seal_block(go_on);
        self.b.switch_to_block(go_on);
    }

    fn require_pointer(&mut self, pointer: Value) {
        let null = self.b.ins().icmp_imm_u(IntCC::Equal, pointer, 0);
        self.require_not(null, abi::ONNXC_NULL);
    }

    fn require_aligned(&mut self, pointer: Value) {
        let low = self.b.ins().band_imm_u(pointer, ARENA_ALIGN as i64 - 1);
        self.require_not(low, abi::ONNXC_MISALIGNED);
    }

    /// The base of the weight blob: a symbol of this object, or what the caller passed.
    fn weights(&mut self, bytes: u64) -> Value {
        if bytes == 0 {
            return self.b.ins().iconst(types::I64, 0);
        }
        if self.options.weights.are_passed() {
            let pointer = self.load(self.call, CALL_WEIGHTS);
            let null = self.b.ins().icmp_imm_u(IntCC::Equal, pointer, 0);
            self.require_not(null, abi::ONNXC_NO_WEIGHTS);
            self.require_aligned(pointer);
            return pointer;
        }
        let data = import_data(self.b.func, DATA_WEIGHTS);
        self.b.ins().symbol_value(types::I64, data)
    }

    /// Hook pointers, zero where there is none.
    fn load_hooks(&mut self) {
        let hooks = self.load(self.call, CALL_HOOKS);
        let zero = self.b.ins().iconst(types::I64, 0);
        let (some, done) = (self.b.create_block(), self.b.create_block());
        let values: Vec<Value> = (0..3).map(|_| self.b.append_block_param(done, types::I64)).collect();
        self.b.ins().brif(hooks, some, &[], done, &[zero.into(), zero.into(), zero.into()]);
        self.b.switch_to_block(some);
        self.b.seal_block(some);
        let (ctx, parallel) = (self.load(hooks, HOOKS_CTX), self.load(hooks, HOOKS_PARALLEL));
        let profile = self.load(hooks, HOOKS_PROFILE);
        self.b.ins().jump(done, &[ctx.into(), parallel.into(), profile.into()]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        (self.hooks_ctx, self.parallel, self.profile) = (values[0], values[1], values[2]);
    }

    fn set_mode(&mut self) {
        self.old_mode = set_mode(&mut self.b, self.helpers);
    }

    fn steps(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Step::Call { places, .. } => {
                    let key = step as *const Step as usize;
                    let works = self.works;
                    let at = works.iter().position(|(k, _)| *k == key).ok_or_else(|| Error::Plan("step without code".into()))?;
                    let bring = self.aliases.iter().copied().find(|(i, _)| places.contains(&Place::Input(*i)));
                    match bring {
                        Some(alias) => self.unless_shared(alias, &works[at].1)?,
                        None => self.step(&works[at].1)?,
                    }
                }
                Step::If { cond, then, otherwise } => {
                    let cond = self.load_place(types::I8, *cond)?;
                    let (yes, no, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
                    self.b.ins().brif(cond, yes, &[], no, &[]);
                    for (block, steps) in [(yes, then), (no, otherwise)] {
                        self.b.switch_to_block(block);
                        self.b.seal_block(block);
                        self.steps(steps)?;
                        self.b.ins().jump(done, &[]);
                    }
                    self.b.switch_to_block(done);
                    self.b.seal_block(done);
                }
                Step::Require { cond } => {
                    let cond = self.load_place(types::I8, *cond)?;
                    let go_on = self.b.create_block();
                    let status = self.b.ins().iconst(types::I32, i64::from(abi::ONNXC_DATA));
                    self.b.ins().brif(cond, go_on, &[], self.abort, &[status.into()]);
                    self.b.switch_to_block(go_on);
                    self.b.seal_block(go_on);
                }
                Step::Count { value, count } => {
                    let value = self.load_place(types::I64, *value)?;
                    self.within_bound(*count, value);
                    self.take_down(&[(*count, value)])?;
                }
                Step::Fits { sizes } => {
                    for (count, value) in self.computed(sizes)? {
                        self.within_bound(count, value);
                    }
                }
                Step::Resize { sizes } => {
                    let sizes = self.computed(sizes)?;
                    self.take_down(&sizes)?;
                }
                Step::Loop { iteration, trips, cond, body } => self.repeat(*iteration, *trips, *cond, body)?,
            }
        }
        Ok(())
    }

    /// The base of the table of sizes.
    fn table(&mut self) -> Result<Value> {
        let Some((table, _)) = &self.model.plan.sizes else { return Err(Error::Plan("a count without a table of sizes".into())) };
        self.address(*table)
    }

    /// The counts as they are in the table of sizes.
    fn counts(&mut self, table: Value) -> Vec<(String, Value)> {
        let counts = &self.model.plan.counts;
        counts.iter().map(|c| (c.name.clone(), self.load(table, 8 * c.size as i32))).collect()
    }

    /// Where the values of open dimensions are; anything where there are none.
    fn dims(&mut self, table: Value) -> Value {
        if self.model.dims.is_empty() { table } else { self.load(self.call, CALL_DIMS) }
    }

    /// The values that sizes have now.
    fn computed(&mut self, sizes: &[(usize, Dim)]) -> Result<Vec<(usize, Value)>> {
        let table = self.table()?;
        let (counts, values) = (self.counts(table), self.dims(table));
        let symbols = Symbols { dims: self.model.dims, values, counts: &counts };
        sizes.iter().map(|(count, dim)| Ok((*count, symbols.compute(&mut self.b, dim)?))).collect()
    }

    /// Ends the inference when a count is larger than it may be.
    fn within_bound(&mut self, count: usize, value: Value) {
        let bound = self.model.plan.counts[count].bound;
        let fits = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThanOrEqual, value, bound as i64);
        let go_on = self.b.create_block();
        let status = self.b.ins().iconst(types::I32, i64::from(abi::ONNXC_DATA));
        self.b.ins().brif(fits, go_on, &[], self.abort, &[status.into()]);
        self.b.switch_to_block(go_on);
        self.b.seal_block(go_on);
    }

    /// Takes down counts: in the table of sizes, with the sizes that depend on them, and where the caller wants them.
    fn take_down(&mut self, values: &[(usize, Value)]) -> Result<()> {
        let plan = self.model.plan;
        let Some((_, sizes)) = &plan.sizes else { return Err(Error::Plan("a count without a table of sizes".into())) };
        let (flags, table) = (MemFlagsData::trusted(), self.table()?);
        for (count, value) in values {
            let known = &plan.counts[*count];
            self.b.ins().store(flags, *value, table, 8 * known.size as i32);
            let at = self.model.counts.iter().position(|c| c.0 == known.name);
            let at = at.ok_or_else(|| Error::Plan(format!("the count {} has no number", known.name)))?;
            let to = self.load(self.call, CALL_COUNTS);
            self.b.ins().store(flags, *value, to, 8 * at as i32);
        }
        let (counts, dims) = (self.counts(table), self.dims(table));
        let symbols = Symbols { dims: self.model.dims, values: dims, counts: &counts };
        let is_count = |i: usize| plan.counts.iter().any(|c| c.size == i);
        let depends = |dim: &Dim| values.iter().any(|(count, _)| dim.mentions(&plan.counts[*count].name));
        for (i, dim) in sizes.iter().enumerate().filter(|(i, dim)| !is_count(*i) && depends(dim)) {
            let size = symbols.compute(&mut self.b, dim)?;
            self.b.ins().store(flags, size, table, 8 * i as i32);
        }
        Ok(())
    }

    /// A step that brings an input to the output that may have the same buffer: left out where it has.
    fn unless_shared(&mut self, (input, output): (u32, u32), work: &Work) -> Result<()> {
        let (from, to) = (self.address(Place::Input(input))?, self.address(Place::Output(output))?);
        let same = self.b.ins().icmp(IntCC::Equal, from, to);
        let (bring, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(same, done, &[], bring, &[]);
        self.b.switch_to_block(bring);
        self.b.seal_block(bring);
        self.step(work)?;
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(())
    }

    /// `for (iteration = 0; iteration < trips && cond; iteration++) body`.
    fn repeat(&mut self, iteration: Place, trips: Option<Place>, cond: Option<Place>, body: &[Step]) -> Result<()> {
        let (head, inside, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let flags = MemFlagsData::trusted();
        let (zero, at) = (self.b.ins().iconst(types::I64, 0), self.address(iteration)?);
        self.b.ins().store(flags, zero, at, 0);
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let mut go_on = self.b.ins().iconst(types::I8, 1);
        if let Some(trips) = trips {
            let (so_far, most) = (self.load_place(types::I64, iteration)?, self.load_place(types::I64, trips)?);
            let more = self.b.ins().icmp(IntCC::SignedLessThan, so_far, most);
            go_on = self.b.ins().band(go_on, more);
        }
        if let Some(cond) = cond {
            let holds = self.load_place(types::I8, cond)?;
            go_on = self.b.ins().band(go_on, holds);
        }
        self.b.ins().brif(go_on, inside, &[], done, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        self.steps(body)?;
        let at = self.address(iteration)?;
        let so_far = self.b.ins().load(types::I64, flags, at, 0);
        let next = self.b.ins().iadd_imm_s(so_far, 1);
        self.b.ins().store(flags, next, at, 0);
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(())
    }

    /// The value at a place.
    fn load_place(&mut self, ty: types::Type, place: Place) -> Result<Value> {
        let at = self.address(place)?;
        Ok(self.b.ins().load(ty, MemFlagsData::trusted(), at, 0))
    }

    /// The address of a place, computed here.
    fn address(&mut self, place: Place) -> Result<Value> {
        let (region, index, offset) = match place {
            Place::Arena(at) => (CTX_ARENA, None, at),
            Place::Room { slot, byte } => {
                let arena = self.b.ins().stack_load(types::I64, types::I64, self.ctx, CTX_ARENA);
                let offset = self.load(arena, slot as i32 * 8);
                let base = self.b.ins().iadd(arena, offset);
                return Ok(self.b.ins().iadd_imm_s(base, byte as i64));
            }
            Place::Weights(at) => (CTX_WEIGHTS, None, at),
            Place::Input(n) => (CTX_INPUTS, Some(n), 0),
            Place::Output(n) => (CTX_OUTPUTS, Some(n), 0),
            Place::WorkerScratch(_) => return Err(Error::Plan("a condition in a worker's scratch".into())),
        };
        let mut base = self.b.ins().stack_load(types::I64, types::I64, self.ctx, region);
        if let Some(n) = index {
            base = self.load(base, n as i32 * 8);
        }
        Ok(self.b.ins().iadd_imm_s(base, offset as i64))
    }

    fn step(&mut self, work: &Work) -> Result<()> {
        self.profile_call(work.step, 0);
        for (segment, ix) in &work.segments {
            let function = import(self.b.func, *ix, signature(4, 0));
            let ctx = self.b.ins().stack_addr(types::I64, self.ctx, 0);
            let zero = self.b.ins().iconst(types::I64, 0);
            let Some(split) = segment.parallel else {
                self.b.ins().call(function, &[ctx, zero, zero, zero]);
                continue;
            };
            let task = self.helpers.task.ok_or_else(|| Error::Plan("tasks without a trampoline".into()))?;
            let (trips, tasks, many) = self.split(split, &segment.loads)?;
            let (split, one, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
            self.b.ins().brif(many, split, &[], one, &[]);
            self.b.switch_to_block(split);
            self.b.seal_block(split);
            let pointer = self.b.ins().func_addr(types::I64, function);
            for (value, offset) in [(ctx, TASK_CTX), (pointer, TASK_FUNC), (trips, TASK_TRIP), (tasks, TASK_COUNT)] {
                self.b.ins().stack_store(types::I64, value, self.task, offset);
            }
            let trampoline = import(self.b.func, task, task_signature());
            let trampoline = self.b.ins().func_addr(types::I64, trampoline);
            let arg = self.b.ins().stack_addr(types::I64, self.task, 0);
            let count = self.b.ins().ireduce(types::I32, tasks);
            let sig = self.b.import_signature(parallel_signature());
            let answer = self.b.ins().call_indirect(sig, self.parallel, &[self.hooks_ctx, count, trampoline, arg]);
            let answer = self.b.inst_results(answer)[0];
            let status = self.b.ins().iconst(types::I32, i64::from(abi::ONNXC_PARALLEL));
            self.b.ins().brif(answer, self.abort, &[status.into()], done, &[]);
            self.b.switch_to_block(one);
            self.b.seal_block(one);
            self.b.ins().call(function, &[ctx, zero, trips, zero]);
            self.b.ins().jump(done, &[]);
            self.b.switch_to_block(done);
            self.b.seal_block(done);
        }
        self.profile_call(work.step, 1);
        Ok(())
    }

    /// Iterations of a parallel loop, the tasks that they become, and whether they are to become tasks.
    fn split(&mut self, split: Split, loads: &[(Var, u32)]) -> Result<(Value, Value, Value)> {
        let most = self.b.ins().iconst(types::I64, split.tasks as i64);
        let (lo, hi, step, least) = match split.trips {
            Trips::Fixed(n) => return Ok((self.b.ins().iconst(types::I64, n as i64), most, self.parallel)),
            Trips::Open { lo, hi, step, least } => (lo, hi, step, least),
        };
        let slot = loads.iter().find(|(var, _)| *var == hi).ok_or_else(|| Error::Plan("a loop without an end".into()))?.1;
        let hi = self.b.ins().stack_load(types::I64, types::I64, self.ctx, CTX_SLOTS + slot as i32 * 8);
        let span = self.b.ins().iadd_imm_s(hi, step - 1 - lo);
        let zero = self.b.ins().iconst(types::I64, 0);
        let span = self.b.ins().smax(span, zero);
        let step = self.b.ins().iconst(types::I64, step);
        let trips = self.b.ins().udiv(span, step);
        let enough = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, trips, least as i64);
        let many = self.b.ins().select(enough, self.parallel, zero);
        let tasks = self.b.ins().umin(trips, most);
        Ok((trips, tasks, many))
    }

    fn profile_call(&mut self, step: u32, phase: u32) {
        let (call, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(self.profile, call, &[], done, &[]);
        self.b.switch_to_block(call);
        self.b.seal_block(call);
        self.b.set_cold_block(call);
        let sig = self.b.import_signature(profile_signature());
        let (step, phase) = (self.b.ins().iconst(types::I32, i64::from(step)), self.b.ins().iconst(types::I32, i64::from(phase)));
        self.b.ins().call_indirect(sig, self.profile, &[self.hooks_ctx, step, phase]);
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
    }

    fn finish(mut self, isa: &dyn TargetIsa) {
        let ok = self.b.ins().iconst(types::I32, i64::from(abi::ONNXC_OK));
        self.b.ins().jump(self.abort, &[ok.into()]);
        self.b.seal_block(self.abort);
        self.b.switch_to_block(self.abort);
        restore_mode(&mut self.b, self.helpers, self.old_mode);
        let status = self.b.block_params(self.abort)[0];
        self.b.ins().jump(self.fail, &[status.into()]);
        self.b.seal_block(self.fail);
        self.b.switch_to_block(self.fail);
        let status = self.b.block_params(self.fail)[0];
        self.b.ins().return_(&[status]);
        self.b.finalize(isa.frontend_config());
    }
}

fn set_mode(b: &mut FunctionBuilder, helpers: Helpers) -> Option<Value> {
    let set = import(b.func, helpers.set_ftz?, signature(0, 1));
    let call = b.ins().call(set, &[]);
    Some(b.inst_results(call)[0])
}

fn restore_mode(b: &mut FunctionBuilder, helpers: Helpers, old: Option<Value>) {
    if let (Some(restore), Some(old)) = (helpers.restore_ftz, old) {
        let restore = import(b.func, restore, signature(1, 0));
        b.ins().call(restore, &[old]);
    }
}

/// `void task(arg, i, worker)`: runs iterations `i*trip/tasks .. (i+1)*trip/tasks` of a segment with flush-to-zero set.
pub(crate) fn task_unit(helpers: Helpers, options: &Options, isa: &dyn TargetIsa) -> Unit {
    let mut function = Function::new();
    function.signature = task_signature();
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let params = start(&mut b);
    let old = set_mode(&mut b, helpers);
    let flags = MemFlagsData::trusted();
    let [ctx, func, trip, count] =
        [TASK_CTX, TASK_FUNC, TASK_TRIP, TASK_COUNT].map(|at| b.ins().load(types::I64, flags, params[0], at));
    let (i, worker) = (b.ins().uextend(types::I64, params[1]), b.ins().uextend(types::I64, params[2]));
    let product = b.ins().imul(i, trip);
    let begin = b.ins().udiv(product, count);
    let product = b.ins().iadd(product, trip);
    let end = b.ins().udiv(product, count);
    let sig = b.import_signature(signature(4, 0));
    b.ins().call_indirect(sig, func, &[ctx, begin, end, worker]);
    restore_mode(&mut b, helpers, old);
    b.ins().return_(&[]);
    b.finalize(isa.frontend_config());
    let name = format!("{}_task", options.name);
    Unit { name, export: false, code: Code::Clif(Box::new(function)) }
}
