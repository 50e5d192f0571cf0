//! `gemm`: `alpha * A' * B' + beta * C`, A' and B' transposed or not, C broadcast to the result.
//!
//! Operands: a, b, c (may be absent), then those of the epilogue. Beside an a of f32 b may be integers of type i8.

use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarOp, ScalarProgram};
use onnxc_ir::scalar_eval::{Scalar, broadcast_strides};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use super::product::{Product, Stack};
use crate::common::broadcast::{broadcast, text};
use crate::common::elements::{from_scalars, scalars};
use crate::common::import::attrs_without;
use crate::common::sample::add_relu;
use crate::common::{coded, epilogue, nest, sample, tile};
use crate::composed::classic::{linear, svm};
use crate::composed::contrib::activation::FUSED_GEMM;

pub(crate) static GEMM: OpDef = OpDef {
    name: "gemm",
    onnx: &[
        Import { domain: "", name: "Gemm", opsets: (7, NEWEST), build: |cx| cx.forward("gemm") },
        Import {
            domain: "",
            name: "Gemm",
            opsets: (1, 6),
            build: |cx| {
                let (inputs, attrs) = (cx.inputs().to_vec(), attrs_without(cx, &["broadcast"]));
                cx.node("gemm", &inputs, attrs)
            },
        },
        FUSED_GEMM,
        linear::REGRESSOR,
        linear::CLASSIFIER,
        svm::REGRESSOR,
        svm::CLASSIFIER,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Operands before those of the epilogue.
pub(crate) const OWN: usize = 3;

pub(crate) fn flag(attrs: &Attrs, name: &str) -> bool {
    attrs.int(name).unwrap_or(0) != 0
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    coded::check(cx, OWN)?;
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if a.rank() != 2 || b.rank() != 2 || !(a.dtype.is_float() || a.dtype.is_int()) {
        return Err(OpError::new(format!("operands of types {a} and {b}: two matrices of numbers are needed")));
    }
    let (ta, tb) = (usize::from(flag(cx.attrs, "transA")), usize::from(flag(cx.attrs, "transB")));
    let (m, k) = (&a.shape[ta], &a.shape[1 - ta]);
    let (k2, n) = (&b.shape[tb], &b.shape[1 - tb]);
    if k.as_const().zip(k2.as_const()).is_some_and(|(x, y)| x != y) {
        return Err(OpError::new(format!("{k} columns meet {k2} rows")));
    }
    let shape = vec![m.clone(), n.clone()];
    if let Some(c) = cx.opt(2) {
        let joint = broadcast(&[&c.shape, &shape])?;
        let wider = |(j, s): (&Dim, &Dim)| j.as_const().is_some() && s.as_const().is_some() && j != s;
        if c.rank() > 2 || joint.iter().zip(&shape).any(wider) {
            return Err(OpError::new(format!("C of shape {} does not broadcast to {}", text(&c.shape), text(&shape))));
        }
    }
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, a.dtype), shape)])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (a, b) = (cx.input(0), cx.input(1));
    let shape = cx.out_shape(0);
    let (ta, tb) = (flag(cx.attrs, "transA"), flag(cx.attrs, "transB"));
    let k = a.shape()[usize::from(!ta)];
    let (m, n) = (shape[0], shape[1]);
    let alpha = f64::from(cx.attrs.float("alpha").unwrap_or(1.0));
    let beta = f64::from(cx.attrs.float("beta").unwrap_or(1.0));
    let (av, bv) = (scalars(a)?, scalars(b)?);
    let c = cx.opt(2).map(|c| Ok::<_, OpError>((scalars(c)?, broadcast_strides(c.shape(), &shape)))).transpose()?;
    let float = a.dtype().is_float();
    let mut y = Vec::with_capacity((m * n) as usize);
    for i in 0..m {
        for j in 0..n {
            let pairs = (0..k).map(|l| {
                let x = av[(if ta { l * m + i } else { i * k + l }) as usize];
                (x, bv[(if tb { j * k + l } else { l * n + j }) as usize])
            });
            let c = c.as_ref().map(|(values, strides)| {
                let strides = strides.as_ref().expect("internal: inference checks C");
                values[(i * strides[0] + j * strides[1]) as usize]
            });
            y.push(if float {
                let sum: f64 = pairs.map(|(x, w)| x.float() * w.float()).sum();
                Scalar::Float(alpha * sum + c.map_or(0.0, |c| beta * c.float()))
            } else {
                let sum = pairs.fold(0i128, |s, (x, w)| s.wrapping_add(x.int() * w.int()));
                Scalar::Int(sum * alpha as i128 + c.map_or(0, |c| c.int() * beta as i128))
            });
        }
    }
    Ok(vec![epilogue::apply(cx, from_scalars(a.dtype(), &shape, y)?, OWN)?])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (a, b, c, y) = (cx.input(0), cx.input(1), cx.opt(2), cx.output(0));
    let (m, n) = (y.view.extent(0), y.view.extent(1));
    let (ta, tb) = (flag(cx.attrs, "transA"), flag(cx.attrs, "transB"));
    let k = a.view.extent(usize::from(!ta));
    nest::same_extent(1, &b.view.extent(usize::from(tb)).dim(), &k.dim())?;
    nest::broadcasts(cx, 2, &y.view)?;
    let stack = |arg: &Arg, transposed: bool| {
        let matrix = Stack::of(arg, &arg.view.shape);
        if transposed { matrix.transposed() } else { matrix }
    };
    let (alpha, beta) = (cx.attrs.float("alpha").unwrap_or(1.0), cx.attrs.float("beta").unwrap_or(1.0));
    let (program, operands) = tile::epilogue(cx, OWN, a.dtype);
    let mut operands: Vec<Stack> = operands.iter().map(|o| Stack::of(o, &y.view.shape)).collect();
    // A constant C of one row is the bias that accumulators start from.
    let plain = alpha == 1.0 && beta == 1.0;
    let row = |c: &Arg| {
        c.constant.clone().filter(|t| {
            let width = Some(&n.bound).filter(|_| n.open.is_none());
            plain && width == Some(&t.shape().iter().product::<u64>()) && t.shape().last() == width
        })
    };
    let bias = c.as_ref().and_then(row);
    let c = c.filter(|_| bias.is_none());
    let program = affine(&program, a.dtype, alpha, c.as_ref().map(|_| beta));
    if let Some(c) = &c {
        operands.insert(0, Stack::of(c, &y.view.shape));
    }
    let (a, b) = (stack(&a, ta), stack(&b, tb));
    let y = Stack::of(&y, &[m.bound, n.bound]);
    Product { outer: Vec::new(), m, k, n, a, b, y, bias, program, operands }.emit(cx)
}

/// The program behind `alpha * a0 + beta * a1`; its own arguments move up by one where there is an a1.
fn affine(program: &ScalarProgram, dtype: DType, alpha: f32, beta: Option<f32>) -> ScalarProgram {
    let scaled = |out: &mut ScalarProgram, x: u16, factor: f32| match factor {
        1.0 => x,
        _ if dtype.is_float() => {
            let f = out.float(f64::from(factor), dtype);
            out.bin(BinOp::Mul, x, f)
        }
        _ => {
            let f = out.push(ScalarOp::Const(factor as i64 as u64), dtype);
            out.bin(BinOp::Mul, x, f)
        }
    };
    epilogue::behind(program, u8::from(beta.is_some()), |out| {
        let acc = out.arg(0, dtype);
        let sum = scaled(out, acc, alpha);
        let Some(beta) = beta else { return sum };
        let c = out.arg(1, dtype);
        let c = scaled(out, c, beta);
        out.bin(BinOp::Add, sum, c)
    })
}

fn samples() -> Vec<Sample> {
    let attrs = |ta: i64, tb: i64| Attrs::default().with("transA", Attr::Int(ta)).with("transB", Attr::Int(tb));
    let scaled = |a: Attrs| a.with("alpha", Attr::Float(0.5)).with("beta", Attr::Float(-2.0));
    let case = |attrs: Attrs, a: &[u64], b: &[u64], c: Option<&[u64]>| {
        sample::sample(attrs, vec![sample::f32s(a), sample::const_f32s(b), c.and_then(sample::f32s)])
    };
    let all = vec![
        case(attrs(0, 0), &[3, 8], &[8, 21], Some(&[21])),
        case(attrs(0, 1), &[1, 50], &[70, 50], Some(&[1, 70])),
        case(attrs(1, 0), &[20, 15], &[20, 18], None),
        case(scaled(attrs(1, 1)), &[6, 4], &[9, 6], Some(&[4, 1])),
        case(scaled(attrs(0, 1)), &[5, 7], &[33, 7], Some(&[5, 33])),
        case(attrs(0, 0), &[2, 3], &[3, 1], Some(&[])),
        sample::plain(vec![sample::f32s(&[3, 6]), sample::f32s(&[6, 40]), sample::f32s(&[40])]),
        sample::plain(vec![sample::data(DType::F64, &[3, 6]), sample::data(DType::F64, &[6, 4]), None]),
        sample::plain(vec![sample::data(DType::I64, &[2, 3]), sample::data(DType::I64, &[3, 2]), sample::data(DType::I64, &[2])]),
        sample::sample(
            attrs(0, 1).with("epilogue", add_relu()),
            vec![sample::f32s(&[15, 12]), sample::const_f32s(&[34, 12]), sample::const_f32s(&[34]), sample::f32s(&[15, 34])],
        ),
    ];
    let all = sample::and_sparse(all, &[0], 1, (1, 0));
    // With lists from 10 on.
    let all = sample::and_sparse(all, &[1, 3, 4, 9], 1, (0, 1));
    let all = sample::and_coded(all, &[0, 1, 2, 3, 4, 9, 10, 11, 14], 1);
    sample::and_strassen(all, [0, 2, 3, 9])
}
