//! Tensors whose data, type and dims do not fit together.

use super::Case;
use super::build::{FLOAT, Graph, INT64, node, ones, tensor, value};
use crate::wire::Msg;

/// `y = Add(x, w)` with this `w`.
fn add(w: Msg) -> Vec<u8> {
    Graph::of([node("Add", &["x", "w"], &["y"])]).weights([w]).model()
}

/// As [`add`], with this sparse `w`.
fn add_sparse(w: &Msg) -> Vec<u8> {
    let graph = Graph::of([node("Add", &["x", "w"], &["y"])]).msg().msg(15, w);
    super::build::model(&graph).0
}

fn sparse(values: &Msg, indices: &Msg, dims: &[i64]) -> Msg {
    dims.iter().fold(Msg::new().msg(1, values).msg(2, indices), |m, d| m.int(3, *d))
}

const W: &str = "\"w\"|'w'|%w|`w`| w:";

pub(super) fn cases() -> Vec<Case> {
    let raw = |n: usize| vec![0u8; n];
    let two = || ones("w", &[2]);
    let at = |all: &[i64]| super::build::int64s("i", all);
    vec![
        Case::new("weight-negative-dim", &[W, "-2"], add(tensor("w", FLOAT, &[-2, 3]).bytes(9, raw(24)))),
        Case::new("weight-dims-overflow", &[W, "large|overflow|big"], add(tensor("w", FLOAT, &[1 << 40, 1 << 40]))),
        Case::new(
            "weight-dims-wrap-to-fit",
            &[W, "large|overflow|big"],
            add(tensor("w", FLOAT, &[1 << 62, 4, 2, 3]).bytes(9, raw(24))),
        ),
        Case::new("weight-32-gigabytes-absent", &[W, "data|bytes"], add(tensor("w", FLOAT, &[1 << 33]))),
        Case::new("weight-without-data", &[W, "data|bytes"], add(tensor("w", FLOAT, &[2, 3]))),
        Case::new("weight-data-short", &[W, "23"], add(tensor("w", FLOAT, &[2, 3]).bytes(9, raw(23)))),
        Case::new("weight-data-long", &[W, "28"], add(tensor("w", FLOAT, &[2, 3]).bytes(9, raw(28)))),
        Case::new("weight-floats-short", &[W, "5"], add((0..5).fold(tensor("w", FLOAT, &[2, 3]), |m, _| m.float(4, 1.0)))),
        Case::new("weight-in-wrong-field", &[W], add((0..6).fold(tensor("w", FLOAT, &[2, 3]), |m, _| m.int(7, 1)))),
        Case::new("weight-without-type", &[W, "type"], add(tensor("w", 0, &[2, 3]).bytes(9, raw(24)))),
        Case::new("weight-of-type-99", &[W, "99"], add(tensor("w", 99, &[2, 3]).bytes(9, raw(24)))),
        Case::new("weight-of-strings", &["f32", "str"], add(tensor("w", 8, &[1]).bytes(6, "hello"))),
        Case::new("weight-int4-short", &[W], add(tensor("w", 22, &[2, 3]).bytes(9, raw(2)))),
        Case::new("weight-bool-of-7", &[W, "bool"], add(tensor("w", 9, &[2, 3]).bytes(9, [0, 1, 7, 0, 1, 0]))),
        Case::new("weight-packed-floats-cut", &[W], add(tensor("w", FLOAT, &[2, 3]).bytes(4, raw(22)))),
        Case::new("sparse-index-out-of-range", &[W, "index|indices"], add_sparse(&sparse(&two(), &at(&[1, 6]), &[2, 3]))),
        Case::new("sparse-index-negative", &[W, "index|indices"], add_sparse(&sparse(&two(), &at(&[-1, 2]), &[2, 3]))),
        Case::new("sparse-index-twice", &[W, "index|indices"], add_sparse(&sparse(&two(), &at(&[2, 2]), &[2, 3]))),
        Case::new("sparse-index-count", &[W, "index|indices"], add_sparse(&sparse(&two(), &at(&[1, 2, 3]), &[2, 3]))),
        Case::new("sparse-index-float", &[W, "int64|index|indices"], add_sparse(&sparse(&two(), &ones("i", &[2]), &[2, 3]))),
        Case::new(
            "sparse-dims-overflow",
            &[W, "large|overflow|big"],
            add_sparse(&sparse(&two(), &at(&[1, 2]), &[1 << 40, 1 << 40])),
        ),
        Case::new("sparse-without-values", &["sparse"], add_sparse(&Msg::new().msg(2, &at(&[1, 2])).int(3, 6))),
        Case::new(
            "sparse-small-of-8-exabytes",
            &[W, "large|overflow|big"],
            add_sparse(&sparse(&two(), &at(&[1, 2]), &[1 << 61])),
        ),
        Case::new("input-shadowed-by-other-type", &[W], {
            // The input list says i64, the initialiser of the same name is f32.
            let inputs = [value("x", FLOAT, &[2, 3]), value("w", INT64, &[2, 3])];
            Graph::of([node("Add", &["x", "w"], &["y"])]).inputs(inputs).weights([ones("w", &[2, 3])]).model()
        }),
    ]
}
