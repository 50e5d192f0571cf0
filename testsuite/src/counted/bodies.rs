//! Sizes that change inside of loops, or differ between branches.

use super::{Case, case, open, scalar};
use crate::bad_models::build::{BOOL, FLOAT, Graph, INT64, int64s, node, tensor, value};
use crate::wire::Msg;

/// Inputs of the models: a matrix, and four bools, of which those that are true count iterations.
const X: (&str, i64, &[i64]) = ("x", FLOAT, &[2, 3]);
const C: (&str, i64, &[i64]) = ("c", BOOL, &[4]);

/// Nodes that make the scalar `n` of the number of true bools.
fn number() -> Vec<Msg> {
    vec![
        node("Cast", &["c"], &["numbers"]).attr_int("to", INT64),
        node("ReduceSum", &["numbers", "first"], &["n"]).attr_int("keepdims", 0),
    ]
}

/// A body: its nodes, what it carries, and what it gives of each iteration. It goes on as long as it may, or `condition` says.
fn body(nodes: Vec<Msg>, carried: &[(&str, &str)], kept: &[(&str, i64)], condition: Option<&str>) -> Msg {
    let mut all = vec![node("Identity", &["go_on"], &["go"])];
    all.extend(nodes);
    let mut inputs = vec![value("iteration", INT64, &[]), value("go_on", BOOL, &[])];
    inputs.extend(carried.iter().map(|(before, _)| open(before, FLOAT)));
    let mut outputs = vec![value(condition.unwrap_or("go"), BOOL, &[])];
    outputs.extend(carried.iter().map(|(_, after)| open(after, FLOAT)));
    outputs.extend(kept.iter().map(|(name, ty)| open(name, *ty)));
    Graph::of(all).inputs(inputs).outputs(outputs).msg()
}

fn branch(nodes: Vec<Msg>, result: &str, elem_type: i64) -> Msg {
    Graph::of(nodes).inputs([]).outputs([open(result, elem_type)]).msg()
}

fn weights() -> Vec<Msg> {
    vec![
        int64s("first", &[0]),
        int64s("second", &[1]),
        int64s("six_of", &[6]),
        int64s("far", &[100]),
        tensor("zero", INT64, &[]).bytes(9, 0i64.to_le_bytes()),
        tensor("six", INT64, &[]).bytes(9, 6i64.to_le_bytes()),
        scalar("one", 1.0),
        tensor("unit", FLOAT, &[1]).bytes(9, 1.5f32.to_le_bytes()),
        tensor("true", BOOL, &[]).bytes(9, [1]),
    ]
}

fn with_number(name: &'static str, flags: &'static [&'static str], nodes: Vec<Msg>, outputs: &[(&str, i64)]) -> Case {
    case(name, flags, number().into_iter().chain(nodes).collect(), &[X, C], outputs, weights())
}

pub(super) fn cases() -> Vec<Case> {
    let sum_below = || {
        vec![
            node("ReduceSum", &["v", "first"], &["s"]).attr_int("keepdims", 1),
            node("Concat", &["v", "s"], &["w"]).attr_int("axis", 0),
        ]
    };
    vec![
        // One row more in each iteration; four iterations are too many.
        with_number(
            "loop_rows",
            &["--bound=y=5,3"],
            vec![
                node("Loop", &["n", "", "x"], &["y"]).attr_graph("body", &body(sum_below(), &[("v", "w")], &[], None)),
                node("Softmax", &["y"], &["z"]).attr_int("axis", 0),
            ],
            &[("z", FLOAT)],
        ),
        // The bound follows from the constant number of iterations, whose condition ends them earlier.
        with_number(
            "loop_while",
            &[],
            vec![node("Loop", &["six", "true", "x"], &["y"]).attr_graph(
                "body",
                &body(
                    [sum_below(), vec![node("Less", &["iteration", "n"], &["goes_on"])]].concat(),
                    &[("v", "w")],
                    &[],
                    Some("goes_on"),
                ),
            )],
            &[("y", FLOAT)],
        ),
        // Twice as many each time, as long as they are less than six for each true bool; the size itself is looked at.
        with_number(
            "loop_doubles",
            &["--bound=y=32,3"],
            vec![
                node("Mul", &["n", "six"], &["limit"]),
                node("Loop", &["", "true", "x"], &["y"]).attr_graph(
                    "body",
                    &body(
                        vec![
                            node("Concat", &["v", "v"], &["w"]).attr_int("axis", 0),
                            node("Shape", &["w"], &["shape"]),
                            node("Gather", &["shape", "zero"], &["rows"]),
                            node("Less", &["rows", "limit"], &["goes_on"]),
                        ],
                        &[("v", "w")],
                        &[],
                        Some("goes_on"),
                    ),
                ),
            ],
            &[("y", FLOAT)],
        ),
        // Two values that grow alike are added, another one grows by their length, a last one loses a column each time.
        with_number(
            "loop_several",
            &["--bound=p=9", "--bound=r=40"],
            vec![
                node("Reshape", &["x", "six_of"], &["flat"]),
                node("Loop", &["n", "", "flat", "flat", "unit", "x"], &["p", "q", "r", "t"]).attr_graph(
                    "body",
                    &body(
                        vec![
                            node("Add", &["a", "b"], &["s"]),
                            node("Concat", &["s", "unit"], &["a2"]).attr_int("axis", 0),
                            node("Concat", &["unit", "b"], &["b2"]).attr_int("axis", 0),
                            node("Concat", &["d", "s"], &["d2"]).attr_int("axis", 0),
                            node("Slice", &["e", "second", "far", "second"], &["e2"]),
                        ],
                        &[("a", "a2"), ("b", "b2"), ("d", "d2"), ("e", "e2")],
                        &[],
                        None,
                    ),
                ),
                node("ReduceSum", &["t", "second"], &["u"]).attr_int("keepdims", 0),
            ],
            &[("p", FLOAT), ("q", FLOAT), ("r", FLOAT), ("t", FLOAT), ("u", FLOAT)],
        ),
        // A value of each iteration, of which there are as many as it takes.
        with_number(
            "loop_values",
            &["--bound=all=4,2,3"],
            vec![
                node("Loop", &["", "true", "x"], &["y", "all"]).attr_graph(
                    "body",
                    &body(
                        vec![node("Add", &["v", "one"], &["w"]), node("Less", &["iteration", "n"], &["goes_on"])],
                        &[("v", "w")],
                        &[("w", FLOAT)],
                        Some("goes_on"),
                    ),
                ),
                node("ReduceSum", &["all", "second"], &["z"]),
            ],
            &[("y", FLOAT), ("z", FLOAT)],
        ),
        // A loop in a loop, which starts anew each time.
        with_number(
            "loop_in_loop",
            &["--bound=y=6,3", "--bound=inner=12,3"],
            vec![node("Loop", &["n", "", "x"], &["y"]).attr_graph(
                "body",
                &body(
                    vec![
                            node("Loop", &["iteration", "", "o"], &["inner"])
                                .attr_graph("body", &body(sum_below(), &[("v", "w")], &[], None)),
                            node("ReduceSum", &["inner", "first"], &["total"]).attr_int("keepdims", 1),
                            node("Concat", &["o", "total"], &["p"]).attr_int("axis", 0),
                        ],
                    &[("o", "p")],
                    &[],
                    None,
                ),
            )],
            &[("y", FLOAT)],
        ),
        // Branches with results of other sizes; in one of them data decides on it.
        with_number(
            "if_extents",
            &[],
            vec![
                node("Greater", &["n", "zero"], &["some"]),
                node("If", &["some"], &["y"])
                    .attr_graph(
                        "then_branch",
                        &branch(vec![node("Concat", &["x", "x", "x"], &["t"]).attr_int("axis", 1)], "t", FLOAT),
                    )
                    .attr_graph("else_branch", &branch(vec![node("Neg", &["x"], &["e"])], "e", FLOAT)),
                node("If", &["some"], &["at"])
                    .attr_graph("then_branch", &branch(vec![node("NonZero", &["c"], &["found"])], "found", INT64))
                    .attr_graph("else_branch", &branch(vec![node("Unsqueeze", &["far", "first"], &["none"])], "none", INT64)),
                node("Softmax", &["y"], &["z"]).attr_int("axis", 1),
            ],
            &[("y", FLOAT), ("z", FLOAT), ("at", INT64)],
        ),
    ]
}
