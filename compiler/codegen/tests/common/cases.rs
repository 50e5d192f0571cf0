//! One function for each operation and element type, with inputs at the edges of the types.

use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::plan::{Place, Plan, Step};
use onnxc_ir::scalar::{BinOp, UnOp};

use super::{Fun, V, write};

pub const INTS: [DType; 8] = [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32, DType::U32, DType::I64, DType::U64];
pub const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

pub fn edges(t: DType) -> Vec<V> {
    if t == DType::Bool {
        return vec![V::I(0), V::I(1)];
    }
    if let Some((lo, hi)) = t.int_range() {
        return [lo, lo + 1, -7, -2, -1, 0, 1, 2, 3, 7, 64, 100, hi - 1, hi]
            .into_iter()
            .filter(|x| (lo..=hi).contains(x))
            .map(V::I)
            .collect();
    }
    let mut v = vec![
        0.0, -0.0, 0.3, -0.5, 0.5, 1.0, -1.0, 1.5, 2.5, -2.5, 3.75, 1e-3, 6e-5, 3e-8, 300.25, -1000.5, 65504.0, 65520.0, 1e9,
    ];
    v.extend([
        8388609.0,
        4294967295.0,
        1e19,
        -1e19,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1.0009765625,
        1.00048828125,
        5.960464477539063e-8,
    ]);
    v.into_iter().map(V::F).collect()
}

fn bytes_of(t: DType, values: &[V]) -> Vec<u8> {
    let mut out = vec![0; values.len() * t.bytes() as usize];
    for (v, to) in values.iter().zip(out.chunks_mut(t.bytes() as usize)) {
        write(t, *v, to);
    }
    out
}

/// A function with its inputs.
pub struct Case {
    pub what: String,
    pub fun: Fun,
    pub inputs: Vec<Vec<u8>>,
    pub result: DType,
}

/// `y[i] = e(x[i], ...)` over all combinations of edge values.
pub fn case(what: &str, types: &[DType], result: DType, e: impl Fn(&[Expr]) -> Expr) -> Case {
    let lists: Vec<Vec<V>> = types.iter().map(|t| edges(*t)).collect();
    let n: usize = lists.iter().map(Vec::len).product();
    let mut f = Fun::new("op");
    let (mut inputs, mut repeat) = (vec![], 1);
    for (t, list) in types.iter().zip(&lists) {
        let column: Vec<V> = (0..n).map(|i| list[i / repeat % list.len()]).collect();
        repeat *= list.len();
        inputs.push(bytes_of(*t, &column));
        f.input(*t, n as u64);
    }
    let y = f.output(result, n as u64);
    let i = f.var(DType::I64);
    let args: Vec<Expr> = (0..types.len()).map(|k| Expr::Load(BufId(k as u32), Box::new(Expr::Var(i)))).collect();
    let body = vec![Stmt::Store(y, Expr::Var(i), e(&args))];
    f.push(Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(n as i64), step: 1, kind: LoopKind::Serial, body });
    Case { what: what.to_string(), fun: f, inputs, result }
}

/// All casts.
pub fn casts() -> Vec<Case> {
    let all: Vec<DType> = INTS.into_iter().chain(FLOATS).chain([DType::Bool]).collect();
    let pairs = all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to)));
    pairs.map(|(from, to)| case(&format!("{from} to {to}"), &[from], to, |x| Expr::Cast(to, Box::new(x[0].clone())))).collect()
}

/// Integer and bool operations.
pub fn integers() -> Vec<Case> {
    use BinOp::*;
    let mut out = vec![];
    for t in INTS {
        for op in [UnOp::Neg, UnOp::Abs, UnOp::Sign, UnOp::Not] {
            out.push(case(&format!("{op:?} {t}"), &[t], t, |x| Expr::un(op, x[0].clone())));
        }
        for op in [Add, Sub, Mul, Div, Mod, Rem, Pow, Min, Max, And, Or, Xor, Eq, Ne, Lt, Le, Gt, Ge] {
            let result = if op.is_comparison() { DType::Bool } else { t };
            out.push(case(&format!("{op:?} {t}"), &[t, t], result, |x| Expr::bin(op, x[0].clone(), x[1].clone())));
        }
        for op in [Shl, Shr] {
            let amount = Expr::Const(t, 3);
            out.push(case(&format!("{op:?} {t}"), &[t], t, |x| Expr::bin(op, x[0].clone(), amount.clone())));
        }
        for divisor in [1u64, 2, 7, 100] {
            for op in [Div, Mod, Rem] {
                out.push(case(&format!("{op:?} {t} by {divisor}"), &[t], t, |x| {
                    Expr::bin(op, x[0].clone(), Expr::Const(t, divisor))
                }));
            }
        }
    }
    for op in [And, Or, Xor, Eq, Ne] {
        out.push(case(&format!("{op:?} bool"), &[DType::Bool, DType::Bool], DType::Bool, |x| {
            Expr::bin(op, x[0].clone(), x[1].clone())
        }));
    }
    out.push(case("not bool", &[DType::Bool], DType::Bool, |x| Expr::un(UnOp::Not, x[0].clone())));
    out
}

/// Float operations.
pub fn floats() -> Vec<Case> {
    use BinOp::*;
    let mut out = vec![];
    for t in FLOATS {
        for op in [UnOp::Neg, UnOp::Abs, UnOp::Sqrt, UnOp::Recip, UnOp::Floor, UnOp::Ceil, UnOp::Trunc, UnOp::Round, UnOp::Sign] {
            out.push(case(&format!("{op:?} {t}"), &[t], t, |x| Expr::un(op, x[0].clone())));
        }
        for op in [UnOp::IsNan, UnOp::IsInf] {
            out.push(case(&format!("{op:?} {t}"), &[t], DType::Bool, |x| Expr::un(op, x[0].clone())));
        }
        for op in [Add, Sub, Mul, Div, Rem, Mod, Min, Max, Eq, Ne, Lt, Le, Gt, Ge] {
            let result = if op.is_comparison() { DType::Bool } else { t };
            out.push(case(&format!("{op:?} {t}"), &[t, t], result, |x| Expr::bin(op, x[0].clone(), x[1].clone())));
        }
    }
    let select = |x: &[Expr]| Expr::Select(Box::new(x[0].clone()), Box::new(x[1].clone()), Box::new(x[2].clone()));
    out.push(case("select", &[DType::Bool, DType::F32, DType::F32], DType::F32, select));
    let there = |x: &[Expr]| Expr::un(UnOp::Bitcast, Expr::un(UnOp::Bitcast, x[0].clone()));
    out.push(case("bitcast", &[DType::F32], DType::F32, there));
    out
}

/// One plan of all cases, its inputs and what the interpreter answers.
pub fn merge(cases: &[Case]) -> (Plan, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut all = Fun::new("empty").plan();
    all.steps.clear();
    let (mut inputs, mut wanted) = (vec![], vec![]);
    for (n, case) in cases.iter().enumerate() {
        let one = case.fun.plan();
        let (xs, ys) = (all.inputs.len() as u32, all.outputs.len() as u32);
        for step in one.steps {
            let Step::Call { mut func, mut places, origins, op } = step else { unreachable!("one call") };
            func.name = format!("case{n}");
            for place in &mut places {
                match place {
                    Place::Input(k) => *k += xs,
                    Place::Output(k) => *k += ys,
                    other => panic!("{other:?} in a case"),
                }
            }
            all.steps.push(Step::Call { func, places, origins, op });
        }
        all.inputs.extend(one.inputs);
        all.outputs.extend(one.outputs);
        wanted.extend(case.fun.interpret(&case.inputs));
        inputs.extend(case.inputs.clone());
    }
    (all, inputs, wanted)
}
