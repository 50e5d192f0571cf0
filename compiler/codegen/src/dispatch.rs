//! Open dimensions in generated code: `NAME_sizes` tells what a call needs, and `NAME_run` of a model with several plans chooses one.
//!
//! Both compare the caller's values with the ranges of each plan in turn; what no plan was made for is `ONNXC_DIMS`. Functions of a bundle take the
//! number of a point first, and call those of the point; what is no point is `ONNXC_POINT`.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Block, BlockArg, Function, InstBuilder, MemFlagsData, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use onnxc_ir::Dim;
use onnxc_ir::dim::DimExpr;
use onnxc_ir::plan::{Base, Io, OpenDim, Plan, Room};
use onnxc_runtime::abi;

use crate::entry::run_signature;
use crate::error::{Error, Result};
use crate::generate::{Options, Source, start};
use crate::layout::Layout;
use crate::machine::{Code, FuncIx, Unit, import, signature};

/// Offsets of the ABI structs, tied to the Rust definition on 64-bit hosts.
pub(crate) const CALL_DIMS: i32 = 40;
/// See [`CALL_DIMS`].
pub(crate) const CALL_COUNTS: i32 = 48;
const SIZES_ARENA: i32 = 0;
const SIZES_INPUTS: i32 = 8;
const SIZES_OUTPUTS: i32 = 16;
const SIZES_INPUT_BYTES: i32 = 24;
const SIZES_OUTPUT_BYTES: i32 = 32;
const SIZES_COUNTS: i32 = 40;
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(abi::onnxc_call, dims) == CALL_DIMS as usize);
    assert!(offset_of!(abi::onnxc_call, counts) == CALL_COUNTS as usize);
    assert!(offset_of!(abi::onnxc_sizes, counts) == SIZES_COUNTS as usize);
    assert!(offset_of!(abi::onnxc_sizes, arena_bytes) == SIZES_ARENA as usize);
    assert!(offset_of!(abi::onnxc_sizes, input_dims) == SIZES_INPUTS as usize);
    assert!(offset_of!(abi::onnxc_sizes, output_dims) == SIZES_OUTPUTS as usize);
    assert!(offset_of!(abi::onnxc_sizes, input_bytes) == SIZES_INPUT_BYTES as usize);
    assert!(offset_of!(abi::onnxc_sizes, output_bytes) == SIZES_OUTPUT_BYTES as usize);
};

/// `NAME_run` of a model with open dimensions: calls the plan's own function.
pub(crate) fn run(source: &Source, entries: &[FuncIx], options: &Options, isa: &dyn TargetIsa) -> Result<Unit> {
    let mut function = Function::new();
    function.signature = run_signature();
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let call = start(&mut b)[0];
    require_pointer(&mut b, call);
    let dims = b.ins().load(types::I64, MemFlagsData::trusted(), call, CALL_DIMS);
    require_pointer(&mut b, dims);
    choose(&mut b, dims, source, &mut |b, i| {
        let entry = import(b.func, entries[i], run_signature());
        let status = b.ins().call(entry, &[call]);
        let status = b.inst_results(status)[0];
        b.ins().return_(&[status]);
        Ok(())
    })?;
    b.finalize(isa.frontend_config());
    Ok(Unit { name: format!("{}_run", options.name), export: true, code: Code::Clif(Box::new(function)) })
}

/// `NAME_run(point, call)` or `NAME_sizes(point, dims, sizes)` of a bundle: calls the function of the point with the other `arguments`.
pub(crate) fn by_point(name: &str, functions: &[FuncIx], arguments: usize, options: &Options, isa: &dyn TargetIsa) -> Unit {
    let mut of_point = signature(arguments, 0);
    of_point.returns.push(AbiParam::new(types::I32));
    let mut function = Function::new();
    function.signature = of_point.clone();
    // A 32-bit argument, of which only the low half is used, however the convention extends it.
    function.signature.params.insert(0, AbiParam::new(types::I32));
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let params = start(&mut b);
    for (i, ix) in functions.iter().enumerate() {
        let (here, next) = (b.create_block(), b.create_block());
        let chosen = b.ins().icmp_imm_u(IntCC::Equal, params[0], i as i64);
        b.ins().brif(chosen, here, &[], next, &[]);
        enter(&mut b, here);
        let function = import(b.func, *ix, of_point.clone());
        let status = b.ins().call(function, &params[1..]);
        let status = b.inst_results(status)[0];
        b.ins().return_(&[status]);
        enter(&mut b, next);
    }
    answer(&mut b, abi::ONNXC_POINT);
    b.finalize(isa.frontend_config());
    Unit { name: format!("{}_{name}", options.name), export: true, code: Code::Clif(Box::new(function)) }
}

/// `NAME_sizes(dims, sizes)`.
pub(crate) fn sizes(source: &Source, layouts: &[Layout], options: &Options, isa: &dyn TargetIsa) -> Result<Unit> {
    let mut function = Function::new();
    function.signature = signature(2, 0);
    function.signature.returns.push(AbiParam::new(types::I32));
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let params = start(&mut b);
    let (dims, sizes) = (params[0], params[1]);
    require_pointer(&mut b, sizes);
    let given = given_counts(&mut b, sizes, &counts(source));
    let fill = &mut |b: &mut FunctionBuilder, i: usize| -> Result<()> {
        let (plan, layout) = (source.plans[i].1, &layouts[i]);
        let flags = MemFlagsData::trusted();
        let symbols = Symbols { dims: source.dims, values: dims, counts: &given };
        let (_, arena) = symbols.rooms(b, plan, layout)?;
        b.ins().store(flags, arena, sizes, SIZES_ARENA);
        let extents = |list: &[Io]| list.iter().flat_map(|io| io.ty.shape.clone()).collect::<Vec<Dim>>();
        for (numbers, at) in [
            (&extents(&plan.inputs), SIZES_INPUTS),
            (&extents(&plan.outputs), SIZES_OUTPUTS),
            (&layout.input_bytes, SIZES_INPUT_BYTES),
            (&layout.output_bytes, SIZES_OUTPUT_BYTES),
        ] {
            let to = b.ins().load(types::I64, flags, sizes, at);
            write(b, to, numbers, symbols)?;
        }
        answer(b, abi::ONNXC_OK);
        Ok(())
    };
    if source.dims.is_empty() {
        fill(&mut b, 0)?;
    } else {
        require_pointer(&mut b, dims);
        choose(&mut b, dims, source, fill)?;
    }
    b.finalize(isa.frontend_config());
    Ok(Unit { name: format!("{}_sizes", options.name), export: true, code: Code::Clif(Box::new(function)) })
}

/// The sizes that data decides on in any of the plans, with the largest bound, in the order of the ABI.
pub(crate) fn counts(source: &Source) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    for count in source.plans.iter().flat_map(|(_, plan)| &plan.counts) {
        match all.iter_mut().find(|c| c.0 == count.name) {
            Some(known) => known.1 = known.1.max(count.bound),
            None => all.push((count.name.clone(), count.bound)),
        }
    }
    all
}

/// The counts that the caller of `NAME_sizes` gives, none larger than its bound; without any, the bounds.
fn given_counts(b: &mut FunctionBuilder, sizes: Value, counts: &[(String, u64)]) -> Vec<(String, Value)> {
    if counts.is_empty() {
        return Vec::new();
    }
    let flags = MemFlagsData::trusted();
    let list = b.ins().load(types::I64, flags, sizes, SIZES_COUNTS);
    let (some, done) = (b.create_block(), b.create_block());
    let bounds: Vec<Value> = counts.iter().map(|c| b.ins().iconst(types::I64, c.1 as i64)).collect();
    let values: Vec<Value> = counts.iter().map(|_| b.append_block_param(done, types::I64)).collect();
    let arguments: Vec<BlockArg> = bounds.iter().map(|v| (*v).into()).collect();
    b.ins().brif(list, some, &[], done, &arguments);
    enter(b, some);
    let mut arguments: Vec<BlockArg> = Vec::new();
    for (i, bound) in bounds.iter().enumerate() {
        let count = b.ins().load(types::I64, flags, list, i as i32 * 8);
        arguments.push(b.ins().umin(count, *bound).into());
    }
    b.ins().jump(done, &arguments);
    enter(b, done);
    counts.iter().map(|c| c.0.clone()).zip(values).collect()
}

/// Where the values of symbols are.
#[derive(Clone, Copy)]
pub(crate) struct Symbols<'a> {
    /// The open dimensions.
    pub dims: &'a [OpenDim],
    /// An array of their values.
    pub values: Value,
    /// The values of counts by name.
    pub counts: &'a [(String, Value)],
}

impl Symbols<'_> {
    /// Code that computes a size as an i64.
    pub(crate) fn compute(self, b: &mut FunctionBuilder, dim: &Dim) -> Result<Value> {
        let expr = match dim {
            Dim::Const(n) => return Ok(b.ins().iconst(types::I64, *n as i64)),
            Dim::Sym(name) => {
                if let Some((_, count)) = self.counts.iter().find(|c| c.0 == **name) {
                    return Ok(*count);
                }
                let at = self.dims.iter().position(|d| d.name == **name);
                let at = at.ok_or_else(|| Error::Plan(format!("no value is given for the dimension {name}")))?;
                return Ok(b.ins().load(types::I64, MemFlagsData::trusted(), self.values, at as i32 * 8));
            }
            Dim::Expr(expr) => expr,
        };
        let mut two = |x: &Dim, y: &Dim| Ok::<_, Error>((self.compute(b, x)?, self.compute(b, y)?));
        Ok(match &**expr {
            DimExpr::Sum(terms, constant) => {
                let mut sum = b.ins().iconst(types::I64, *constant);
                for (d, k) in terms {
                    let value = self.compute(b, d)?;
                    let value = b.ins().imul_imm_s(value, *k);
                    sum = b.ins().iadd(sum, value);
                }
                // A size that would be negative is 0.
                let zero = b.ins().iconst(types::I64, 0);
                b.ins().smax(sum, zero)
            }
            DimExpr::Product(factors) => {
                let mut product = b.ins().iconst(types::I64, 1);
                for d in factors {
                    let value = self.compute(b, d)?;
                    product = b.ins().imul(product, value);
                }
                product
            }
            DimExpr::Div(x, y) => {
                let (x, y) = two(x, y)?;
                // Some processors trap.
                let one = b.ins().iconst(types::I64, 1);
                let y = b.ins().umax(y, one);
                b.ins().udiv(x, y)
            }
            DimExpr::Max(x, y) => {
                let (x, y) = two(x, y)?;
                b.ins().smax(x, y)
            }
            DimExpr::Min(x, y) => {
                let (x, y) = two(x, y)?;
                b.ins().smin(x, y)
            }
        })
    }
}

impl Symbols<'_> {
    /// Code that computes the offsets of all rooms of a plan, and the size of the arena.
    pub(crate) fn rooms(self, b: &mut FunctionBuilder, plan: &Plan, layout: &Layout) -> Result<(Vec<Value>, Value)> {
        if plan.rooms.is_empty() && plan.end.behind.iter().all(|(base, n)| matches!(base, Base::At(_)) && n.as_const().is_some())
        {
            return Ok((Vec::new(), b.ins().iconst(types::I64, layout.arena_bytes as i64)));
        }
        let mut offsets = Vec::new();
        for room in &plan.rooms {
            let offset = self.behind(b, room, &offsets)?;
            offsets.push(offset);
        }
        let shared = self.behind(b, &plan.end, &offsets)?;
        let arena = b.ins().iadd_imm_s(shared, (layout.arena_bytes - layout.arena_shared) as i64);
        Ok((offsets, arena))
    }

    fn behind(self, b: &mut FunctionBuilder, room: &Room, offsets: &[Value]) -> Result<Value> {
        let mut most = b.ins().iconst(types::I64, 0);
        for (base, bytes) in &room.behind {
            let bytes = self.compute(b, bytes)?;
            let end = match base {
                Base::At(at) => b.ins().iadd_imm_s(bytes, *at as i64),
                Base::Room(r) => b.ins().iadd(offsets[*r], bytes),
            };
            most = b.ins().umax(most, end);
        }
        Ok(most)
    }
}

/// Sizes in an array at `to`, unless it is null.
fn write(b: &mut FunctionBuilder, to: Value, sizes: &[Dim], symbols: Symbols) -> Result<()> {
    let (some, done) = (b.create_block(), b.create_block());
    b.ins().brif(to, some, &[], done, &[]);
    enter(b, some);
    for (i, dim) in sizes.iter().enumerate() {
        let size = symbols.compute(b, dim)?;
        b.ins().store(MemFlagsData::trusted(), size, to, i as i32 * 8);
    }
    b.ins().jump(done, &[]);
    enter(b, done);
    Ok(())
}

/// `if dims are in the ranges of plan 0 { then(0) } else if ... else { ONNXC_DIMS }`; `then` returns.
fn choose(
    b: &mut FunctionBuilder,
    dims: Value,
    source: &Source,
    then: &mut dyn FnMut(&mut FunctionBuilder, usize) -> Result<()>,
) -> Result<()> {
    let flags = MemFlagsData::trusted();
    let given: Vec<Value> = (0..source.dims.len()).map(|d| b.ins().load(types::I64, flags, dims, d as i32 * 8)).collect();
    for (i, (ranges, _)) in source.plans.iter().enumerate() {
        let (here, next) = (b.create_block(), b.create_block());
        let mut inside = b.ins().iconst(types::I8, 1);
        for (given, (first, last)) in given.iter().zip(*ranges) {
            // One comparison: what is below the first wraps round to the largest numbers.
            let beyond = b.ins().iadd_imm_s(*given, (*first as i64).wrapping_neg());
            let width = b.ins().iconst(types::I64, (last - first) as i64);
            let within = b.ins().icmp(IntCC::UnsignedLessThanOrEqual, beyond, width);
            inside = b.ins().band(inside, within);
        }
        b.ins().brif(inside, here, &[], next, &[]);
        enter(b, here);
        then(b, i)?;
        enter(b, next);
    }
    answer(b, abi::ONNXC_DIMS);
    Ok(())
}

fn enter(b: &mut FunctionBuilder, block: Block) {
    b.switch_to_block(block);
    b.seal_block(block);
}

fn answer(b: &mut FunctionBuilder, status: i32) {
    let status = b.ins().iconst(types::I32, i64::from(status));
    b.ins().return_(&[status]);
}

fn require_pointer(b: &mut FunctionBuilder, pointer: Value) {
    let (go_on, null) = (b.create_block(), b.create_block());
    b.ins().brif(pointer, go_on, &[], null, &[]);
    enter(b, null);
    answer(b, abi::ONNXC_NULL);
    enter(b, go_on);
}
