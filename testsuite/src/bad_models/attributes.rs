//! Attributes and operand counts that an operator does not have.

use super::Case;
use super::build::{FLOAT, Graph, node, ones, tag, tensor, value};
use crate::wire::Msg;

pub(super) fn cases() -> Vec<Case> {
    let of = |n: Msg| Graph::of([n]).model();
    let concat = || node("Concat", &["x", "x"], &["y"]);
    let softmax = |a: Msg| of(node("Softmax", &["x"], &["y"]).msg(5, &a));
    let axis = |type_tag| Msg::new().bytes(1, "axis").int(20, type_tag);
    let constant = |n: Msg| of_constant(n);
    let branch = |out: &str| Graph::of([node("Relu", &["x"], &[out])]).inputs([]).outputs([value(out, FLOAT, &[2, 3])]).msg();
    vec![
        Case::new("too-many-inputs", &["Relu", "input"], of(node("Relu", &["x", "x", "x"], &["y"]))),
        Case::new("too-few-inputs", &["Add", "input"], of(node("Add", &["x"], &["y"]))),
        Case::new("required-input-empty", &["Add", "input"], of(node("Add", &["x", ""], &["y"]))),
        Case::new("too-many-outputs", &["Relu", "output"], of(node("Relu", &["x"], &["y", "z"]))),
        Case::new("attribute-missing", &["Concat", "axis"], of(concat())),
        Case::new("attribute-string-for-int", &["Concat", "axis"], of(concat().attr_string("axis", "rows"))),
        Case::new("attribute-ints-for-int", &["Concat", "axis"], of(concat().attr_ints("axis", &[0]))),
        Case::new(
            "attribute-twice",
            &["Softmax", "axis"],
            of(node("Softmax", &["x"], &["y"]).attr_int("axis", 0).attr_int("axis", 1)),
        ),
        Case::new("attribute-tag-lies", &["Softmax", "axis"], softmax(axis(tag::INT).float(2, 1.0))),
        Case::new("attribute-tag-99", &["Softmax", "axis"], softmax(axis(99).int(3, 1))),
        Case::new("attribute-tag-missing", &["Softmax", "axis"], softmax(Msg::new().bytes(1, "axis").float(2, 1.0))),
        Case::new("attribute-without-name", &["Softmax", "attribute"], softmax(Msg::new().int(20, tag::INT).int(3, 1))),
        Case::new("attribute-unknown", &["Relu", "colour"], of(node("Relu", &["x"], &["y"]).attr_int("colour", 1))),
        Case::new("attribute-reference-outside-function", &["Softmax", "axis|outer"], softmax(axis(tag::INT).bytes(21, "outer"))),
        Case::new("softmax-axis-out-of-range", &["Softmax", "axis", "7"], softmax(axis(tag::INT).int(3, 7))),
        Case::new("cast-to-99", &["Cast", "99"], of(node("Cast", &["x"], &["y"]).attr_int("to", 99))),
        Case::new("cast-without-to", &["Cast", "to"], of(node("Cast", &["x"], &["y"]))),
        Case::new("mode-unknown", &["Pad", "sideways"], {
            let pads = super::build::int64s("p", &[0, 0, 0, 0]);
            Graph::of([node("Pad", &["x", "p"], &["y"]).attr_string("mode", "sideways")]).weights([pads]).model()
        }),
        Case::new("constant-without-value", &["Constant", "value"], constant(node("Constant", &[], &["k"]))),
        Case::new("constant-with-two-values", &["Constant", "value"], {
            let n = node("Constant", &[], &["k"]).attr_int("value_int", 1);
            constant(n.msg(5, &Msg::new().bytes(1, "value_float").int(20, tag::FLOAT).float(2, 1.0)))
        }),
        Case::new("constant-value-short", &["Constant|the_k|\"k\"|%k"], {
            constant(node("Constant", &[], &["k"]).attr_tensor("value", &tensor("", FLOAT, &[2, 3]).bytes(9, [0; 20])))
        }),
        Case::new(
            "if-without-else",
            &["If", "else_branch"],
            if_of(node("If", &["c"], &["y"]).attr_graph("then_branch", &branch("t"))),
        ),
        Case::new("if-branch-output-count", &["If", "output"], {
            let none = Graph::of([node("Relu", &["x"], &["e"])]).inputs([]).outputs([]).msg();
            if_of(node("If", &["c"], &["y"]).attr_graph("then_branch", &branch("t")).attr_graph("else_branch", &none))
        }),
        Case::new("if-branch-with-inputs", &["If", "input"], {
            let takes = Graph::of([node("Relu", &["q"], &["e"])]).inputs([value("q", FLOAT, &[2, 3])]);
            let takes = takes.outputs([value("e", FLOAT, &[2, 3])]).msg();
            if_of(node("If", &["c"], &["y"]).attr_graph("then_branch", &branch("t")).attr_graph("else_branch", &takes))
        }),
        Case::new("lstm-hidden-size-lies", &["LSTM"], lstm(9, "forward")),
        Case::new("lstm-direction-unknown", &["LSTM", "inward"], lstm(2, "inward")),
    ]
}

fn of_constant(constant: Msg) -> Vec<u8> {
    Graph::of([constant, node("Add", &["x", "k"], &["y"])]).model()
}

fn if_of(n: Msg) -> Vec<u8> {
    Graph::of([n]).inputs([value("x", FLOAT, &[2, 3]), value("c", super::build::BOOL, &[])]).model()
}

/// Two units over `x: [5, 1, 3]`, attributes to be spoiled.
fn lstm(hidden_size: i64, direction: &str) -> Vec<u8> {
    let n = node("LSTM", &["x", "w", "r"], &["y"]).attr_int("hidden_size", hidden_size).attr_string("direction", direction);
    let g = Graph::of([n]).inputs([value("x", FLOAT, &[5, 1, 3])]).outputs([value("y", FLOAT, &[5, 1, 1, 2])]);
    g.weights([ones("w", &[1, 8, 3]), ones("r", &[1, 8, 2])]).model()
}
