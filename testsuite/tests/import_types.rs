//! Every operator, given operands of every element type, is imported or refused; no combination may crash.

use std::panic::catch_unwind;

use onnxc_ir::DType;
use onnxc_ir::op::{Import, NEWEST};
use onnxc_onnx::{Options, import_bytes};
use onnxc_testsuite::bad_models::one_node;
use rayon::prelude::*;

const SHAPES: [&[i64]; 4] = [&[], &[4], &[2, 4], &[1, 2, 4, 4]];

/// Element types of `count` operands: all of one type, or one that differs from the rest.
fn operand_types(count: usize) -> impl Iterator<Item = Vec<DType>> {
    let odd = move |common: DType| {
        let differing = DType::ALL.into_iter().flat_map(move |other| {
            (0..count).map(move |at| (0..count).map(|i| if i == at { other } else { common }).collect::<Vec<_>>())
        });
        differing.filter(move |types| types.iter().any(|t| *t != common))
    };
    DType::ALL.into_iter().map(move |t| vec![t; count]).chain(odd(DType::F32)).chain(odd(DType::I64))
}

fn crashes(model: Vec<u8>) -> bool {
    catch_unwind(|| drop(import_bytes(model, &Options::default()))).is_err()
}

/// Version of the operator set that a form is tried with.
fn version(form: &Import) -> i64 {
    if form.opsets.1 == NEWEST { form.opsets.0.max(21) } else { form.opsets.1 }
}

/// Every operator with a version: those on tensors, and those on sequences and optionals.
fn forms() -> Vec<(&'static str, &'static str, i64)> {
    let tensors = onnxc_ops::ALL.iter().flat_map(|op| op.onnx).map(|form| (form.domain, form.name, version(form)));
    tensors.chain(onnxc_ops::LISTS.iter().map(|form| ("", form.name, form.opsets.0.max(21)))).collect()
}

#[test]
fn no_element_type_crashes_an_operator() {
    let crashed: Vec<String> = forms()
        .into_par_iter()
        .flat_map_iter(|form| (1..=6).map(move |count| (form, count)))
        .flat_map_iter(|(form, count)| {
            SHAPES.into_iter().flat_map(move |dims| operand_types(count).map(move |types| (form, dims, types)))
        })
        .filter_map(|((domain, name, version), dims, types)| {
            let operands: Vec<(i64, &[i64])> = types.iter().map(|t| (i64::from(t.onnx_code()), dims)).collect();
            let model = one_node(domain, name, version, &operands, None);
            crashes(model).then(|| format!("{name} {version} of {types:?} {dims:?}"))
        })
        .collect();
    assert!(crashed.is_empty(), "{} combinations, such as\n{}", crashed.len(), crashed[..crashed.len().min(20)].join("\n"));
}

/// Operands whose values would decide the shape of the result, and a result that is declared to have one.
#[test]
fn no_declared_shape_crashes_an_operator() {
    const DECLARED: [&[i64]; 5] = [&[], &[0], &[4], &[2, 4], &[1, 2, 4, 4]];
    let cases = forms().into_par_iter().flat_map_iter(|form| {
        let shapes = SHAPES.into_iter().flat_map(|x| SHAPES[..2].iter().flat_map(move |rest| DECLARED.map(|y| (x, *rest, y))));
        (1..=6).flat_map(move |count| shapes.clone().map(move |shapes| (form, count, shapes)))
    });
    let crashed: Vec<String> = cases
        .flat_map_iter(|case| [DType::F32, DType::I64, DType::Bool, DType::U4, DType::Str].map(move |t| (case, t)))
        .filter_map(|(((domain, name, version), count, (x, rest, y)), dtype)| {
            let first = (i64::from(dtype.onnx_code()), x);
            let others = std::iter::repeat_n((i64::from(DType::I64.onnx_code()), rest), count - 1);
            let operands: Vec<(i64, &[i64])> = std::iter::once(first).chain(others).collect();
            let model = one_node(domain, name, version, &operands, Some((first.0, y)));
            crashes(model).then(|| format!("{name} of {count} operands, {dtype} {x:?} and {rest:?}, to {y:?}"))
        })
        .collect();
    assert!(crashed.is_empty(), "{} combinations, such as\n{}", crashed.len(), crashed[..crashed.len().min(20)].join("\n"));
}
