//! Open dimensions in generated code: `NAME_sizes` tells what a call needs, and `NAME_run` of a model with several plans chooses one.
//!
//! Both compare the caller's values with those of each plan in turn; what no plan was made for is `ONNXC_DIMS`.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Block, Function, InstBuilder, MemFlagsData, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use onnxc_ir::plan::Io;
use onnxc_runtime::abi;

use crate::artifact::extents;
use crate::entry::run_signature;
use crate::generate::{Layout, Options, Source, start};
use crate::machine::{Code, FuncIx, Unit, import, signature};

/// Offsets of the ABI structs, tied to the Rust definition on 64-bit hosts.
const CALL_DIMS: i32 = 40;
const SIZES_ARENA: i32 = 0;
const SIZES_INPUTS: i32 = 8;
const SIZES_OUTPUTS: i32 = 16;
const SIZES_INPUT_BYTES: i32 = 24;
const SIZES_OUTPUT_BYTES: i32 = 32;
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(abi::onnxc_call, dims) == CALL_DIMS as usize);
    assert!(offset_of!(abi::onnxc_sizes, arena_bytes) == SIZES_ARENA as usize);
    assert!(offset_of!(abi::onnxc_sizes, input_dims) == SIZES_INPUTS as usize);
    assert!(offset_of!(abi::onnxc_sizes, output_dims) == SIZES_OUTPUTS as usize);
    assert!(offset_of!(abi::onnxc_sizes, input_bytes) == SIZES_INPUT_BYTES as usize);
    assert!(offset_of!(abi::onnxc_sizes, output_bytes) == SIZES_OUTPUT_BYTES as usize);
};

/// `NAME_run` of a model with open dimensions: calls the plan's own function.
pub(crate) fn run(source: &Source, entries: &[FuncIx], options: &Options, isa: &dyn TargetIsa) -> Unit {
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
    });
    b.finalize(isa.frontend_config());
    Unit { name: format!("{}_run", options.name), export: true, code: Code::Clif(Box::new(function)) }
}

/// `NAME_sizes(dims, sizes)`.
pub(crate) fn sizes(source: &Source, layouts: &[Layout], options: &Options, isa: &dyn TargetIsa) -> Unit {
    let mut function = Function::new();
    function.signature = signature(2, 0);
    function.signature.returns.push(AbiParam::new(types::I32));
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let params = start(&mut b);
    let (dims, sizes) = (params[0], params[1]);
    require_pointer(&mut b, sizes);
    let fill = &mut |b: &mut FunctionBuilder, i: usize| {
        let (plan, layout) = (source.plans[i].1, &layouts[i]);
        let flags = MemFlagsData::trusted();
        let arena = b.ins().iconst(types::I64, layout.arena_bytes as i64);
        b.ins().store(flags, arena, sizes, SIZES_ARENA);
        let extents = |list: &[Io]| list.iter().flat_map(extents).collect::<Vec<u64>>();
        for (numbers, at) in [
            (&extents(&plan.inputs), SIZES_INPUTS),
            (&extents(&plan.outputs), SIZES_OUTPUTS),
            (&layout.input_bytes, SIZES_INPUT_BYTES),
            (&layout.output_bytes, SIZES_OUTPUT_BYTES),
        ] {
            let to = b.ins().load(types::I64, flags, sizes, at);
            write(b, to, numbers);
        }
        answer(b, abi::ONNXC_OK);
    };
    if source.dims.is_empty() {
        fill(&mut b, 0);
    } else {
        require_pointer(&mut b, dims);
        choose(&mut b, dims, source, fill);
    }
    b.finalize(isa.frontend_config());
    Unit { name: format!("{}_sizes", options.name), export: true, code: Code::Clif(Box::new(function)) }
}

/// Numbers in an array at `to`, unless it is null.
fn write(b: &mut FunctionBuilder, to: Value, numbers: &[u64]) {
    let (some, done) = (b.create_block(), b.create_block());
    b.ins().brif(to, some, &[], done, &[]);
    enter(b, some);
    for (i, number) in numbers.iter().enumerate() {
        let number = b.ins().iconst(types::I64, *number as i64);
        b.ins().store(MemFlagsData::trusted(), number, to, i as i32 * 8);
    }
    b.ins().jump(done, &[]);
    enter(b, done);
}

/// `if dims are those of plan 0 { then(0) } else if ... else { ONNXC_DIMS }`; `then` returns.
fn choose(b: &mut FunctionBuilder, dims: Value, source: &Source, then: &mut dyn FnMut(&mut FunctionBuilder, usize)) {
    let flags = MemFlagsData::trusted();
    let given: Vec<Value> = (0..source.dims.len()).map(|d| b.ins().load(types::I64, flags, dims, d as i32 * 8)).collect();
    for (i, (values, _)) in source.plans.iter().enumerate() {
        let (here, next) = (b.create_block(), b.create_block());
        let mut same = b.ins().iconst(types::I8, 1);
        for (given, value) in given.iter().zip(*values) {
            let value = b.ins().iconst(types::I64, *value as i64);
            let equal = b.ins().icmp(IntCC::Equal, *given, value);
            same = b.ins().band(same, equal);
        }
        b.ins().brif(same, here, &[], next, &[]);
        enter(b, here);
        then(b, i);
        enter(b, next);
    }
    answer(b, abi::ONNXC_DIMS);
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
