//! Every operation on every element type: compiled code against the interpreter, on values at the edges.

mod common;

use common::cases::{Case, case, casts, floats, integers, merge};
use common::{V, assert_same, fit, read};
use onnxc_codegen::JitModel;
use onnxc_ir::DType;
use onnxc_ir::lir::Expr;
use onnxc_ir::scalar::UnOp;
use onnxc_targets::{Target, describe};

/// The targets whose code runs here: with and without rounding and FMA instructions.
fn targets() -> Vec<Target> {
    let native = describe(&target_lexicon::Triple::host().to_string(), "native", 1).unwrap();
    let mut list = vec![native];
    if cfg!(target_arch = "x86_64") {
        list.push(describe("x86_64-unknown-linux-gnu", "x86-64", 1).unwrap());
    }
    list
}

fn check(cases: &[Case]) {
    let (plan, inputs, wanted) = merge(cases);
    let slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    for target in targets() {
        let model = JitModel::new(&plan, &target).unwrap();
        let mut outputs = vec![];
        model.run(&slices, &mut outputs, 1).unwrap();
        for ((case, got), want) in cases.iter().zip(&outputs).zip(&wanted) {
            assert_same(case.result, got, want, &format!("{} on {}", case.what, target.desc.cpu));
        }
    }
}

#[test]
fn casts_between_all_types() {
    check(&casts());
}

#[test]
fn integer_operations() {
    check(&integers());
}

#[test]
fn float_operations() {
    check(&floats());
}

/// Functions against this machine's libm: a few ulp, as `onnxc_ir::math` states; special values exactly.
#[test]
fn mathematical_functions() {
    use UnOp::*;
    type Case = (UnOp, fn(f64) -> f64);
    let list: [Case; 17] = [
        (Exp, f64::exp),
        (Log, f64::ln),
        (Sin, f64::sin),
        (Cos, f64::cos),
        (Tan, f64::tan),
        (Asin, f64::asin),
        (Acos, f64::acos),
        (Atan, f64::atan),
        (Sinh, f64::sinh),
        (Cosh, f64::cosh),
        (Tanh, f64::tanh),
        (Asinh, f64::asinh),
        (Acosh, f64::acosh),
        (Atanh, f64::atanh),
        (Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Sqrt, f64::sqrt),
        (Recip, f64::recip),
    ];
    for (op, exact) in list {
        for t in [DType::F32, DType::F64, DType::F16] {
            let case = case(&format!("{op:?} {t}"), &[t], t, |x| Expr::un(op, x[0].clone()));
            let target = &targets()[0];
            let mut out = vec![];
            JitModel::new(&case.fun.plan(), target).unwrap().run(&[&case.inputs[0]], &mut out, 1).unwrap();
            let n = t.bytes() as usize;
            for (x, y) in case.inputs[0].chunks(n).zip(out[0].chunks(n)) {
                let (x, y) = (read(t, x).f(), read(t, y).f());
                let want = fit(t, V::F(exact(x))).f();
                let close = (y - want).abs() <= want.abs() * if t == DType::F16 { 1e-3 } else { 2e-6 } + 2e-6;
                // Large arguments of periodic functions are outside the stated range.
                let periodic = matches!(op, Sin | Cos | Tan) && x.abs() > 500.0;
                assert!(close || y == want || y.is_nan() && want.is_nan() || periodic, "{op:?} of {x}: {y}, not {want} ({t})");
            }
        }
    }
}
