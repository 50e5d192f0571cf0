//! Sequences and optionals that do not resolve: unknown lengths and positions, elements that do not fit, loops without end.

use super::Case;
use super::build::{BOOL, FLOAT, Graph, INT64, if_node, int64s, node, tensor, value};
use crate::wire::Msg;

/// A `TypeProto` of a tensor.
fn tensor_type(elem_type: i64) -> Msg {
    Msg::new().msg(1, &Msg::new().int(1, elem_type))
}

/// A `TypeProto` of a sequence of this type.
fn sequence_of(inner: &Msg) -> Msg {
    Msg::new().msg(4, &Msg::new().msg(1, inner))
}

fn info(name: &str, ty: &Msg) -> Msg {
    Msg::new().bytes(1, name).msg(2, ty)
}

fn sequence(name: &str) -> Msg {
    info(name, &sequence_of(&tensor_type(FLOAT)))
}

/// `s = [x, x]`
fn pair() -> Msg {
    node("SequenceConstruct", &["x", "x"], &["s"])
}

fn of(nodes: impl Into<Vec<Msg>>) -> Vec<u8> {
    Graph::of(nodes).model()
}

fn at(name: &str, position: i64) -> Msg {
    int64s(name, &[position])
}

fn scalar_true(name: &str) -> Msg {
    tensor(name, BOOL, &[]).bytes(9, [1])
}

/// A body of `Loop` that carries a sequence `t`, with these nodes from `t` to `u`.
fn body(nodes: impl Into<Vec<Msg>>) -> Graph {
    let inputs = [value("i", INT64, &[]), value("c", BOOL, &[]), sequence("t")];
    Graph::of(nodes).inputs(inputs).outputs([value("c", BOOL, &[]), sequence("u")])
}

/// `y` is the first element of what a loop makes of an empty sequence.
fn looped(trips: &str, body: &Graph) -> Graph {
    let nodes = [
        node("SequenceEmpty", &[], &["s"]),
        node("Loop", &[trips, "go", "s"], &["r"]).attr_graph("body", &body.msg()),
        node("SequenceAt", &["r", "first"], &["y"]),
    ];
    Graph::of(nodes).weights([at("first", 0), scalar_true("go")])
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = inputs_and_outputs();
    all.extend(nodes());
    all.extend(bodies());
    all
}

fn inputs_and_outputs() -> Vec<Case> {
    let take = || node("SequenceAt", &["s", "first"], &["y"]);
    let given = |ty: &Msg| Graph::of([take()]).inputs([info("s", ty)]).weights([at("first", 0)]).model();
    let result = |node: Msg, ty: &Msg| Graph::of([pair(), node]).outputs([info("y", ty)]).model();
    vec![
        Case::new("sequence-of-unknown-length", &["\"s\"", "length", "--length s="], given(&sequence_of(&tensor_type(FLOAT)))),
        Case::new("sequence-of-sequences", &["\"s\"", "not supported"], given(&sequence_of(&sequence_of(&tensor_type(FLOAT))))),
        Case::new("sequence-of-nothing", &["\"s\"", "does not say"], given(&Msg::new().msg(4, &Msg::new()))),
        Case::new(
            "sequence-is-declared-a-tensor",
            &["\"y\"", "declared a tensor", "length 2"],
            result(node("Identity", &["s"], &["y"]), &tensor_type(FLOAT)),
        ),
        Case::new(
            "tensor-is-declared-a-sequence",
            &["\"y\"", "declared a sequence"],
            result(node("Relu", &["x"], &["y"]), &sequence_of(&tensor_type(FLOAT))),
        ),
        Case::new(
            "sequence-of-another-type",
            &["\"y\"", "i64", "f32"],
            result(node("Identity", &["s"], &["y"]), &sequence_of(&tensor_type(INT64))),
        ),
        Case::new("only-empty-sequences-come-out", &["empty sequences"], {
            Graph::of([node("SequenceEmpty", &[], &["y"])]).outputs([sequence("y")]).model()
        }),
        Case::new("empty-optional-comes-out", &["\"y\"", "empty optional"], of([optional("y")])),
    ]
}

/// `y = Optional()` of an `f32` tensor.
fn optional(y: &str) -> Msg {
    let ty = Msg::new().bytes(1, "type").int(20, 13).msg(14, &tensor_type(FLOAT));
    node("Optional", &[], &[y]).msg(5, &ty)
}

fn nodes() -> Vec<Case> {
    let taken = |position: i64| Graph::of([pair(), node("SequenceAt", &["s", "p"], &["y"])]).weights([at("p", position)]).model();
    vec![
        Case::new("sequence-into-a-tensor-operator", &["the_y", "sequence", "SequenceAt"], {
            of([pair(), node("Relu", &["s"], &["y"])])
        }),
        Case::new("tensor-into-a-sequence-operator", &["the_y", "tensor", "sequence is needed"], {
            Graph::of([node("SequenceAt", &["x", "p"], &["y"])]).weights([at("p", 0)]).model()
        }),
        Case::new("position-is-not-known", &["the_y", "position", "not known", "--const"], {
            let g = Graph::of([pair(), node("SequenceAt", &["s", "p"], &["y"])]);
            g.inputs([value("x", FLOAT, &[2, 3]), value("p", INT64, &[])]).model()
        }),
        Case::new("position-beyond-the-end", &["the_y", "position 2", "2 elements"], taken(2)),
        Case::new("position-before-the-beginning", &["the_y", "position -3"], taken(-3)),
        Case::new("position-of-minus-2-to-63", &["the_y", "position"], taken(i64::MIN)),
        Case::new("element-of-another-type", &["the_t", "i64", "f32"], {
            let nodes = [pair(), node("SequenceInsert", &["s", "p"], &["t"]), node("SequenceAt", &["t", "p"], &["y"])];
            Graph::of(nodes).weights([at("p", 0)]).model()
        }),
        Case::new("elements-of-two-types", &["the_s", "i64", "f32"], {
            let nodes = [node("SequenceConstruct", &["x", "p"], &["s"]), node("SequenceAt", &["s", "p"], &["y"])];
            Graph::of(nodes).weights([at("p", 0)]).model()
        }),
        Case::new("nothing-to-join", &["the_y", "empty"], {
            of([node("SequenceEmpty", &[], &["s"]), node("ConcatFromSequence", &["s"], &["y"]).attr_int("axis", 0)])
        }),
        Case::new("nothing-to-erase", &["the_t", "0 elements"], {
            let nodes = [
                node("SequenceEmpty", &[], &["s"]),
                node("SequenceErase", &["s"], &["t"]),
                node("SequenceAt", &["t", "p"], &["y"]),
            ];
            Graph::of(nodes).weights([at("p", 0)]).model()
        }),
        Case::new("parts-do-not-add-up", &["the_s", "add up", "3"], {
            let nodes = [
                node("SplitToSequence", &["x", "parts"], &["s"]).attr_int("axis", 1),
                node("SequenceAt", &["s", "parts"], &["y"]),
            ];
            Graph::of(nodes).weights([at("parts", 1)]).model()
        }),
        Case::new("too-many-parts", &["the_s", "1000000", "limit"], {
            let nodes = [node("SplitToSequence", &["x"], &["s"]), node("SequenceAt", &["s", "p"], &["y"])];
            Graph::of(nodes).inputs([value("x", FLOAT, &[1_000_000, 3])]).weights([at("p", 0)]).model()
        }),
        Case::new("element-whose-size-is-not-known", &["the_y", "element 1", "depend on data"], {
            let nodes = [node("SplitToSequence", &["x", "parts"], &["s"]), node("SequenceAt", &["s", "p"], &["y"])];
            let inputs = [value("x", FLOAT, &[2, 3]), value("parts", INT64, &[2])];
            Graph::of(nodes).inputs(inputs).weights([at("p", 1)]).model()
        }),
        Case::new("optional-is-empty", &["the_y", "empty"], of([optional("o"), node("OptionalGetElement", &["o"], &["y"])])),
    ]
}

fn bodies() -> Vec<Case> {
    let grow = || body([node("SequenceInsert", &["t", "x"], &["u"])]);
    let two_deep = {
        let inner = body([node("SequenceInsert", &["t", "x"], &["v"]), node("SequenceErase", &["v"], &["u"])]);
        let outer = node("Loop", &["many", "go", "t"], &["u"]).attr_graph("body", &inner.msg());
        body([outer])
    };
    let mapped = |nodes: Vec<Msg>, out: &str| {
        let body = Graph::of(nodes).inputs([value("e", FLOAT, &[2, 3])]).outputs([info(out, &tensor_type(FLOAT))]);
        node("SequenceMap", &["s"], &["m"]).attr_graph("body", &body.msg())
    };
    let first = || node("SequenceAt", &["m", "p"], &["y"]);
    let branch = |inputs: &[&str]| Graph::of([node("SequenceConstruct", inputs, &["b"])]).inputs([]).outputs([sequence("b")]);
    vec![
        Case::new("loop-over-sequences-of-unknown-length", &["the_r", "trip count", "--const"], {
            let g = looped("n", &grow());
            g.inputs([value("x", FLOAT, &[2, 3]), value("n", INT64, &[])]).model()
        }),
        Case::new("loop-over-sequences-without-end", &["the_r", "limit"], looped("", &grow()).model()),
        Case::new("loops-of-2-to-24-iterations", &["the_r|the_u", "limit"], {
            looped("many", &two_deep).weights([tensor("many", INT64, &[]).bytes(9, 4000i64.to_le_bytes())]).model()
        }),
        Case::new("branches-of-two-lengths", &["the_y", "then_branch", "else_branch", "--const"], {
            let mut g = if_node(&branch(&["x"]), &branch(&["x", "x"]));
            g.outputs = vec![sequence("y")];
            g.model()
        }),
        Case::new("map-of-an-empty-sequence", &["the_m", "empty"], {
            let nodes = [node("SequenceEmpty", &[], &["s"]), mapped(vec![node("Relu", &["e"], &["f"])], "f"), first()];
            Graph::of(nodes).weights([at("p", 0)]).model()
        }),
        Case::new("map-to-sequences", &["the_m", "sequences in sequences"], {
            let nodes = [pair(), mapped(vec![node("SequenceConstruct", &["e"], &["f"])], "f"), first()];
            Graph::of(nodes).weights([at("p", 0)]).model()
        }),
        Case::new("map-of-two-lengths", &["the_m", "3 elements", "one of 2"], {
            let body = Graph::of([node("Add", &["e", "f"], &["g"])])
                .inputs([value("e", FLOAT, &[2, 3]), value("f", FLOAT, &[2, 3])])
                .outputs([value("g", FLOAT, &[2, 3])]);
            let map = node("SequenceMap", &["s", "s3"], &["m"]).attr_graph("body", &body.msg());
            let nodes = [pair(), node("SequenceConstruct", &["x", "x", "x"], &["s3"]), map, first()];
            Graph::of(nodes).weights([at("p", 0)]).model()
        }),
        Case::new("loop-body-makes-a-sequence", &["the_y", "sequence", "output 1"], {
            let inner = Graph::of([node("SequenceConstruct", &["t"], &["u"])])
                .inputs([value("i", INT64, &[]), value("c", BOOL, &[]), value("t", FLOAT, &[2, 3])])
                .outputs([value("c", BOOL, &[]), sequence("u")]);
            let n = node("Loop", &["n", "", "x"], &["y"]).attr_graph("body", &inner.msg());
            Graph::of([n]).inputs([value("x", FLOAT, &[2, 3]), value("n", INT64, &[])]).model()
        }),
    ]
}
