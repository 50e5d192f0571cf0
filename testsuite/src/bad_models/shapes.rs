//! Types and shapes that contradict an operator's rules.

use super::Case;
use super::build::{BOOL, FLOAT, Graph, INT64, int64s, node, ones, value};
use crate::wire::Msg;

/// One node from `x` of these dims to `y` of these dims, with weights.
fn one(n: Msg, x: &[i64], y: &[i64], weights: Vec<Msg>) -> Vec<u8> {
    Graph::of([n]).inputs([value("x", FLOAT, x)]).outputs([value("y", FLOAT, y)]).weights(weights).model()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = values();
    cases.extend(operators());
    cases.extend(convolutions());
    cases
}

fn values() -> Vec<Case> {
    let relu = || node("Relu", &["x"], &["y"]);
    let input = |m: Msg| Graph::of([relu()]).inputs([m]).model();
    let output = |m: Msg| Graph::of([relu()]).outputs([m]).model();
    const X: &str = "\"x\"|'x'|%x|`x`| x:";
    const Y: &str = "\"y\"|'y'|%y|`y`| y:|the_y";
    vec![
        Case::new("input-without-type", &[X, "type"], input(Msg::new().bytes(1, "x"))),
        Case::new("input-of-type-0", &[X, "type"], input(value("x", 0, &[2, 3]))),
        Case::new("input-of-type-99", &[X, "99"], input(value("x", 99, &[2, 3]))),
        Case::new("input-negative-dim", &[X, "-3"], input(value("x", FLOAT, &[2, -3]))),
        Case::new("input-dims-overflow", &["large|overflow|big"], input(value("x", FLOAT, &[1 << 31, 1 << 31, 1 << 31]))),
        Case::new("input-long-beside-empty", &["too large"], input(value("x", FLOAT, &[0, i64::MAX]))),
        Case::new("input-without-name", &["input", "name"], input(value("", FLOAT, &[2, 3]))),
        Case::new("output-of-other-type", &[Y, "i64|int64"], output(value("y", INT64, &[2, 3]))),
    ]
}

fn operators() -> Vec<Case> {
    let x = &[2, 3];
    let transpose = |perm: &[i64]| one(node("Transpose", &["x"], &["y"]).attr_ints("perm", perm), x, &[3, 2], vec![]);
    let reshape = |to: &[i64]| one(node("Reshape", &["x", "s"], &["y"]), x, &[6], vec![int64s("s", to)]);
    let gather = |axis| one(node("Gather", &["x", "i"], &["y"]).attr_int("axis", axis), x, &[2, 1], vec![int64s("i", &[0])]);
    vec![
        Case::new(
            "add-f32-i64",
            &["Add", "i64|int64"],
            one(node("Add", &["x", "i"], &["y"]), x, x, vec![int64s("i", &[1, 2, 3])]),
        ),
        Case::new("not-of-f32", &["Not", "f32|float"], one(node("Not", &["x"], &["y"]), x, x, vec![])),
        Case::new("no-broadcast", &["Add", "4"], one(node("Add", &["x", "w"], &["y"]), x, x, vec![ones("w", &[4])])),
        Case::new(
            "matmul-inner-dims",
            &["MatMul", "4"],
            one(node("MatMul", &["x", "w"], &["y"]), x, &[2, 5], vec![ones("w", &[4, 5])]),
        ),
        Case::new(
            "concat-ranks",
            &["Concat"],
            one(node("Concat", &["x", "w"], &["y"]).attr_int("axis", 0), x, &[4, 3], vec![ones("w", &[2, 3, 1])]),
        ),
        Case::new("resize-long-dimension", &["Resize", "too long"], {
            let n = 268_435_455;
            let resize = node("Resize", &["x", "", "scales"], &["y"]).attr_string("mode", "linear");
            let inputs = [value("x", FLOAT, &[n, 1, 2, 2]), value("scales", FLOAT, &[4])];
            Graph::of([resize]).inputs(inputs).outputs([value("y", FLOAT, &[1, 1, 4, n])]).model()
        }),
        Case::new("reshape-count", &["Reshape"], reshape(&[7])),
        Case::new("reshape-two-unknowns", &["Reshape"], reshape(&[-1, -1])),
        Case::new("reshape-negative", &["Reshape", "-5"], reshape(&[-5])),
        Case::new("reshape-overflow", &["Reshape"], reshape(&[1 << 62, 1 << 62, 4])),
        Case::new("reshape-declared-overflow", &["Reshape", "too large"], {
            let inputs = [value("x", FLOAT, &[2, 3]), value("s", INT64, &[3])];
            let output = value("y", FLOAT, &[1 << 40, 1 << 40, 1 << 40]);
            Graph::of([node("Reshape", &["x", "s"], &["y"])]).inputs(inputs).outputs([output]).model()
        }),
        Case::new("transpose-repeats", &["Transpose", "perm"], transpose(&[0, 0])),
        Case::new("transpose-out-of-range", &["Transpose", "perm"], transpose(&[0, 5])),
        Case::new("transpose-too-short", &["Transpose", "perm"], transpose(&[0])),
        Case::new("gather-axis", &["Gather", "axis", "5"], gather(5)),
        Case::new("gather-axis-smallest", &["Gather", "axis"], gather(i64::MIN)),
        Case::new(
            "expand-to-8-exabytes",
            &["large|overflow|big"],
            one(node("Expand", &["x", "s"], &["y"]), &[1], &[1 << 61], vec![int64s("s", &[1 << 61])]),
        ),
        Case::new(
            "constant-of-shape-negative",
            &["ConstantOfShape", "-1"],
            one(node("ConstantOfShape", &["s"], &["y"]), x, &[1], vec![int64s("s", &[-1])]),
        ),
        Case::new(
            "split-sum",
            &["Split"],
            one(node("Split", &["x", "s"], &["y", "z"]).attr_int("axis", 0), x, &[1, 3], vec![int64s("s", &[1, 4])]),
        ),
        Case::new("zero-points-of-other-shape", &["QuantizeLinear", "zero points are", "one shape"], {
            let quantize = node("QuantizeLinear", &["x", "s", "z"], &["y"]).attr_int("axis", 1);
            let zero = super::build::tensor("z", 2, &[2]).bytes(9, [0, 0]);
            Graph::of([quantize])
                .inputs([value("x", FLOAT, x)])
                .outputs([value("y", 2, x)])
                .weights([ones("s", &[3]), zero])
                .model()
        }),
        Case::new("grid-of-another-batch", &["GridSample", "one batch"], {
            let inputs = [value("x", FLOAT, &[2, 1, 3, 3]), value("g", FLOAT, &[1, 2, 2, 2])];
            let sample = node("GridSample", &["x", "g"], &["y"]);
            Graph::of([sample]).inputs(inputs).outputs([value("y", FLOAT, &[2, 1, 2, 2])]).model()
        }),
        // Each part is a value with an expression for its extent: as many are seconds of work that nobody wants.
        Case::new("split-into-many", &["Split", "num_outputs is 65536", "4096"], {
            let split = node("Split", &["x"], &["y"]).attr_int("num_outputs", 1 << 16);
            let graph = Graph::of([split]).inputs([value("x", FLOAT, &[1 << 16])]).outputs([value("y", FLOAT, &[1])]);
            super::build::model_of(18, &graph.msg()).0
        }),
        Case::new("squeeze-of-3", &["Squeeze"], one(node("Squeeze", &["x", "a"], &["y"]), x, &[2], vec![int64s("a", &[1])])),
        Case::new("if-condition-f32", &["If", "bool"], {
            let branch = |out: &str| Graph::of([node("Relu", &["x"], &[out])]).inputs([]).outputs([value(out, FLOAT, x)]);
            super::build::if_node(&branch("t"), &branch("e")).inputs([value("x", FLOAT, x), value("c", FLOAT, &[])]).model()
        }),
        Case::new("if-branches-of-two-types", &["If"], {
            let then = Graph::of([node("Relu", &["x"], &["t"])]).inputs([]).outputs([value("t", FLOAT, x)]);
            let other = Graph::of([node("IsNaN", &["x"], &["e"])]).inputs([]).outputs([value("e", BOOL, x)]);
            super::build::if_node(&then, &other).model()
        }),
    ]
}

fn convolutions() -> Vec<Case> {
    let x = &[1, 4, 8, 8];
    let conv =
        |spoil: fn(Msg) -> Msg, w: &[i64]| one(spoil(node("Conv", &["x", "w"], &["y"])), x, &[1, 6, 6, 6], vec![ones("w", w)]);
    let w = &[6, 4, 3, 3];
    let pool = |kernel: &[i64]| one(node("MaxPool", &["x"], &["y"]).attr_ints("kernel_shape", kernel), x, &[1, 4, 1, 1], vec![]);
    vec![
        Case::new("conv-channels", &["Conv", "5"], conv(|n| n, &[6, 5, 3, 3])),
        Case::new("conv-rank", &["Conv"], conv(|n| n, &[6, 4, 3])),
        Case::new("conv-kernel-beyond-input", &["Conv"], conv(|n| n, &[6, 4, 9, 9])),
        Case::new("conv-group-0", &["Conv", "group"], conv(|n| n.attr_int("group", 0), w)),
        Case::new("conv-group-3", &["Conv", "group"], conv(|n| n.attr_int("group", 3), w)),
        Case::new("conv-stride-0", &["Conv", "stride"], conv(|n| n.attr_ints("strides", &[0, 1]), w)),
        Case::new("conv-dilation-negative", &["Conv", "dilation"], conv(|n| n.attr_ints("dilations", &[1, -1]), w)),
        Case::new("conv-pads-count", &["Conv", "pads"], conv(|n| n.attr_ints("pads", &[1, 1, 1]), w)),
        Case::new("conv-pads-overflow", &["Conv"], conv(|n| n.attr_ints("pads", &[i64::MAX, 0, i64::MAX, 0]), w)),
        Case::new("conv-kernel-shape-lies", &["Conv", "kernel_shape"], conv(|n| n.attr_ints("kernel_shape", &[5, 5]), w)),
        Case::new("pool-kernel-0", &["MaxPool", "kernel"], pool(&[0, 2])),
        Case::new("pool-kernel-rank", &["MaxPool", "kernel"], pool(&[2, 2, 2])),
    ]
}
