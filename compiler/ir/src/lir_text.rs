//! The loop IR as text, for `--dump-after lower` and snapshots. Print only: lowered functions are never written by hand.

use std::fmt;

use crate::DType;
use crate::kernel::{FetchKernel, Kernel, Less};
use crate::lir::{BufKind, Expr, Func, LoopKind, Stmt};
use crate::scalar::BinOp;

/// Spaces per level.
const INDENT: usize = 2;

impl fmt::Display for Func {
    /// `func name { buffers, body }`, one statement per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "func @{} {{", self.name)?;
        for (i, buf) in self.bufs.iter().enumerate() {
            write!(f, "  b{i}: {} = ", buf.dtype)?;
            match &buf.kind {
                BufKind::Input(n) => writeln!(f, "input {n}")?,
                BufKind::Output(n) => writeln!(f, "output {n}")?,
                BufKind::Sizes => writeln!(f, "sizes")?,
                BufKind::Same(of) => writeln!(f, "same as b{}", of.0)?,
                BufKind::Const(blob) => writeln!(f, "const {} bytes", blob.bytes())?,
                BufKind::Scratch { bytes, per_worker } => {
                    writeln!(f, "scratch {bytes} bytes{}", if *per_worker { " per worker" } else { "" })?;
                }
            }
        }
        block(f, &self.body, 1)?;
        writeln!(f, "}}")
    }
}

fn block(f: &mut fmt::Formatter<'_>, stmts: &[Stmt], level: usize) -> fmt::Result {
    stmts.iter().try_for_each(|s| stmt(f, s, level))
}

fn stmt(f: &mut fmt::Formatter<'_>, s: &Stmt, level: usize) -> fmt::Result {
    let pad = " ".repeat(level * INDENT);
    match s {
        Stmt::For { var, lo, hi, step, kind, body } => {
            let kind = match kind {
                LoopKind::Serial => "for",
                LoopKind::Parallel => "parallel for",
                LoopKind::Vector => "vector for",
            };
            let step = if *step == 1 { String::new() } else { format!(" step {step}") };
            writeln!(f, "{pad}{kind} v{} in {lo}..{hi}{step} {{", var.0)?;
            block(f, body, level + 1)?;
            writeln!(f, "{pad}}}")
        }
        Stmt::Set(v, e) => writeln!(f, "{pad}v{} = {e}", v.0),
        Stmt::Store(b, i, e) => writeln!(f, "{pad}b{}[{i}] = {e}", b.0),
        Stmt::If(c, a, b) => {
            writeln!(f, "{pad}if {c} {{")?;
            block(f, a, level + 1)?;
            if !b.is_empty() {
                writeln!(f, "{pad}}} else {{")?;
                block(f, b, level + 1)?;
            }
            writeln!(f, "{pad}}}")
        }
        Stmt::While(c, body) => {
            writeln!(f, "{pad}while {c} {{")?;
            block(f, body, level + 1)?;
            writeln!(f, "{pad}}}")
        }
        Stmt::Call(kernel, pointers, ints) => {
            write!(f, "{pad}call {}(", Short(kernel))?;
            let args = pointers.iter().map(|(b, i)| format!("&b{}[{i}]", b.0)).chain(ints.iter().map(Expr::to_string));
            writeln!(f, "{})", args.collect::<Vec<_>>().join(", "))
        }
    }
}

/// A kernel in one line.
struct Short<'a>(&'a Kernel);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kernel::Tile(k) => {
                let nest: Vec<String> = k.nest.iter().map(|(n, step)| format!("{n}*{step}")).collect();
                write!(
                    f,
                    "tile_{}_{}{}_{}x{}/{} a_row={} c_row={} k=[{}]",
                    k.a_dtype,
                    k.b_dtype,
                    k.short_name(),
                    k.mr,
                    k.nr,
                    k.cols,
                    k.a_row,
                    k.c_row,
                    nest.join(", ")
                )?;
                write!(f, "{}{}", if k.bias { " bias" } else { "" }, if k.accumulate { " accumulate" } else { "" })?;
                if k.list {
                    write!(f, " list")?;
                }
                if k.streams > 1 {
                    write!(f, " streams={}", k.streams)?;
                }
                if k.ahead > 0 {
                    write!(f, " ahead={}", k.ahead)?;
                }
                match k.less {
                    Some(Less::Apart(bytes)) => write!(f, " less={bytes}")?,
                    Some(Less::Kept) => write!(f, " less=kept")?,
                    None => {}
                }
                if k.epilogue.is_identity() { Ok(()) } else { write!(f, " epilogue={:?}", k.epilogue.to_string()) }
            }
            Kernel::Lookup(k) => write!(f, "lookup_{} bytes={}", if k.signed { DType::I8 } else { DType::U8 }, k.bytes),
            Kernel::Fetch(FetchKernel { nest: [(rounds, step), (lines, apart)] }) => {
                write!(f, "fetch [{rounds}*{step}, {lines}*{apart}]")
            }
            Kernel::Depthwise(k) => {
                write!(f, "depthwise_{}_{}x{} x_step={} y_step={}", k.x_dtype, k.taps.len(), k.channels, k.x_step, k.y_step)?;
                if k.rows.count > 1 {
                    write!(f, " rows={}x{} x_row={} y_row={}", k.rows.count, k.outputs, k.rows.x, k.rows.y)?;
                }
                if !k.outside.is_empty() {
                    write!(f, " outside={}", k.outside.len())?;
                }
                write!(f, "{}", if k.bias { " bias" } else { "" })?;
                if k.epilogue.is_identity() { Ok(()) } else { write!(f, " epilogue={:?}", k.epilogue.to_string()) }
            }
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Int(k) => write!(f, "{k}"),
            Expr::Const(t, bits) if t.is_float() => write!(f, "{:?}:{t}", f64::from_bits(*bits)),
            Expr::Const(t, bits) => write!(f, "{}:{t}", *bits as i64),
            Expr::Var(v) => write!(f, "v{}", v.0),
            Expr::Load(b, i) => write!(f, "b{}[{i}]", b.0),
            Expr::Un(op, a) => write!(f, "{}({a})", format!("{op:?}").to_lowercase()),
            Expr::Bin(op, a, b) => match infix(*op) {
                Some(sign) => write!(f, "({a} {sign} {b})"),
                None => write!(f, "{}({a}, {b})", format!("{op:?}").to_lowercase()),
            },
            Expr::Fma(a, b, c) => write!(f, "fma({a}, {b}, {c})"),
            Expr::Select(c, a, b) => write!(f, "select({c}, {a}, {b})"),
            Expr::Cast(t, a) => write!(f, "{t}({a})"),
        }
    }
}

fn infix(op: BinOp) -> Option<&'static str> {
    Some(match op {
        BinOp::Add => "+",
        BinOp::Sub => "-",
        BinOp::Mul => "*",
        BinOp::Div => "/",
        BinOp::And => "&",
        BinOp::Or => "|",
        BinOp::Xor => "^",
        BinOp::Shl => "<<",
        BinOp::Shr => ">>",
        BinOp::Eq => "==",
        BinOp::Ne => "!=",
        BinOp::Lt => "<",
        BinOp::Le => "<=",
        BinOp::Gt => ">",
        BinOp::Ge => ">=",
        BinOp::Mod | BinOp::Rem | BinOp::Pow | BinOp::Min | BinOp::Max => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::scalar::UnOp;

    #[test]
    fn a_function_reads_like_a_program() {
        let mut f = Func { name: "relu".into(), ..Func::default() };
        let x = f.buf(DType::F32, BufKind::Input(0));
        let y = f.buf(DType::F32, BufKind::Output(0));
        let i = f.var(DType::I64);
        let at = Expr::Var(i).times(4).add(Expr::Int(2));
        let e = Expr::bin(BinOp::Max, Expr::un(UnOp::Neg, Expr::Load(x, Box::new(at.clone()))), Expr::f32(0.0));
        let store = Stmt::Store(y, at, e);
        let body = vec![Stmt::If(Expr::bin(BinOp::Lt, Expr::Var(i), Expr::Int(3)), vec![store], vec![])];
        f.body.push(Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(8), step: 2, kind: LoopKind::Vector, body });
        let text = "func @relu {\n  b0: f32 = input 0\n  b1: f32 = output 0\n  vector for v0 in 0..8 step 2 {\n    if (v0 < 3) {\n      \
                    b1[((v0 * 4) + 2)] = max(neg(b0[((v0 * 4) + 2)]), 0.0:f32)\n    }\n  }\n}\n";
        assert_eq!(f.to_string(), text);
    }
}
