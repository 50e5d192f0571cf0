//! Well-formed messages that make no graph: cycles, unknown names, double definitions, operator sets.

use super::Case;
use super::build::{FLOAT, Graph, INT64, good_model, if_node, model, node, ones, opset, value};
use crate::wire::Msg;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(operators());
    cases
}

fn names() -> Vec<Case> {
    let relu = || node("Relu", &["x"], &["y"]);
    let of = |nodes: Vec<Msg>| Graph::of(nodes).model();
    let xy = || value("x", FLOAT, &[2, 3]);
    vec![
        Case::new("no-graph", &["graph"], Msg::new().int(1, 8).msg(8, &opset("", 17)).0),
        Case::new("no-outputs", &["output"], Graph::of([relu()]).outputs([]).model()),
        Case::new("cycle-of-two", &["cycle"], of(vec![node("Add", &["x", "b"], &["y"]), node("Relu", &["y"], &["b"])])),
        Case::new("cycle-of-one", &["cycle", "the_y"], of(vec![node("Add", &["x", "y"], &["y"])])),
        Case::new("cycle-beside-the-way", &["cycle"], of(vec![relu(), node("Neg", &["p"], &["q"]), node("Neg", &["q"], &["p"])])),
        Case::new("input-from-nowhere", &["ghost", "the_y"], of(vec![node("Add", &["x", "ghost"], &["y"])])),
        Case::new("output-from-nowhere", &["ghost"], Graph::of([relu()]).outputs([value("ghost", FLOAT, &[2, 3])]).model()),
        Case::new(
            "two-nodes-one-name",
            &["twin", "twice|duplicate|already"],
            of(vec![node("Relu", &["x"], &["twin"]), node("Neg", &["x"], &["twin"]), node("Relu", &["twin"], &["y"])]),
        ),
        Case::new(
            "node-redefines-input",
            &["\"x\"|'x'|%x|`x`", "twice|duplicate|already"],
            of(vec![node("Relu", &["x"], &["x"]), node("Relu", &["x"], &["y"])]),
        ),
        Case::new(
            "node-redefines-weight",
            &["\"w\"|'w'|%w|`w`", "twice|duplicate|already"],
            Graph::of([node("Relu", &["x"], &["w"]), node("Relu", &["w"], &["y"])]).weights([ones("w", &[2, 3])]).model(),
        ),
        Case::new(
            "two-weights-one-name",
            &["\"w\"|'w'|%w|`w`", "twice|duplicate|already"],
            Graph::good().weights([ones("w", &[2, 3])]).model(),
        ),
        Case::new(
            "two-inputs-one-name",
            &["\"x\"|'x'|%x|`x`", "twice|duplicate|already"],
            Graph::of([relu()]).inputs([xy(), xy()]).model(),
        ),
        Case::new(
            "one-node-two-equal-outputs",
            &["twin", "twice|duplicate|already"],
            of(vec![node("Split", &["x"], &["twin", "twin"]).attr_int("axis", 0), node("Relu", &["twin"], &["y"])]),
        ),
        Case::new("weight-without-name", &["initiali", "name"], Graph::of([relu()]).weights([ones("", &[2])]).model()),
        Case::new("subgraph-name-from-nowhere", &["ghost"], subgraph("ghost")),
        Case::new("subgraph-uses-later-value", &["later|cycle"], uses_later()),
    ]
}

fn branch(nodes: Vec<Msg>, out: &str) -> Graph {
    Graph::of(nodes).inputs([]).outputs([value(out, FLOAT, &[2, 3])])
}

fn subgraph(name: &str) -> Vec<u8> {
    if_node(&branch(vec![node("Relu", &[name], &["t"])], "t"), &branch(vec![node("Neg", &["x"], &["e"])], "e")).model()
}

/// A valid model of opset 8: one more than the sum of each row of `x: f32[2,3]`.
pub fn batched_scan() -> Vec<u8> {
    scan_8("", &[2])
}

/// A `Scan` of opset 8 over `x` with a state of these extents.
fn scan_8(lengths: &str, state: &[i64]) -> Vec<u8> {
    let (s, e) = (value("s", FLOAT, &state[1..]), value("e", FLOAT, &[]));
    let body = Graph::of([node("Add", &["s", "e"], &["t"])]).inputs([s, e]).outputs([value("t", FLOAT, &state[1..])]);
    let scan = node("Scan", &[lengths, "start", "x"], &["y"]).attr_int("num_scan_inputs", 1).attr_graph("body", &body.msg());
    let mut graph = Graph::of([scan]).weights([ones("start", state)]);
    if !lengths.is_empty() {
        graph.inputs.push(value(lengths, INT64, &[2]));
    }
    Msg::new().int(1, 3).msg(8, &opset("", 8)).msg(7, &graph.msg()).0
}

/// The `If` reads, from inside, a value that is computed from its own result.
fn uses_later() -> Vec<u8> {
    let mut g = if_node(&branch(vec![node("Relu", &["later"], &["t"])], "t"), &branch(vec![node("Neg", &["x"], &["e"])], "e"));
    g.nodes.push(node("Neg", &["y"], &["later"]));
    g.model()
}

fn operators() -> Vec<Case> {
    let of = |nodes: Vec<Msg>| Graph::of(nodes).model();
    let versions = |all: &[(&str, i64)]| {
        let m = all.iter().fold(Msg::new().int(1, 8), |m, (d, v)| m.msg(8, &opset(d, *v)));
        m.msg(7, &Graph::good().msg()).0
    };
    let foreign = |n: Msg| n.bytes(7, "com.acme");
    vec![
        Case::new("unknown-operator", &["Frobnicate"], of(vec![node("Frobnicate", &["x"], &["y"])])),
        Case::new("unknown-domain", &["com.acme", "Relu"], of(vec![foreign(node("Relu", &["x"], &["y"]))])),
        Case::new("unknown-domain-imported", &["com.acme", "Relu"], {
            let graph = Graph::of([foreign(node("Relu", &["x"], &["y"]))]).msg();
            model(&graph).msg(8, &opset("com.acme", 1)).0
        }),
        Case::new(
            "no-operator-type",
            &["operator|op_type|op type"],
            of(vec![Msg::new().bytes(1, "x").bytes(2, "y").bytes(3, "the_y")]),
        ),
        Case::new("no-opset", &["opset"], versions(&[])),
        Case::new("opset-of-other-domain-only", &["opset"], versions(&[("com.acme", 1)])),
        Case::new("opset-too-new", &["opset", "9999"], versions(&[("", 9999)])),
        Case::new("opset-zero", &["opset"], versions(&[("", 0)])),
        Case::new("opset-negative", &["opset", "-17"], versions(&[("", -17)])),
        Case::new("opset-twice", &["opset", "17", "13"], versions(&[("", 17), ("", 13)])),
        Case::new("operator-newer-than-opset", &["Mish", "opset|18"], {
            // Mish is of opset 18, the model of 17.
            of(vec![node("Mish", &["x"], &["y"])])
        }),
        Case::new("operator-gone-in-opset", &["Upsample", "opset|10"], {
            // Upsample ended with opset 9.
            let scales = super::build::tensor("s", FLOAT, &[2]).bytes(9, 1f32.to_le_bytes().repeat(2));
            Graph::of([node("Upsample", &["x", "s"], &["y"])]).weights([scales]).model()
        }),
        Case::new("scan-8-of-parts-of-sequences", &["the_y", "lengths"], scan_8("lengths", &[2, 3])),
        Case::new("scan-8-of-two-batches", &["the_y", "batch"], scan_8("", &[3, 3])),
        Case::new("trailing-second-graph-cycle", &["cycle"], {
            // Protobuf merges a message that comes twice: the two halves are harmless, the sum is a cycle.
            let more = Msg::new().msg(1, &node("Neg", &["p"], &["q"])).msg(1, &node("Neg", &["q"], &["p"]));
            Msg(good_model()).msg(7, &more).0
        }),
    ]
}
