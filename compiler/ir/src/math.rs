//! Expansion of mathematical functions to basic operations, the same for every target.
//!
//! After [`expand`], a program contains only arithmetic, `fma`, `sqrt`, rounding, comparisons, selections, conversions, shifts, logic and
//! bit casts. Methods are the classical ones (Cody and Waite 1980; Muller, Elementary Functions, 2016): exact argument reduction, then a
//! polynomial from [`tables`]; angles of any size are reduced by the digits of 2/pi (Payne and Hanek 1983). Errors, measured by the tests of
//! this file over the whole range with `fma` rounding once:
//!
//! | function | f32 | f64 |
//! |---|---|---|
//! | exp, log, atan, sin, cos | 2 ulp | 3 ulp |
//! | asin, acos | 3 ulp | 4 ulp |
//! | exp of x <= 0, as softmax uses it | 3 ulp, relative to 1 for x < -1 | 3 ulp |
//! | erf | 4 ulp | 16 ulp |
//! | normal distribution function | 2 ulp of 1 | 6 ulp of 1 |
//! | tan | 4 ulp | 4 ulp |
//! | tanh, sigmoid, sinh, cosh, asinh, acosh, atanh | 4 ulp | 6 ulp |
//! | pow | 1 ulp | 1e-13 relative |
//!
//! Results smaller than the smallest normal number may be 0. `sin`, `cos` and `tan` hold their errors for all arguments, those next to
//! multiples of pi/2 included (3, 3 and 5 ulp there); where products are rounded before they are added, 4 ulp of 1 remain. `pow` of f32
//! works in f64.

mod basic;
mod functions;
mod tables;

pub use basic::{Scalar, evaluate};

use crate::dtype::DType;
use crate::lir::{Expr, Func, Stmt};
use crate::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

use functions::Builder;

/// True when [`expand`] replaces the operation on this type.
fn is_expanded(op: ScalarOp, dtype: DType) -> bool {
    use UnOp::*;
    let basic_un =
        |op| matches!(op, Neg | Abs | Sqrt | Recip | RecipNear | Floor | Ceil | Trunc | Round | Not | IsNan | IsInf | Bitcast);
    match op {
        ScalarOp::Un(Sign, _) => true,
        ScalarOp::Un(op, _) => dtype.is_float() && !basic_un(op),
        ScalarOp::Bin(BinOp::Pow | BinOp::Mod | BinOp::Rem, ..) => dtype.is_float(),
        _ => false,
    }
}

/// The same program in basic operations. Functions of f16 and bf16 are computed in f32. Integer `Pow`, `Mod`, `Rem` and `Div` stay as they are.
pub fn expand(program: &ScalarProgram) -> ScalarProgram {
    if !program.nodes.iter().any(|n| is_expanded(n.op, n.dtype)) {
        return program.clone();
    }
    let mut out = ScalarProgram::default();
    let mut map: Vec<NodeIx> = Vec::with_capacity(program.nodes.len());
    for node in &program.nodes {
        let op = node.op.map_operands(|o| map[o as usize]);
        map.push(push(&mut out, op, node.dtype));
    }
    let result = *map.last().expect("internal: empty scalar program");
    out.finish(result)
}

/// Appends a node in basic operations to a program.
pub fn push(out: &mut ScalarProgram, op: ScalarOp, dtype: DType) -> NodeIx {
    if is_expanded(op, dtype) { expand_node(out, op, dtype) } else { out.push(op, dtype) }
}

fn expand_node(out: &mut ScalarProgram, op: ScalarOp, dtype: DType) -> NodeIx {
    if dtype.is_float() && !matches!(dtype, DType::F32 | DType::F64) {
        let mut wide = [0; 2];
        for (w, o) in wide.iter_mut().zip(op.operands()) {
            *w = out.cast(o, DType::F32);
        }
        let narrow: Vec<NodeIx> = op.operands().collect();
        let op = op.map_operands(|o| wide[narrow.iter().position(|n| *n == o).expect("internal: operand")]);
        let result = expand_node(out, op, DType::F32);
        return out.cast(result, dtype);
    }
    let mut b = Builder::new(out, dtype);
    match op {
        ScalarOp::Un(op, x) => b.unary(op, x),
        ScalarOp::Bin(op, x, y) => b.binary(op, x, y),
        _ => unreachable!("internal: math: only unary and binary functions are expanded"),
    }
}

/// Expands all functions in the expressions of a loop nest; shared intermediate values become variables of `func`.
pub fn expand_func(func: &mut Func) {
    let body = std::mem::take(&mut func.body);
    func.body = expand_block(func, body);
}

fn expand_block(func: &mut Func, body: Vec<Stmt>) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len());
    for stmt in body {
        let stmt = match stmt {
            Stmt::For { var, lo, hi, step, kind, body } => {
                let (lo, hi) = (expand_expr(func, lo, &mut out), expand_expr(func, hi, &mut out));
                Stmt::For { var, lo, hi, step, kind, body: expand_block(func, body) }
            }
            Stmt::Set(v, e) => Stmt::Set(v, expand_expr(func, e, &mut out)),
            Stmt::Store(b, i, e) => {
                let (i, e) = (expand_expr(func, i, &mut out), expand_expr(func, e, &mut out));
                Stmt::Store(b, i, e)
            }
            Stmt::If(c, a, b) => {
                let c = expand_expr(func, c, &mut out);
                Stmt::If(c, expand_block(func, a), expand_block(func, b))
            }
            Stmt::While(c, body) => {
                // Variables of the condition are set before the loop and again at the end of each round.
                let mut sets = Vec::new();
                let c = expand_expr(func, c, &mut sets);
                let mut body = expand_block(func, body);
                body.extend(sets.iter().cloned());
                out.extend(sets);
                Stmt::While(c, body)
            }
            Stmt::Call(k, ptrs, ints) => {
                let ptrs = ptrs.into_iter().map(|(b, e)| (b, expand_expr(func, e, &mut out))).collect();
                let ints = ints.into_iter().map(|e| expand_expr(func, e, &mut out)).collect();
                Stmt::Call(k, ptrs, ints)
            }
        };
        out.push(stmt);
    }
    out
}

/// `e` in basic operations; what must be computed before goes to `before`.
fn expand_expr(func: &mut Func, e: Expr, before: &mut Vec<Stmt>) -> Expr {
    let mut sub = |func: &mut Func, e: Box<Expr>| Box::new(expand_expr(func, *e, before));
    let e = match e {
        Expr::Int(_) | Expr::Const(..) | Expr::Var(_) => return e,
        Expr::Load(b, i) => Expr::Load(b, sub(func, i)),
        Expr::Un(op, a) => Expr::Un(op, sub(func, a)),
        Expr::Bin(op, a, b) => Expr::Bin(op, sub(func, a), sub(func, b)),
        Expr::Fma(a, b, c) => Expr::Fma(sub(func, a), sub(func, b), sub(func, c)),
        Expr::Select(c, a, b) => Expr::Select(sub(func, c), sub(func, a), sub(func, b)),
        Expr::Cast(t, a) => Expr::Cast(t, sub(func, a)),
    };
    let dtype = func.dtype(&e);
    let (op, operands): (ScalarOp, Vec<Expr>) = match e {
        Expr::Un(op, a) if is_expanded(ScalarOp::Un(op, 0), dtype) => (ScalarOp::Un(op, 0), vec![*a]),
        Expr::Bin(op, a, b) if is_expanded(ScalarOp::Bin(op, 0, 1), dtype) => (ScalarOp::Bin(op, 0, 1), vec![*a, *b]),
        e => return e,
    };
    let mut program = ScalarProgram::default();
    let mut args = Vec::new();
    for (n, operand) in operands.into_iter().enumerate() {
        let t = func.dtype(&operand);
        if let Expr::Const(_, bits) = operand {
            program.nodes.push(crate::scalar::ScalarNode { op: ScalarOp::Const(bits), dtype: t });
        } else {
            program.nodes.push(crate::scalar::ScalarNode { op: ScalarOp::Arg(n as u8), dtype: t });
        }
        args.push(operand);
    }
    let result = expand_node(&mut program, op, dtype);
    inline(func, &program.finish(result), args, before)
}

/// The program as an expression; nodes with several uses become variables.
fn inline(func: &mut Func, program: &ScalarProgram, args: Vec<Expr>, before: &mut Vec<Stmt>) -> Expr {
    let mut uses = vec![0u32; program.nodes.len()];
    program.nodes.iter().for_each(|n| n.op.operands().for_each(|o| uses[o as usize] += 1));
    let mut values: Vec<Expr> = Vec::with_capacity(program.nodes.len());
    for (i, node) in program.nodes.iter().enumerate() {
        let get = |n: NodeIx| Box::new(values[n as usize].clone());
        let e = match node.op {
            ScalarOp::Arg(n) => args[n as usize].clone(),
            ScalarOp::Const(bits) => Expr::Const(node.dtype, bits),
            ScalarOp::Un(op, a) => Expr::Un(op, get(a)),
            ScalarOp::Bin(op, a, b) => Expr::Bin(op, get(a), get(b)),
            ScalarOp::Fma(a, b, c) => Expr::Fma(get(a), get(b), get(c)),
            ScalarOp::Select(c, a, b) => Expr::Select(get(c), get(a), get(b)),
            ScalarOp::Cast(a) => Expr::Cast(node.dtype, get(a)),
        };
        let simple = matches!(e, Expr::Const(..) | Expr::Var(_) | Expr::Int(_));
        if uses[i] > 1 && !simple {
            let var = func.var(node.dtype);
            before.push(Stmt::Set(var, e));
            values.push(Expr::Var(var));
        } else {
            values.push(e);
        }
    }
    values.pop().expect("internal: empty scalar program")
}

#[cfg(test)]
mod tests;
