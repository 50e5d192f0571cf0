//! A tiny interpreter of the loop IR, and plans around single functions: what the tests compare compiled code with.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod cases;
pub mod link;

use half::{bf16, f16};
use onnxc_ir::lir::{BufId, BufKind, Expr, Func, Stmt, Var};
use onnxc_ir::plan::{Io, Place, Plan, Step};
use onnxc_ir::scalar::{BinOp, UnOp};
use onnxc_ir::{DType, Dim, TensorType};

/// A value: floats as f64 (exact for all narrower types), everything else as the integer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum V {
    F(f64),
    I(i128),
}

impl V {
    pub fn f(self) -> f64 {
        match self {
            V::F(x) => x,
            V::I(x) => x as f64,
        }
    }
    pub fn i(self) -> i128 {
        match self {
            V::I(x) => x,
            V::F(x) => panic!("{x} is not an integer"),
        }
    }
}

/// Rounds or wraps into a type.
pub fn fit(t: DType, v: V) -> V {
    match (t, v) {
        (DType::F32, V::F(x)) => V::F(f64::from(x as f32)),
        (DType::F16, V::F(x)) => V::F(f16::from_f64(x).to_f64()),
        (DType::BF16, V::F(x)) => V::F(bf16::from_f64(x).to_f64()),
        (DType::F64, v) => v,
        (_, V::I(x)) => V::I(wrap(t, x)),
        (t, v) => panic!("{v:?} as {t}"),
    }
}

fn wrap(t: DType, x: i128) -> i128 {
    if t == DType::Bool {
        return i128::from(x != 0);
    }
    let bits = t.bits() as u32;
    let low = x & ((1i128 << bits) - 1);
    if t.is_signed_int() && low >> (bits - 1) & 1 == 1 { low - (1i128 << bits) } else { low }
}

pub fn read(t: DType, b: &[u8]) -> V {
    let n = b.iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
    match t {
        DType::F32 => V::F(f64::from(f32::from_bits(n as u32))),
        DType::F64 => V::F(f64::from_bits(n)),
        DType::F16 => V::F(f16::from_bits(n as u16).to_f64()),
        DType::BF16 => V::F(bf16::from_bits(n as u16).to_f64()),
        t => V::I(wrap(t, i128::from(n))),
    }
}

pub fn write(t: DType, v: V, b: &mut [u8]) {
    let n = match (t, v) {
        (DType::F32, V::F(x)) => u64::from((x as f32).to_bits()),
        (DType::F64, V::F(x)) => x.to_bits(),
        (DType::F16, V::F(x)) => u64::from(f16::from_f64(x).to_bits()),
        (DType::BF16, V::F(x)) => u64::from(bf16::from_f64(x).to_bits()),
        (_, V::I(x)) => x as u64,
        (t, v) => panic!("{v:?} as {t}"),
    };
    b.copy_from_slice(&n.to_le_bytes()[..b.len()]);
}

/// One operand.
pub fn un(op: UnOp, t: DType, v: V) -> V {
    if let V::I(x) = v {
        return fit(
            if matches!(op, UnOp::IsNan | UnOp::IsInf) { DType::Bool } else { t },
            V::I(match op {
                UnOp::Neg => -x,
                UnOp::Abs => x.abs(),
                UnOp::Sign => x.signum(),
                UnOp::Not if t == DType::Bool => 1 - x,
                UnOp::Not => !x,
                UnOp::IsNan | UnOp::IsInf => 0,
                UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round => x,
                UnOp::Bitcast => return V::F(f64::from(f32::from_bits(x as u32))),
                op => panic!("{op:?}"),
            }),
        );
    }
    let x = v.f();
    let y = match op {
        UnOp::Neg => -x,
        UnOp::Abs => x.abs(),
        UnOp::Sqrt => x.sqrt(),
        UnOp::Recip | UnOp::RecipNear => 1.0 / x,
        UnOp::Floor => x.floor(),
        UnOp::Ceil => x.ceil(),
        UnOp::Trunc => x.trunc(),
        UnOp::Round => x.round_ties_even(),
        UnOp::Sign if x == 0.0 => 0.0,
        UnOp::Sign if x.is_nan() => x,
        UnOp::Sign => x.signum(),
        UnOp::IsNan => return V::I(i128::from(x.is_nan())),
        UnOp::IsInf => return V::I(i128::from(x.is_infinite())),
        UnOp::Bitcast => return V::I(i128::from((x as f32).to_bits() as i32)),
        op => panic!("{op:?}"),
    };
    fit(t, V::F(y))
}

/// Two operands of type `t`.
pub fn bin(op: BinOp, t: DType, a: V, b: V) -> V {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let truth = |x: bool| V::I(i128::from(x));
    if op.is_comparison() {
        let order = match (a, b) {
            (V::I(a), V::I(b)) => Some(a.cmp(&b)),
            _ => a.f().partial_cmp(&b.f()),
        };
        return truth(match op {
            BinOp::Eq => order == Some(Equal),
            BinOp::Ne => order != Some(Equal),
            BinOp::Lt => order == Some(Less),
            BinOp::Le => matches!(order, Some(Less | Equal)),
            BinOp::Gt => order == Some(Greater),
            _ => matches!(order, Some(Greater | Equal)),
        });
    }
    if let (V::I(a), V::I(b)) = (a, b) {
        let width = t.bits() as i128;
        let r = match op {
            BinOp::Add => a + b,
            BinOp::Sub => a - b,
            BinOp::Mul => return V::I(wrap(t, (a as u64).wrapping_mul(b as u64) as i128)),
            BinOp::Div => a.checked_div(b).unwrap_or(0),
            BinOp::Rem => a.checked_rem(b).unwrap_or(0),
            BinOp::Mod if b == 0 => 0,
            BinOp::Mod => a - b * a.div_euclid(b) - if a.rem_euclid(b) != 0 && b < 0 { -b } else { 0 },
            BinOp::Pow => return int_pow(t, a, b),
            BinOp::Min => a.min(b),
            BinOp::Max => a.max(b),
            BinOp::And => a & b,
            BinOp::Or => a | b,
            BinOp::Xor => a ^ b,
            BinOp::Shl => ((a as u64) << (b & (width - 1))) as i128,
            BinOp::Shr => a >> (b & (width - 1)),
            op => panic!("{op:?}"),
        };
        return fit(t, V::I(r));
    }
    let (x, y) = (a.f(), b.f());
    let nan = x.is_nan() || y.is_nan();
    fit(
        t,
        V::F(match op {
            BinOp::Add => x + y,
            BinOp::Sub => x - y,
            BinOp::Mul => x * y,
            BinOp::Div => x / y,
            BinOp::Rem => x % y,
            BinOp::Mod => {
                let r = x % y;
                if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
            }
            BinOp::Min | BinOp::Max if nan => f64::NAN,
            BinOp::Min => x.min(y),
            BinOp::Max => x.max(y),
            op => panic!("{op:?}"),
        }),
    )
}

fn int_pow(t: DType, a: i128, b: i128) -> V {
    if b < 0 {
        let unit = if a == 1 {
            1
        } else if a == -1 {
            if b % 2 == 0 { 1 } else { -1 }
        } else {
            0
        };
        return V::I(unit);
    }
    let mut r = 1u64;
    let (mut base, mut e) = (a as u64, b as u64);
    while e > 0 {
        if e & 1 == 1 {
            r = r.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        e >>= 1;
    }
    V::I(wrap(t, r as i128))
}

/// Conversion.
pub fn cast(from: DType, to: DType, v: V) -> V {
    let _ = from;
    match v {
        v if to == DType::Bool => V::I(i128::from(match v {
            V::F(x) => x != 0.0,
            V::I(x) => x != 0,
        })),
        V::F(x) if to.is_float() => fit(to, V::F(x)),
        V::I(x) if to.is_float() => match to {
            DType::F32 => V::F(f64::from(x as f32)),
            to => fit(to, V::F(x as f64)),
        },
        V::I(x) => V::I(wrap(to, x)),
        V::F(x) => {
            let (lo, hi) = to.int_range().unwrap();
            V::I(if x.is_nan() { 0 } else { (x.trunc() as i128).clamp(lo, hi) })
        }
    }
}

pub struct Interp<'a> {
    pub func: &'a Func,
    pub bufs: Vec<Vec<u8>>,
    pub vars: Vec<V>,
}

impl Interp<'_> {
    pub fn expr(&self, e: &Expr) -> V {
        let t = self.func.dtype(e);
        match e {
            Expr::Int(k) => V::I(i128::from(*k)),
            Expr::Const(t, bits) if t.is_float() => fit(*t, V::F(f64::from_bits(*bits))),
            Expr::Const(t, bits) => fit(*t, V::I(i128::from(*bits as i64))),
            Expr::Var(v) => self.vars[v.0 as usize],
            Expr::Load(b, i) => {
                let n = t.bytes() as usize;
                let at = self.expr(i).i() as usize * n;
                read(t, &self.bufs[b.0 as usize][at..at + n])
            }
            Expr::Un(op, a) => un(*op, self.func.dtype(a), self.expr(a)),
            Expr::Bin(op, a, b) => bin(*op, self.func.dtype(a), self.expr(a), self.expr(b)),
            Expr::Fma(a, b, c) if t == DType::F32 => {
                let (a, b, c) = (self.expr(a).f() as f32, self.expr(b).f() as f32, self.expr(c).f() as f32);
                V::F(f64::from(a.mul_add(b, c)))
            }
            Expr::Fma(a, b, c) if t == DType::F64 => V::F(self.expr(a).f().mul_add(self.expr(b).f(), self.expr(c).f())),
            Expr::Fma(a, b, c) => bin(BinOp::Add, t, bin(BinOp::Mul, t, self.expr(a), self.expr(b)), self.expr(c)),
            Expr::Select(c, a, b) => {
                if self.expr(c).i() != 0 {
                    self.expr(a)
                } else {
                    self.expr(b)
                }
            }
            Expr::Cast(to, a) => cast(self.func.dtype(a), *to, self.expr(a)),
        }
    }

    pub fn run(&mut self, block: &[Stmt]) {
        for stmt in block {
            match stmt {
                Stmt::For { var, lo, hi, step, body, .. } => {
                    let (mut at, hi) = (self.expr(lo).i(), self.expr(hi).i());
                    while at < hi {
                        self.vars[var.0 as usize] = V::I(at);
                        self.run(body);
                        at += i128::from(*step);
                    }
                }
                Stmt::Set(v, e) => self.vars[v.0 as usize] = self.expr(e),
                Stmt::Store(b, i, e) => {
                    let t = self.func.bufs[b.0 as usize].dtype;
                    let n = t.bytes() as usize;
                    let (at, v) = (self.expr(i).i() as usize * n, self.expr(e));
                    write(t, v, &mut self.bufs[b.0 as usize][at..at + n]);
                }
                Stmt::If(c, a, b) => {
                    let taken = if self.expr(c).i() != 0 { a } else { b };
                    self.run(taken);
                }
                Stmt::While(c, body) => {
                    while self.expr(c).i() != 0 {
                        self.run(body);
                    }
                }
                Stmt::Call(..) => panic!("kernels are tested with the targets"),
            }
        }
    }
}

/// A function being built: inputs and outputs are flat arrays.
#[derive(Default)]
pub struct Fun {
    pub func: Func,
    pub sizes: Vec<u64>,
}

impl Fun {
    pub fn new(name: &str) -> Fun {
        Fun { func: Func { name: name.to_string(), ..Func::default() }, sizes: vec![] }
    }
    pub fn input(&mut self, t: DType, n: u64) -> BufId {
        let k = self.func.bufs.iter().filter(|b| matches!(b.kind, BufKind::Input(_))).count();
        self.sizes.push(n);
        self.func.buf(t, BufKind::Input(k))
    }
    pub fn output(&mut self, t: DType, n: u64) -> BufId {
        let k = self.func.bufs.iter().filter(|b| matches!(b.kind, BufKind::Output(_))).count();
        self.sizes.push(n);
        self.func.buf(t, BufKind::Output(k))
    }
    pub fn scratch(&mut self, t: DType, n: u64, per_worker: bool) -> BufId {
        self.sizes.push(n);
        self.func.buf(t, BufKind::Scratch { bytes: n * t.bytes(), per_worker })
    }
    pub fn constant(&mut self, t: DType, bytes: Vec<u8>) -> BufId {
        self.sizes.push(bytes.len() as u64 / t.bytes());
        self.func.buf(t, BufKind::Const(bytes.into()))
    }
    pub fn var(&mut self, t: DType) -> Var {
        self.func.var(t)
    }
    pub fn push(&mut self, s: Stmt) {
        self.func.body.push(s);
    }
    /// A plan with this function as its only step.
    pub fn plan(&self) -> Plan {
        let mut plan = Plan {
            inputs: vec![],
            outputs: vec![],
            steps: vec![],
            weights: vec![],
            weights_bytes: 0,
            arena_shared: Dim::from(0u64),
            scratch_per_worker: Dim::from(0u64),
            sizes: None,
            bounds: Default::default(),
            counts: vec![],
            rooms: vec![],
            end: Default::default(),
        };
        let (mut arena, mut scratch) = (0u64, 0u64);
        let mut places = vec![];
        for (buf, n) in self.func.bufs.iter().zip(&self.sizes) {
            let ty = TensorType { dtype: buf.dtype, shape: vec![Dim::from(*n)] };
            let bytes = (n * buf.dtype.bytes()).next_multiple_of(64);
            places.push(match &buf.kind {
                BufKind::Input(k) => {
                    plan.inputs.push(Io { name: format!("x{k}"), ty, alias: None });
                    Place::Input(*k as u32)
                }
                BufKind::Output(k) => {
                    plan.outputs.push(Io { name: format!("y{k}"), ty, alias: None });
                    Place::Output(*k as u32)
                }
                BufKind::Const(b) => {
                    let at = plan.weights_bytes;
                    plan.weights.push((at, b.clone()));
                    plan.weights_bytes += bytes;
                    Place::Weights(at)
                }
                BufKind::Scratch { per_worker: false, .. } => {
                    arena += bytes;
                    Place::Arena(arena - bytes)
                }
                BufKind::Scratch { per_worker: true, .. } => {
                    scratch += bytes;
                    Place::WorkerScratch(scratch - bytes)
                }
                BufKind::Sizes | BufKind::Same(_) => panic!("these functions have no open sizes, and no memory of two types"),
            });
        }
        plan.arena_shared = Dim::from(arena);
        plan.scratch_per_worker = Dim::from(scratch);
        plan.steps.push(Step::Call { func: self.func.clone(), places, origins: vec!["n".into()], op: "test".into() });
        plan
    }

    /// What the interpreter answers.
    pub fn interpret(&self, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut bufs = vec![];
        for (buf, n) in self.func.bufs.iter().zip(&self.sizes) {
            bufs.push(match &buf.kind {
                BufKind::Input(k) => inputs[*k].clone(),
                BufKind::Const(b) => b.ready().unwrap().to_vec(),
                _ => vec![0; (n * buf.dtype.bytes()) as usize],
            });
        }
        let mut it = Interp { func: &self.func, bufs, vars: vec![V::I(0); self.func.vars.len()] };
        it.run(&self.func.body);
        let outputs = self.func.bufs.iter().zip(it.bufs).filter(|(b, _)| matches!(b.kind, BufKind::Output(_)));
        outputs.map(|(_, bytes)| bytes).collect()
    }
}

/// Two buffers hold the same values; NaNs are equal to each other, and subnormal floats to zero (code runs with flush-to-zero).
pub fn assert_same(t: DType, got: &[u8], want: &[u8], what: &str) {
    let n = t.bytes() as usize;
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.chunks(n).zip(want.chunks(n)).enumerate() {
        let (g, w) = (read(t, g), read(t, w));
        let same = match (g, w) {
            (V::F(a), V::F(b)) => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() || a == b || tiny(t, a) && tiny(t, b),
            (a, b) => a == b,
        };
        assert!(same, "{what}: element {i}: compiled {g:?}, interpreted {w:?}");
    }
}

fn tiny(t: DType, x: f64) -> bool {
    match t {
        DType::F32 | DType::BF16 => x.abs() <= f64::from(f32::MIN_POSITIVE),
        DType::F64 => x.abs() <= f64::MIN_POSITIVE,
        _ => false,
    }
}
