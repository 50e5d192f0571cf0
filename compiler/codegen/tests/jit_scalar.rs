//! Every operation on every element type: compiled code against the interpreter, on values at the edges.

mod common;

use common::assert_same;
use common::cases::{Case, casts, floats, integers, merge};
use onnxc_codegen::JitModel;
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
