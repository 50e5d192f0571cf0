//! Model-local functions that cannot be expanded.

use super::Case;
use super::build::{Graph, model, node, opset};
use crate::wire::Msg;

const DOMAIN: &str = "local";

/// A `FunctionProto` of one input `a` and one output `b`.
fn function(name: &str, nodes: &[Msg]) -> Msg {
    let m = Msg::new().bytes(1, name).bytes(4, "a").bytes(5, "b").msgs(7, nodes);
    m.msg(9, &opset("", 17)).msg(9, &opset(DOMAIN, 1)).bytes(10, DOMAIN)
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    node(name, inputs, outputs).bytes(7, DOMAIN)
}

/// A model that calls `F` of these functions.
fn calling(functions: &[Msg]) -> Vec<u8> {
    with_call(call("F", &["x"], &["y"]), functions)
}

fn with_call(n: Msg, functions: &[Msg]) -> Vec<u8> {
    model(&Graph::of([n]).msg()).msg(8, &opset(DOMAIN, 1)).msgs(25, functions).0
}

pub(super) fn cases() -> Vec<Case> {
    let relu = || function("F", &[node("Relu", &["a"], &["b"])]);
    vec![
        Case::new(
            "function-calls-itself",
            &["F", "recurs|itself|cycle"],
            calling(&[function("F", &[call("F", &["a"], &["b"])])]),
        ),
        Case::new("functions-call-each-other", &["recurs|itself|cycle"], {
            calling(&[function("F", &[call("G", &["a"], &["b"])]), function("G", &[call("F", &["a"], &["b"])])])
        }),
        Case::new(
            "function-twice",
            &["F", "twice|duplicate|already"],
            calling(&[relu(), function("F", &[node("Neg", &["a"], &["b"])])]),
        ),
        Case::new("function-missing", &["F", DOMAIN], calling(&[])),
        Case::new("function-too-many-inputs", &["F", "input"], with_call(call("F", &["x", "x"], &["y"]), &[relu()])),
        Case::new("function-too-many-outputs", &["F", "output"], with_call(call("F", &["x"], &["y", "z"]), &[relu()])),
        Case::new("function-output-from-nowhere", &["F", "b"], calling(&[function("F", &[node("Relu", &["a"], &["c"])])])),
        Case::new("function-input-from-nowhere", &["ghost"], calling(&[function("F", &[node("Relu", &["ghost"], &["b"])])])),
        Case::new("function-sees-no-outer-names", &["w"], {
            let g = Graph::of([call("F", &["x"], &["y"])]).weights([super::build::ones("w", &[2, 3])]);
            let f = function("F", &[node("Add", &["a", "w"], &["b"])]);
            model(&g.msg()).msg(8, &opset(DOMAIN, 1)).msg(25, &f).0
        }),
        Case::new("function-with-a-cycle", &["cycle"], {
            calling(&[function(
                "F",
                &[node("Add", &["a", "q"], &["p"]), node("Neg", &["p"], &["q"]), node("Relu", &["p"], &["b"])],
            )])
        }),
        Case::new("function-unknown-operator", &["Frobnicate"], calling(&[function("F", &[node("Frobnicate", &["a"], &["b"])])])),
        Case::new("functions-of-2-to-40-nodes", &["large|too many|limit|big"], calling(&doubling(40))),
    ]
}

/// Each function calls the next one twice: a few bytes that expand to 2^n nodes.
fn doubling(n: usize) -> Vec<Msg> {
    let name = |i: usize| {
        if i == 0 { "F".to_owned() } else { format!("F{i}") }
    };
    let twice = |i: usize| function(&name(i), &[call(&name(i + 1), &["a"], &["m"]), call(&name(i + 1), &["m"], &["b"])]);
    (0..n).map(twice).chain([function(&name(n), &[node("Relu", &["a"], &["b"])])]).collect()
}
