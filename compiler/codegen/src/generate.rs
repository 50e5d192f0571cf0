//! A plan as the functions of a module: entry, task trampoline, mode switches, microkernels, vector loops, step segments.

use std::collections::HashMap;

use cranelift_codegen::ir::{Function, InstBuilder, MemFlagsData, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use onnxc_ir::kernel::Kernel;
use onnxc_ir::lir::{Expr, Func, Stmt};
use onnxc_ir::plan::{OpenDim, Place, Plan, Point, Step, Variants};
use onnxc_runtime::abi;
use onnxc_targets::Target;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::leaves::{self, Leaves, leaves_of};
use crate::lower::{Calls, Lowering, Root, VectorCall};
use crate::machine::{self, Code, Compiled, FuncIx, Unit, import, signature};
use crate::scalar::Caps;
use crate::segment::{self, Segment};
use crate::{dispatch, entropy, entry};

/// Where the weights come from at run time.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Weights {
    /// In the object's read-only data.
    #[default]
    Embed,
    /// In memory that the caller points to.
    File,
    /// In the object, in a section of this name.
    Section(String),
    /// In the object's read-only data, coded by their entropy; in memory that the caller points to when they are decoded.
    Coded,
}

impl Weights {
    /// True when each call brings a pointer to them.
    pub fn are_passed(&self) -> bool {
        matches!(self, Weights::File | Weights::Coded)
    }

    /// Their number in the ABI.
    pub(crate) fn abi_mode(&self) -> u32 {
        match self {
            Weights::Embed => abi::ONNXC_WEIGHTS_EMBED,
            Weights::File => abi::ONNXC_WEIGHTS_FILE,
            Weights::Section(_) => abi::ONNXC_WEIGHTS_SECTION,
            Weights::Coded => abi::ONNXC_WEIGHTS_CODED,
        }
    }
}

/// How the functions are generated.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Prefix of all symbols.
    pub name: String,
    /// Weights.
    pub weights: Weights,
    /// Collect assembly text.
    pub text: bool,
    /// Collect Cranelift IR text.
    pub clif: bool,
}

/// Bytes of the context before the variable slots.
pub(crate) const CTX_SLOTS: i32 = 32;
/// Offsets in the context that the entry hands to segments.
pub(crate) const CTX_ARENA: i32 = 0;
/// Weight blob.
pub(crate) const CTX_WEIGHTS: i32 = 8;
/// Caller's array of input pointers.
pub(crate) const CTX_INPUTS: i32 = 16;
/// Caller's array of output pointers.
pub(crate) const CTX_OUTPUTS: i32 = 24;

/// A step's function, numbered, with its segments.
pub(crate) struct Work<'p> {
    /// Number of the step in profiles.
    pub step: u32,
    /// Which plan it belongs to.
    pub plan: usize,
    /// The code.
    pub func: &'p Func,
    /// Where its buffers are.
    pub places: &'p [Place],
    /// Its segments and the functions that hold them.
    pub segments: Vec<(Segment, FuncIx)>,
}

/// Functions that the entry may call besides steps.
#[derive(Clone, Copy, Default)]
pub(crate) struct Helpers {
    /// Task trampoline.
    pub task: Option<FuncIx>,
    /// CPU check.
    pub cpu_check: Option<FuncIx>,
    /// Flush-to-zero on.
    pub set_ftz: Option<FuncIx>,
    /// And back.
    pub restore_ftz: Option<FuncIx>,
}

/// Numbers of the functions that a module exports: `NAME_run` and `NAME_sizes`, which for a bundle take the point first.
pub(crate) const RUN: FuncIx = 0;
/// See [`RUN`].
pub(crate) const SIZES: FuncIx = 1;

/// What a descriptor points to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exports {
    /// The inference.
    pub run: FuncIx,
    /// What a call needs.
    pub sizes: FuncIx,
}

impl Exports {
    /// Those of a module with one model.
    pub(crate) const OF_MODULE: Exports = Exports { run: RUN, sizes: SIZES };
}

/// The function that decodes weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpack {
    /// The function.
    pub function: FuncIx,
    /// Deepest stack below it.
    pub stack_bytes: u64,
}

/// Everything compiled, before it is put into a module.
pub(crate) struct Machine {
    /// Symbol, visibility, code of each function; [`RUN`] and [`SIZES`] are the first.
    pub functions: Vec<(String, bool, Compiled)>,
    /// Deepest stack.
    pub stack_bytes: u64,
    /// `NAME_unpack` of coded weights.
    pub unpack: Option<Unpack>,
    /// Functions of the points of a bundle, each with the deepest stack below them.
    pub points: Vec<(Exports, u64)>,
    /// Names of the microkernels and vector loops.
    pub kernels: Vec<String>,
    /// Cranelift IR of everything that went through Cranelift.
    pub clif: String,
}

/// The function table while it is built.
#[derive(Default)]
struct Table {
    units: Vec<Option<Unit>>,
}

impl Table {
    fn add(&mut self, unit: Unit) -> FuncIx {
        self.units.push(Some(unit));
        (self.units.len() - 1) as FuncIx
    }

    fn reserve(&mut self) -> FuncIx {
        self.units.push(None);
        (self.units.len() - 1) as FuncIx
    }
}

/// What code is generated from: one plan, or one for each combination of values of open dimensions.
#[derive(Clone, Debug)]
pub struct Source<'p> {
    /// Open dimensions.
    pub dims: &'p [OpenDim],
    /// Points of a bundle, one for each plan; then no dimension is open, and the caller says which plan it wants.
    pub points: &'p [Point],
    /// Plans with the ranges of the dimensions; at least one, and one weight blob for all.
    pub plans: Vec<(&'p [(u64, u64)], &'p Plan)>,
}

impl<'p> From<&'p Plan> for Source<'p> {
    fn from(plan: &'p Plan) -> Source<'p> {
        Source { dims: &[], points: &[], plans: vec![(&[], plan)] }
    }
}

impl<'p> From<&'p Variants> for Source<'p> {
    fn from(v: &'p Variants) -> Source<'p> {
        Source { dims: &v.dims, points: &v.points, plans: v.plans.iter().map(|(ranges, plan)| (&ranges[..], plan)).collect() }
    }
}

impl<'p> Source<'p> {
    /// Any of the plans, for what they have in common.
    pub(crate) fn first(&self) -> Result<&'p Plan> {
        self.plans.first().map(|p| p.1).ok_or_else(|| Error::Plan("nothing to compile".into()))
    }
}

/// Generates and compiles everything.
pub(crate) fn generate(source: &Source, target: &Target, options: &Options) -> Result<Machine> {
    let mut table = Table::default();
    let (run, sizes) = (table.reserve(), table.reserve());
    debug_assert_eq!((run, sizes), (RUN, SIZES), "internal: the first functions are those that the module exports");
    let threads = target.desc.max_threads.max(1);
    let mut works = number_steps(source, threads);
    let helpers = add_helpers(&mut table, target, options, threads, &works);
    let unpack = (options.weights == Weights::Coded).then(|| {
        let bytes = source.first().map_or(0, |plan| plan.weights_bytes);
        let unit = entropy::unpack(bytes, helpers, options, &*target.isa, &mut |unit| table.add(unit));
        table.add(unit)
    });
    let (leaves, kernels) = {
        let funcs: Vec<&Func> = works.iter().map(|(_, w)| w.func).collect();
        leaves::add(&mut |unit| table.add(unit), &funcs, target, &options.name)?
    };
    for work in &mut works {
        for (_, ix) in &mut work.1.segments {
            *ix = table.reserve();
        }
    }
    let layouts: Vec<Layout> = source.plans.iter().map(|(_, plan)| Layout::of(plan, threads)).collect::<Result<_>>()?;
    let caps = Caps::of(&*target.isa);
    let jobs: Vec<(&Work, usize)> = works.iter().flat_map(|(_, w)| (0..w.segments.len()).map(move |s| (w, s))).collect();
    let built: Vec<Result<Unit>> = jobs
        .par_iter()
        .map(|(work, s)| {
            let layout = &layouts[work.plan];
            let prefix = if source.points.is_empty() { options.name.clone() } else { format!("{}_p{}", options.name, work.plan) };
            segment_unit((work, *s), caps, layout, &leaves, &prefix, &*target.isa).map_err(|e| e.in_step(&work.func.name))
        })
        .collect();
    for ((work, s), unit) in jobs.iter().zip(built) {
        table.units[work.segments[*s].1 as usize] = Some(unit?);
    }
    let (mut entries, counts) = (Vec::new(), dispatch::counts(source));
    let chosen = !source.dims.is_empty() || !source.points.is_empty();
    for (i, ((_, plan), layout)) in source.plans.iter().zip(&layouts).enumerate() {
        let name = if chosen { format!("run{i}") } else { "run".to_string() };
        let model = entry::Model { plan, dims: source.dims, counts: &counts };
        let unit = entry::unit(model, &works, helpers, layout, options, &name, &*target.isa)?;
        entries.push(if chosen { table.reserve() } else { RUN });
        table.units[entries[i] as usize] = Some(unit);
    }
    let points = add_entries(&mut table, source, &entries, &layouts, (target, options))?;
    let units: Vec<Unit> =
        table.units.into_iter().map(|u| u.ok_or_else(|| Error::Plan("a function without code".into()))).collect::<Result<_>>()?;
    finish(units, (&works, helpers, kernels), (&points, unpack), target, options)
}

/// The functions that the module exports; for a bundle those of each point too.
fn add_entries(
    table: &mut Table,
    source: &Source,
    entries: &[FuncIx],
    layouts: &[Layout],
    (target, options): (&Target, &Options),
) -> Result<Vec<Exports>> {
    let isa = &*target.isa;
    let mut points = Vec::new();
    if source.points.is_empty() {
        if !source.dims.is_empty() {
            table.units[RUN as usize] = Some(dispatch::run(source, entries, options, isa)?);
        }
        table.units[SIZES as usize] = Some(dispatch::sizes(source, layouts, options, isa)?);
        return Ok(points);
    }
    for (i, run) in entries.iter().enumerate() {
        let one = Source { dims: &[], points: &[], plans: vec![source.plans[i]] };
        let sizes = dispatch::sizes(&one, &layouts[i..=i], options, isa)?;
        let sizes = table.add(Unit { name: format!("{}_sizes{i}", options.name), export: false, ..sizes });
        points.push(Exports { run: *run, sizes });
    }
    let (runs, sizes): (Vec<FuncIx>, Vec<FuncIx>) = points.iter().map(|p| (p.run, p.sizes)).unzip();
    table.units[RUN as usize] = Some(dispatch::by_point("run", &runs, 1, options, isa));
    table.units[SIZES as usize] = Some(dispatch::by_point("sizes", &sizes, 2, options, isa));
    Ok(points)
}

/// All step functions in order, each with the address of its step as the entry's key.
fn number_steps<'p>(source: &Source<'p>, threads: u32) -> Vec<(usize, Work<'p>)> {
    fn visit<'p>((plan, first): (usize, usize), steps: &'p [Step], threads: u32, out: &mut Vec<(usize, Work<'p>)>) {
        for step in steps {
            if let Step::Call { func, places, .. } = step {
                let segments = segment::split(func, threads).0.into_iter().map(|s| (s, 0)).collect();
                let number = (out.len() - first) as u32;
                out.push((step as *const Step as usize, Work { step: number, plan, func, places, segments }));
            }
            step.inner().for_each(|list| visit((plan, first), list, threads, out));
        }
    }
    let mut out = Vec::new();
    for (i, (_, plan)) in source.plans.iter().enumerate() {
        // Points are models of their own, whose steps begin at 0.
        let first = if source.points.is_empty() { 0 } else { out.len() };
        visit((i, first), &plan.steps, threads, &mut out);
    }
    out
}

/// What a profile or a step table says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// The operator's mnemonic.
    pub op: String,
    /// ONNX nodes that the step does the work of.
    pub origins: Vec<String>,
}

/// The steps by their numbers in profiles: in order, both branches of an `If`, one plan after the other.
pub fn step_table<'p>(source: impl Into<Source<'p>>) -> Vec<StepInfo> {
    fn visit(steps: &[Step], out: &mut Vec<StepInfo>) {
        for step in steps {
            if let Step::Call { op, origins, .. } = step {
                out.push(StepInfo { op: op.clone(), origins: origins.clone() });
            }
            step.inner().for_each(|list| visit(list, out));
        }
    }
    let mut out = Vec::new();
    source.into().plans.iter().for_each(|(_, plan)| visit(&plan.steps, &mut out));
    out
}

fn add_helpers(table: &mut Table, target: &Target, options: &Options, threads: u32, works: &[(usize, Work)]) -> Helpers {
    let mut bytes = |name: &str, code: &Option<Vec<u8>>| {
        let code = Code::Bytes(code.clone()?);
        Some(table.add(Unit { name: format!("{}_{name}", options.name), export: false, code }))
    };
    let mut helpers = Helpers {
        task: None,
        cpu_check: bytes("cpu_check", &target.cpu_check),
        set_ftz: bytes("set_ftz", &target.set_ftz),
        restore_ftz: bytes("restore_ftz", &target.restore_ftz),
    };
    if threads > 1 && works.iter().any(|(_, w)| w.segments.iter().any(|(s, _)| s.parallel.is_some())) {
        helpers.task = Some(table.reserve());
        let unit = entry::task_unit(helpers, options, &*target.isa);
        let at = table.units.len() - 1;
        table.units[at] = Some(unit);
    }
    helpers
}

/// Resolves calls of one segment.
struct SegmentCalls<'a> {
    leaves: &'a Leaves,
    refs: HashMap<FuncIx, cranelift_codegen::ir::FuncRef>,
}

impl SegmentCalls<'_> {
    fn call(&mut self, b: &mut FunctionBuilder, ix: FuncIx, args: &[Value]) {
        let function = *self.refs.entry(ix).or_insert_with(|| import(b.func, ix, signature(args.len(), 0)));
        b.ins().call(function, args);
    }
}

impl Calls for SegmentCalls<'_> {
    fn kernel(&mut self, b: &mut FunctionBuilder, kernel: &Kernel, args: &[Value]) -> Result<()> {
        let (ix, n) = *self.leaves.kernels.get(kernel).ok_or_else(|| Error::Plan("kernel was not collected".into()))?;
        if n != args.len() {
            return Err(Error::Plan(format!("kernel called with {} and with {n} arguments", args.len())));
        }
        self.call(b, ix, args);
        Ok(())
    }

    fn vector(&mut self, stmt: &Stmt) -> Option<VectorCall> {
        let found = self.leaves.vectors.get(&(stmt as *const Stmt as usize))?;
        Some(VectorCall { code: found.code, slots: found.slots.clone() })
    }

    fn call_vector(&mut self, b: &mut FunctionBuilder, call: &VectorCall, block: Value) -> Result<()> {
        self.call(b, call.code, &[block]);
        Ok(())
    }
}

/// The function of a segment: `(context, begin, end, worker)`.
fn segment_unit(
    (work, s): (&Work, usize),
    caps: Caps,
    layout: &Layout,
    leaves: &Leaves,
    prefix: &str,
    isa: &dyn TargetIsa,
) -> Result<Unit> {
    let (segment, _) = &work.segments[s];
    let mut function = Function::new();
    function.signature = signature(4, 0);
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let params = start(&mut b);
    let stmts = &work.func.body[segment.stmts.clone()];
    let roots = base_pointers(&mut b, work, layout, params[0], params[3]);
    let mut block_bytes = 0;
    leaves_of(stmts, &mut |stmt| {
        if let Some(found) = leaves.vectors.get(&(stmt as *const Stmt as usize)) {
            block_bytes = block_bytes.max(found.block_bytes);
        }
    });
    let mut calls = SegmentCalls { leaves, refs: HashMap::new() };
    let mut l = Lowering::new(&mut b, work.func, work.places, caps, &mut calls, roots, block_bytes);
    for (var, slot) in &segment.loads {
        let ty = crate::scalar::clif_type(work.func.vars[var.0 as usize])?;
        let value = l.builder().ins().load(ty, MemFlagsData::trusted(), params[0], CTX_SLOTS + *slot as i32 * 8);
        l.define(*var, value)?;
    }
    match (segment.parallel, stmts) {
        (Some(_), [stmt @ Stmt::For { var, lo: Expr::Int(lo), step, body, .. }]) => {
            // Iterations begin..end of the loop; a task is never empty.
            let ins = |l: &mut Lowering, n: Value| {
                let scaled = l.builder().ins().imul_imm_s(n, *step);
                l.builder().ins().iadd_imm_s(scaled, *lo)
            };
            let (first, bound) = (ins(&mut l, params[1]), ins(&mut l, params[2]));
            match l.vector_form(stmt) {
                Some(call) => l.vector_range(*var, first, bound, *step, &call)?,
                None => l.counted(*var, first, bound, *step, false, body)?,
            }
        }
        _ => l.block(stmts)?,
    }
    for (var, slot) in &segment.saves {
        let value = l.value(*var)?;
        l.builder().ins().store(MemFlagsData::trusted(), value, params[0], CTX_SLOTS + *slot as i32 * 8);
    }
    b.ins().return_(&[]);
    b.finalize(isa.frontend_config());
    let part = if work.segments.len() > 1 { format!("_{s}") } else { String::new() };
    let name = format!("{prefix}_s{}_{}{part}", work.step, symbol(&work.func.name));
    Ok(Unit { name, export: false, code: Code::Clif(Box::new(function)) })
}

/// Creates and enters the first block; answers the parameters.
pub(crate) fn start(b: &mut FunctionBuilder) -> Vec<Value> {
    let first = b.create_block();
    b.append_block_params_for_function_params(first);
    b.switch_to_block(first);
    b.seal_block(first);
    b.block_params(first).to_vec()
}

/// Loads the base pointers of all regions that the function's buffers are in.
fn base_pointers(b: &mut FunctionBuilder, work: &Work, layout: &Layout, ctx: Value, worker: Value) -> Vec<(Root, Value)> {
    let mut roots: Vec<Root> = work.places.iter().map(|p| Root::of(*p).0).collect();
    roots.sort_unstable();
    roots.dedup();
    let flags = MemFlagsData::trusted();
    let load = |b: &mut FunctionBuilder, at: Value, offset: i32| b.ins().load(types::I64, flags, at, offset);
    let mut out = Vec::new();
    for root in roots {
        let value = match root {
            Root::Number => continue,
            Root::Arena => load(b, ctx, CTX_ARENA),
            Root::Weights => load(b, ctx, CTX_WEIGHTS),
            Root::Room(slot) => {
                let arena = load(b, ctx, CTX_ARENA);
                let offset = load(b, arena, slot as i32 * 8);
                b.ins().iadd(arena, offset)
            }
            // The workers' parts lie in front of the shared one, whose end may depend on sizes.
            Root::Scratch => {
                let arena = load(b, ctx, CTX_ARENA);
                let own = b.ins().imul_imm_s(worker, layout.scratch as i64);
                let at = b.ins().iadd(arena, own);
                b.ins().iadd_imm_s(at, -((layout.arena_bytes - layout.arena_shared) as i64))
            }
            Root::Input(n) => {
                let array = load(b, ctx, CTX_INPUTS);
                load(b, array, n as i32 * 8)
            }
            Root::Output(n) => {
                let array = load(b, ctx, CTX_OUTPUTS);
                load(b, array, n as i32 * 8)
            }
        };
        out.push((root, value));
    }
    out
}

/// A name with everything that assemblers dislike replaced, and not too long.
pub(crate) fn symbol(name: &str) -> String {
    name.chars().take(60).map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

fn finish(
    units: Vec<Unit>,
    (works, helpers, kernels): (&[(usize, Work)], Helpers, Vec<String>),
    (points, unpack): (&[Exports], Option<FuncIx>),
    target: &Target,
    options: &Options,
) -> Result<Machine> {
    let mut clif = String::new();
    if options.clif {
        for unit in &units {
            if let Code::Clif(f) = &unit.code {
                clif.push_str(&format!("; {}\n{}\n", unit.name, f.display()));
            }
        }
    }
    let names: Vec<(String, bool)> = units.iter().map(|u| (u.name.clone(), u.export)).collect();
    let compiled: Vec<Result<Compiled>> = units
        .into_par_iter()
        .enumerate()
        .map(|(ix, unit)| machine::compile(&*target.isa, ix as FuncIx, unit, options.text))
        .collect();
    let compiled: Vec<Compiled> = compiled.into_iter().collect::<Result<_>>()?;
    // The trampoline calls segments through a pointer.
    let tasks: Vec<FuncIx> =
        works.iter().flat_map(|(_, w)| w.segments.iter().filter(|(s, _)| s.parallel.is_some()).map(|(_, ix)| *ix)).collect();
    let extra = |ix: FuncIx| if Some(ix) == helpers.task { tasks.clone() } else { vec![] };
    let stack =
        |of: &Exports| machine::stack_bound(&compiled, of.run, &extra).max(machine::stack_bound(&compiled, of.sizes, &extra));
    let (stack_bytes, points) = (stack(&Exports::OF_MODULE), points.iter().map(|p| (*p, stack(p))).collect());
    let unpack = unpack.map(|f| Unpack { function: f, stack_bytes: machine::stack_bound(&compiled, f, &extra) });
    let functions = names.into_iter().zip(compiled).map(|((name, export), code)| (name, export, code)).collect();
    Ok(Machine { functions, stack_bytes, unpack, points, kernels, clif })
}
