//! `lookup`: a table of 256 entries read at every element of 8-bit integers, in the order of the elements' values (an `i8` of -128 reads entry 0).
//!
//! Passes make it of functions between a dequantisation and a quantisation: all their values are known when compiling. ONNX has no such operator.

use onnxc_ir::kernel::{Kernel, LOOKUP_BYTES, LookupKernel};
use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::{Attrs, DType, Dim, Tensor, TensorType};

use super::conv_integer::integer_data;
use super::params::check_byte;
use crate::common::elements::{from_scalars, scalars};
use crate::common::nest::{self, ExprExt};
use crate::common::sample;

pub(crate) static LOOKUP: OpDef = OpDef {
    name: "lookup",
    onnx: &[],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

const ENTRIES: u64 = 256;
/// Most elements of a call of a kernel, and of a task where all elements are neighbours.
const TASK: u64 = 16 << 10;

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, table) = (cx.input(0)?, cx.input(1)?);
    check_byte(x.dtype, "an index")?;
    check_byte(table.dtype, "a table")?;
    if table.shape != [Dim::Const(ENTRIES)] {
        return Err(OpError::new(format!("a table of type {table} must have {ENTRIES} entries")));
    }
    Ok(vec![TensorType::new(table.dtype, x.shape.clone())])
}

/// The value that reads entry 0.
fn first(dtype: DType) -> i128 {
    dtype.int_range().map_or(0, |(low, _)| low)
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, table) = (cx.input(0), scalars(cx.input(1))?);
    let first = first(x.dtype());
    let y: Vec<_> = scalars(x)?.into_iter().map(|v| table[(v.int() - first) as usize]).collect();
    Ok(vec![from_scalars(cx.outputs[0].dtype, x.shape(), y)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, table, y) = (cx.input(0), cx.input(1), cx.output(0));
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let (outer, run) = nest::runs(&x, &y);
    if cx.target.byte_lookups > 0 && table.view.strides[0] == 1 && run >= LOOKUP_BYTES {
        let elements = nest::most_elements(&y.view.extents());
        let kind = if outer.is_empty() && elements >= 2 * TASK { LoopKind::Parallel } else { LoopKind::Serial };
        nest::rows(cx, &y.view, &outer, elements, &mut nest::origin(y.view.shape.len()), &mut |cx, at| {
            let at = (x.index(at), y.index(at));
            look_up_run(cx, (&x, &table, &y), at, run, kind);
        });
        return Ok(());
    }
    cx.for_each(&y.view, &y.view.strides.clone(), |cx, at| {
        let value = entry(cx.load(&x, at), x.dtype, &table);
        cx.store(&y, at, value);
    });
    Ok(())
}

/// Looks up neighbours, from these elements of x and y on.
fn look_up_run(cx: &mut LowerCx, (x, table, y): (&Arg, &Arg, &Arg), (from, to): (Expr, Expr), run: u64, kind: LoopKind) {
    let signed = x.dtype == DType::I8;
    let call = |cx: &mut LowerCx, at: Expr, bytes: u64| {
        let kernel = Kernel::Lookup(LookupKernel { bytes: bytes as u32, signed });
        let table = (table.buf, Expr::Int(table.view.offset));
        let ptrs = vec![(x.buf, from.clone().add(at.clone())), table, (y.buf, to.clone().add(at))];
        cx.push(Stmt::Call(kernel, ptrs, Vec::new()));
    };
    let (tasks, rest) = (run / TASK, run % TASK);
    if tasks > 0 {
        cx.for_(kind, tasks, |cx, task| call(cx, task.times(TASK as i64), TASK));
    }
    let whole = rest - rest % LOOKUP_BYTES;
    let done = (tasks * TASK) as i64;
    if whole > 0 {
        call(cx, Expr::Int(done), whole);
    }
    cx.for_range(LoopKind::Serial, Expr::Int(done + whole as i64), Expr::Int(run as i64), 1, |cx, i| {
        let value = entry(nest::at(x.buf, from.clone().add(i.clone())), x.dtype, table);
        cx.push(Stmt::Store(y.buf, to.clone().add(i), value));
    });
}

/// The entry that an element reads.
fn entry(element: Expr, dtype: DType, table: &Arg) -> Expr {
    let entry = element.cast_from(dtype, DType::I64).add(Expr::Int(-(first(dtype) as i64)));
    nest::at(table.buf, Expr::Int(table.view.offset).add(entry.times(table.view.strides[0])))
}

fn samples() -> Vec<Sample> {
    let case = |x: DType, shape: &[u64], table: Tensor| {
        sample::sample(Attrs::default(), vec![integer_data(x, shape), Some(SampleInput::Const(table))])
    };
    let bytes = || Tensor::from_vec(&[256], (0..=255u8).map(|i| i.wrapping_mul(77)).collect());
    let signed = || Tensor::from_vec(&[256], (0..=255u8).map(|i| i.wrapping_mul(91) as i8).collect());
    vec![
        case(DType::U8, &[2, 3, 17], bytes()),
        case(DType::I8, &[70], signed()),
        case(DType::U8, &[5, 1], signed()),
        case(DType::I8, &[0, 4], bytes()),
        // Whole vectors of bytes and what is left; many, for threads; all values of an index.
        case(DType::U8, &[3, 64], signed()),
        case(DType::I8, &[5, 8, 13], bytes()),
        case(DType::U8, &[2, 3, 31, 250], bytes()),
        case(DType::I8, &[37, 1000], signed()),
    ]
}
