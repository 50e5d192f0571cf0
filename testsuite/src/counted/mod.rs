//! ONNX models with results whose size data decides on.

mod bodies;

use crate::bad_models::build::{BOOL, FLOAT, Graph, INT64, int64s, model, node, ones, tensor, value};
use crate::wire::Msg;

/// A model with what its inputs are.
#[derive(Debug)]
pub struct Case {
    /// Name.
    pub name: &'static str,
    /// The ONNX file.
    pub model: Vec<u8>,
    /// Bounds on the command line.
    pub flags: &'static [&'static str],
    /// Types and shapes of the inputs.
    pub inputs: Vec<(i64, Vec<usize>)>,
}

/// An output of which only the type is declared.
fn open(name: &str, elem_type: i64) -> Msg {
    Msg::new().bytes(1, name).msg(2, &Msg::new().msg(1, &Msg::new().int(1, elem_type)))
}

fn case(
    name: &'static str,
    flags: &'static [&'static str],
    nodes: Vec<Msg>,
    inputs: &[(&str, i64, &[i64])],
    outputs: &[(&str, i64)],
    weights: Vec<Msg>,
) -> Case {
    let graph = Graph::of(nodes)
        .inputs(inputs.iter().map(|(n, t, dims)| value(n, *t, dims)).collect::<Vec<_>>())
        .outputs(outputs.iter().map(|(n, t)| open(n, *t)).collect::<Vec<_>>())
        .weights(weights);
    let inputs = inputs.iter().map(|(_, t, dims)| (*t, dims.iter().map(|d| *d as usize).collect())).collect();
    Case { name, model: model(&graph.msg()).0, flags, inputs }
}

fn scalar(name: &str, value: f32) -> Msg {
    tensor(name, FLOAT, &[]).bytes(9, value.to_le_bytes())
}

/// All models.
pub fn cases() -> Vec<Case> {
    operators().into_iter().chain(bodies::cases()).collect()
}

/// Found among elements of which the call says how many there are: the model, and the flags that leave the first extent of both inputs open.
pub fn open_inputs() -> (Case, [&'static str; 3]) {
    let graph = Graph::of(vec![
        node("Relu", &["x"], &["r"]),
        node("NonZero", &["r"], &["at"]),
        node("Compress", &["x", "c"], &["rows"]).attr_int("axis", 0),
        node("Softmax", &["rows"], &["y"]).attr_int("axis", 1),
    ]);
    let graph = graph.inputs([open("x", FLOAT), open("c", BOOL)]).outputs([open("at", INT64), open("y", FLOAT)]);
    let inputs = vec![(FLOAT, vec![0, 3]), (BOOL, vec![0])];
    let case = Case { name: "open_inputs", model: model(&graph.msg()).0, flags: &[], inputs };
    (case, ["--shape=x=N,3", "--shape=c=N", "--dim=N=1..9"])
}

/// Models with every operator that has such results, and operators behind them that take the size as it comes.
fn operators() -> Vec<Case> {
    let x: (&str, i64, &[i64]) = ("x", FLOAT, &[4, 6]);
    vec![
        case(
            "non_zero",
            &[],
            vec![
                node("Relu", &["x"], &["r"]),
                node("NonZero", &["r"], &["at"]),
                node("Transpose", &["at"], &["t"]).attr_ints("perm", &[1, 0]),
                node("GatherND", &["x", "t"], &["found"]),
                node("Shape", &["found"], &["number"]),
                node("Exp", &["found"], &["y"]),
            ],
            &[x],
            &[("at", INT64), ("number", INT64), ("y", FLOAT)],
            vec![],
        ),
        case(
            "compress",
            &[],
            vec![
                node("Compress", &["x", "c"], &["rows"]).attr_int("axis", 0),
                node("MatMul", &["rows", "w"], &["m"]),
                node("Softmax", &["m"], &["y"]).attr_int("axis", 1),
            ],
            &[x, ("c", BOOL, &[4])],
            &[("y", FLOAT), ("rows", FLOAT)],
            vec![ones("w", &[6, 5])],
        ),
        case(
            "unique",
            &["--bound=y=14"],
            vec![
                node("Round", &["x"], &["r"]),
                node("Unique", &["r"], &["y", "first", "which", "counts"]).attr_int("sorted", 0),
                node("Neg", &["y"], &["z"]),
            ],
            &[x],
            &[("y", FLOAT), ("first", INT64), ("which", INT64), ("counts", INT64), ("z", FLOAT)],
            vec![],
        ),
        case(
            "unique_rows",
            &[],
            vec![node("Sign", &["x"], &["s"]), node("Unique", &["s"], &["y", "first", "which", "counts"]).attr_int("axis", 0)],
            &[("x", FLOAT, &[9, 2])],
            &[("y", FLOAT), ("first", INT64), ("which", INT64), ("counts", INT64)],
            vec![],
        ),
        case(
            "non_max_suppression",
            &[],
            vec![
                node("Sigmoid", &["s"], &["p"]),
                node("NonMaxSuppression", &["b", "p", "most", "overlap", "least"], &["chosen"]),
                node("Gather", &["chosen", "box"], &["which"]).attr_int("axis", 1),
                node("Squeeze", &["b", "zero"], &["boxes"]),
                node("Gather", &["boxes", "which"], &["y"]).attr_int("axis", 0),
            ],
            &[("b", FLOAT, &[1, 20, 4]), ("s", FLOAT, &[1, 2, 20])],
            &[("chosen", INT64), ("y", FLOAT)],
            vec![
                int64s("most", &[7]),
                scalar("overlap", 0.25),
                scalar("least", 0.4),
                tensor("box", INT64, &[]).bytes(9, 2i64.to_le_bytes()),
                int64s("zero", &[0]),
            ],
        ),
        case(
            "slice",
            &[],
            vec![
                // The sum of signs, from -24 to 24, is both ends of the slice in its way.
                node("Sign", &["x"], &["s"]),
                node("ReduceSum", &["s", "axes"], &["sum"]).attr_int("keepdims", 0),
                node("Unsqueeze", &["sum", "zero"], &["v"]),
                node("Cast", &["v"], &["n"]).attr_int("to", INT64),
                node("Slice", &["x", "n", "end", "one"], &["y"]),
                node("Abs", &["y"], &["z"]),
            ],
            &[x],
            &[("z", FLOAT)],
            vec![int64s("axes", &[0, 1]), int64s("zero", &[0]), int64s("end", &[6]), int64s("one", &[1])],
        ),
        case(
            "reshape",
            &["--bound=y=24,24", "--bound=r=40", "--bound=e=24,3", "--bound=t=48", "--bound=k=5"],
            vec![
                // A shape entry of 0 would mean the operand's extent.
                node("Or", &["c", "true"], &["d"]),
                node("NonZero", &["d"], &["at"]),
                node("Shape", &["at"], &["shape"]),
                node("Gather", &["shape", "one"], &["n"]).attr_int("axis", 0),
                node("Concat", &["n", "rest"], &["wanted"]).attr_int("axis", 0),
                node("Reshape", &["x", "wanted"], &["y"]),
                node("Squeeze", &["n"], &["limit"]),
                node("Range", &["zero", "limit", "step"], &["r"]),
                node("Concat", &["n", "three"], &["to"]).attr_int("axis", 0),
                node("Expand", &["unit", "to"], &["e"]),
                node("Tile", &["vector", "n"], &["t"]),
                node("ConstantOfShape", &["n"], &["k"]),
            ],
            &[x, ("c", BOOL, &[4])],
            &[("y", FLOAT), ("r", INT64), ("e", FLOAT), ("t", INT64), ("k", FLOAT)],
            vec![
                int64s("one", &[1]),
                int64s("rest", &[-1]),
                tensor("true", BOOL, &[4]).bytes(9, [1, 0, 0, 0]),
                tensor("zero", INT64, &[]).bytes(9, 0i64.to_le_bytes()),
                tensor("step", INT64, &[]).bytes(9, 1i64.to_le_bytes()),
                int64s("three", &[3]),
                ones("unit", &[1, 1]),
                int64s("vector", &[5, 6, 7]),
            ],
        ),
        case(
            "top_k",
            &[],
            vec![
                node("NonZero", &["c"], &["at"]),
                node("Shape", &["at"], &["shape"]),
                node("Gather", &["shape", "one"], &["n"]).attr_int("axis", 0),
                node("TopK", &["x", "n"], &["y", "where"]),
            ],
            &[x, ("c", BOOL, &[4])],
            &[("y", FLOAT), ("where", INT64)],
            vec![int64s("one", &[1])],
        ),
    ]
}
