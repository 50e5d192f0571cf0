//! Scalar programs in vector registers.
//!
//! A program's nodes are evaluated when they are first needed, operands that need more registers first; a register is given back, or
//! overwritten in place, at the last use of its value. Rare arms of selections are jumped over where no lane takes them.

mod centred;
mod held;
mod together;

use onnxc_ir::DType;
use onnxc_ir::kernel::EpilogueOperand;
use onnxc_ir::rare_arm::{self, RareArm};
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarOp, ScalarProgram, UnOp};

use crate::emitter::{Emitter, Mem, Opd, Ty, V, VUn};
use crate::error::Error;
use crate::limits;

pub(crate) use held::Held;
pub(crate) use together::Together;

/// The value of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Val {
    /// In a register that the evaluation may overwrite and frees.
    Own(V),
    /// In a register that belongs to someone else.
    Lent(V),
    /// A constant.
    Const(u32),
}

impl Val {
    pub(crate) fn opd(self) -> Opd {
        match self {
            Val::Own(v) | Val::Lent(v) => Opd::Reg(v),
            Val::Const(bits) => Opd::Const(bits),
        }
    }
}

/// Gives the value of program operand n.
pub(crate) type Args<'a> = dyn FnMut(&mut dyn Emitter, u8, DType) -> Result<Val, Error> + 'a;

/// One evaluation of a program.
pub(crate) struct Eval<'p> {
    program: &'p ScalarProgram,
    uses: Vec<u32>,
    vals: Vec<Option<Val>>,
    /// Registers that the subtree of each node needs at least (Sethi and Ullman 1970); an order, not a promise.
    need: Vec<u32>,
    rare: Vec<RareArm>,
    /// Where each value lies, and what is known of floats.
    limits: Vec<(f64, f64)>,
    known: Vec<limits::Known>,
    /// Constants in registers.
    held: Option<&'p Held>,
    /// True where [`Emitter::lesser`] is an instruction.
    lesser: bool,
}

/// What the lanes of a value of this type hold; errors for types that have no vector form here.
pub(crate) fn lane_type(dtype: DType) -> Result<Ty, Error> {
    use DType::*;
    match dtype {
        F32 | F16 => Ok(Ty::F32),
        I32 | U32 | U8 | I8 | U16 | I16 => Ok(Ty::I32),
        Bool => Ok(Ty::Mask),
        other => Err(Error::Unsupported(format!("vectors of {other}"))),
    }
}

/// The 32 bits of a constant of this type.
pub(crate) fn const_bits(dtype: DType, bits: u64) -> Result<u32, Error> {
    Ok(match lane_type(dtype)? {
        Ty::F32 => (f64::from_bits(bits) as f32).to_bits(),
        Ty::I32 => bits as u32,
        Ty::Mask => {
            if bits != 0 {
                u32::MAX
            } else {
                0
            }
        }
    })
}

impl<'p> Eval<'p> {
    /// Prepares an evaluation whose results are `roots`; each will be asked for once per mention. `lesser`: what [`Emitter::has_lesser`] says.
    pub(crate) fn new(program: &'p ScalarProgram, roots: &[NodeIx], lesser: bool) -> Eval<'p> {
        let n = program.nodes.len();
        let uses = rare_arm::uses(program, roots);
        let rare = rare_arm::rare_arms(program, &uses);
        let mut need: Vec<u32> = Vec::with_capacity(n);
        for node in &program.nodes {
            let mut of: Vec<u32> = node.op.operands().map(|o| need[o as usize]).collect();
            of.sort_unstable_by(|a, b| b.cmp(a));
            let most = of.iter().enumerate().map(|(i, k)| k + i as u32).max();
            need.push(match node.op {
                ScalarOp::Const(_) => 0,
                _ => most.unwrap_or(1).max(1),
            });
        }
        let (limits, known) = (limits::limits(program, &[]), limits::known(program, &[]));
        Eval { program, uses, vals: vec![None; n], need, rare, limits, known, held: None, lesser }
    }

    /// The same of an epilogue, of whose operands something may be known, and some of whose constants may be in registers.
    pub(crate) fn of_epilogue(
        program: &'p ScalarProgram,
        operands: &[EpilogueOperand],
        held: &'p Held,
        lesser: bool,
    ) -> Eval<'p> {
        let values = limits::values_of(operands);
        let (limits, known) = (limits::limits(program, &values), limits::known(program, &values));
        Eval { limits, known, held: Some(held), ..Eval::new(program, &[program.result()], lesser) }
    }

    /// The value of `n`, for one of its uses. An `Own` register is the caller's to free.
    pub(crate) fn take(&mut self, e: &mut dyn Emitter, n: NodeIx, args: &mut Args) -> Result<Val, Error> {
        self.compute(e, n, args)?;
        let i = n as usize;
        self.uses[i] -= 1;
        let val = self.vals[i].expect("internal: targets: just computed");
        Ok(match val {
            Val::Own(v) if self.uses[i] > 0 => Val::Lent(v),
            other => other,
        })
    }

    /// True when `n` is not computed yet and has one use left.
    pub(crate) fn is_fresh(&self, n: NodeIx) -> bool {
        self.vals[n as usize].is_none() && self.uses[n as usize] == 1
    }

    /// Gives up one use of a fresh node; the caller takes its operands instead.
    pub(crate) fn forgo(&mut self, n: NodeIx) {
        self.uses[n as usize] -= 1;
    }

    /// The value of `n` in a register, and whether the caller frees it.
    pub(crate) fn take_reg(&mut self, e: &mut dyn Emitter, n: NodeIx, args: &mut Args) -> Result<(V, bool), Error> {
        match self.take(e, n, args)? {
            Val::Own(v) => Ok((v, true)),
            Val::Lent(v) => Ok((v, false)),
            Val::Const(bits) => {
                let ty = lane_type(self.program.dtype(n))?;
                let v = e.alloc(ty)?;
                e.copy(ty, v, Opd::Const(bits))?;
                Ok((v, true))
            }
        }
    }

    fn compute(&mut self, e: &mut dyn Emitter, n: NodeIx, args: &mut Args) -> Result<(), Error> {
        if self.vals[n as usize].is_some() {
            return Ok(());
        }
        if let Some(arm) = self.rare.iter().position(|r| r.select == n) {
            let arm = self.rare.swap_remove(arm);
            self.vals[n as usize] = Some(self.guarded(e, &arm, args)?);
            return Ok(());
        }
        let node = self.program.nodes[n as usize];
        if let Some(real) = self.rounded_to_int(n) {
            return self.round_to_int(e, n, real, args);
        }
        if let Some(of) = self.centred(n) {
            return self.center(e, n, of, args);
        }
        for o in self.operands(n) {
            self.compute(e, o, args)?;
        }
        let val = match node.op {
            ScalarOp::Arg(a) => args(e, a, node.dtype)?,
            ScalarOp::Const(bits) => Val::Const(const_bits(node.dtype, bits)?),
            op => self.operate(e, op, node.dtype, args)?,
        };
        self.vals[n as usize] = Some(val);
        Ok(())
    }

    /// What a node is computed from, what needs more registers first.
    fn operands(&self, n: NodeIx) -> Vec<NodeIx> {
        if let Some(one) = self.rounded_to_int(n).or_else(|| Some(self.centred(n)?.x)) {
            return vec![one];
        }
        let mut order: Vec<NodeIx> = self.program.nodes[n as usize].op.operands().collect();
        order.sort_by_key(|o| std::cmp::Reverse(self.need[*o as usize]));
        order
    }

    /// A selection whose first arm is computed only if some lane takes it.
    fn guarded(&mut self, e: &mut dyn Emitter, arm: &RareArm, args: &mut Args) -> Result<Val, Error> {
        let node = self.program.nodes[arm.select as usize];
        let ScalarOp::Select(cond, rare, usual) = node.op else { unreachable!("internal: targets: a rare arm has a selection") };
        let ty = lane_type(node.dtype)?;
        // Registers must hold the same behind the branch whether it is taken or not: nothing is first computed in it but the arm.
        self.compute(e, usual, args)?;
        for input in arm.inputs(self.program) {
            self.compute(e, input, args)?;
        }
        let cond_val = self.take(e, cond, args)?;
        let (mask, temp) = in_register(e, Ty::Mask, cond_val.opd())?;
        let d = match self.take(e, usual, args)? {
            Val::Own(v) => v,
            other => {
                let v = e.alloc(ty)?;
                e.copy(ty, v, other.opd())?;
                v
            }
        };
        let open = e.if_any(mask)?;
        // In the program's own order, which who writes a rare arm chooses so that few registers do.
        for n in &arm.nodes {
            self.compute(e, *n, args)?;
        }
        let value = self.take(e, rare, args)?;
        e.select(ty, d, mask, value.opd(), Opd::Reg(d))?;
        if let Val::Own(v) = value {
            e.free(v);
        }
        e.end(open)?;
        if let Val::Own(v) = cond_val {
            e.free(v);
        }
        temp.into_iter().for_each(|t| e.free(t));
        Ok(Val::Own(d))
    }

    /// x, when node `n` is `i32(round(x))`, nothing else needs `round(x)`, and x is small enough for `VUn::ToNearest`.
    fn rounded_to_int(&self, n: NodeIx) -> Option<NodeIx> {
        let ScalarOp::Cast(source) = self.program.nodes[n as usize].op else { return None };
        let ScalarOp::Un(UnOp::Round, real) = self.program.nodes[source as usize].op else { return None };
        let types = (self.program.dtype(real), self.program.dtype(n)) == (DType::F32, DType::I32);
        let (low, high) = self.limits[real as usize];
        (types && self.is_fresh(source) && low >= -FAR && high <= FAR).then_some(real)
    }

    /// `i32(round(real))` as one conversion.
    fn round_to_int(&mut self, e: &mut dyn Emitter, n: NodeIx, real: NodeIx, args: &mut Args) -> Result<(), Error> {
        let ScalarOp::Cast(source) = self.program.nodes[n as usize].op else {
            unreachable!("internal: targets: a conversion");
        };
        self.forgo(source);
        let (v, own) = self.take_reg(e, real, args)?;
        let d = if own && e.any_type() { v } else { e.alloc(Ty::I32)? };
        let is_number = self.known[real as usize] >= limits::Known::Number;
        e.un(if is_number { VUn::NumberToNearest } else { VUn::ToNearest }, Ty::F32, d, v)?;
        if own && d != v {
            e.free(v);
        }
        self.vals[n as usize] = Some(Val::Own(d));
        Ok(())
    }

    /// Takes the operands of `op` and puts its value in one of their registers, or a new one.
    fn operate(&mut self, e: &mut dyn Emitter, op: ScalarOp, dtype: DType, args: &mut Args) -> Result<Val, Error> {
        let ty = lane_type(dtype)?;
        let operands: Vec<NodeIx> = op.operands().collect();
        let from = self.program.dtype(operands[0]);
        let mut vals = Vec::with_capacity(operands.len());
        for o in &operands {
            vals.push(self.take(e, *o, args)?);
        }
        if let Some(held) = self.held {
            held.replace(op, self.program, &mut vals);
        }
        let own: Vec<V> = vals.iter().filter_map(|v| if let Val::Own(v) = v { Some(*v) } else { None }).collect();
        let same_kind = |o: NodeIx| lane_type(self.program.dtype(o)).is_ok_and(|t| (t == Ty::F32) == (ty == Ty::F32));
        let stays = matches!(op, ScalarOp::Un(UnOp::Bitcast, _)) && e.any_type();
        let reuse = operands.iter().zip(&vals).find_map(|(o, v)| match v {
            Val::Own(v) if stays || same_kind(*o) => Some(*v),
            _ => None,
        });
        let d = match reuse {
            Some(v) => v,
            None => e.alloc(ty)?,
        };
        let at = |i: usize| vals[i].opd();
        match op {
            ScalarOp::Un(op, _) => unary(e, op, d, at(0), from, dtype)?,
            ScalarOp::Bin(op, ..) => binary(e, op, d, at(0), at(1), from)?,
            ScalarOp::Fma(..) if ty == Ty::F32 => e.fma(d, at(0), at(1), at(2))?,
            ScalarOp::Fma(..) => {
                let t = e.alloc(ty)?;
                binary(e, BinOp::Mul, t, at(0), at(1), from)?;
                binary(e, BinOp::Add, d, Opd::Reg(t), at(2), from)?;
                e.free(t);
            }
            ScalarOp::Select(..) => {
                let (mask, temp) = in_register(e, Ty::Mask, at(0))?;
                e.select(ty, d, mask, at(1), at(2))?;
                temp.into_iter().for_each(|t| e.free(t));
            }
            ScalarOp::Cast(source) => {
                let source_op = self.program.nodes[source as usize].op;
                if from == DType::F16 && !matches!(source_op, ScalarOp::Arg(_)) {
                    return Err(Error::Unsupported("rounding to f16 in the middle of a chain".to_string()));
                }
                let (low, high) = self.limits[source as usize];
                let fits = dtype.int_range().is_some_and(|(least, most)| low >= least as f64 && high <= most as f64);
                cast(e, d, at(0), (from, dtype), fits)?;
            }
            ScalarOp::Arg(_) | ScalarOp::Const(_) => unreachable!("internal: targets: leaves are handled before"),
        }
        own.into_iter().filter(|v| *v != d).for_each(|v| e.free(v));
        Ok(Val::Own(d))
    }
}

fn in_register(e: &mut dyn Emitter, ty: Ty, o: Opd) -> Result<(V, Option<V>), Error> {
    match o {
        Opd::Reg(v) => Ok((v, None)),
        Opd::Const(_) => {
            let t = e.alloc(ty)?;
            e.copy(ty, t, o)?;
            Ok((t, Some(t)))
        }
    }
}

/// Limit of `VUn::ToNearest`.
const FAR: f64 = 4_194_304.0;
const ONE: u32 = 0x3F80_0000;
const INFINITY: u32 = 0x7F80_0000;

fn unary(e: &mut dyn Emitter, op: UnOp, d: V, a: Opd, from: DType, to: DType) -> Result<(), Error> {
    let ty = lane_type(from)?;
    let wide = matches!(from, DType::F32 | DType::I32);
    let (v, temp) = in_register(e, ty, a)?;
    match op {
        UnOp::RecipNear if ty == Ty::F32 && e.estimates() => e.un(VUn::RecipNear, ty, d, v)?,
        UnOp::Recip | UnOp::RecipNear if ty == Ty::F32 => e.bin(BinOp::Div, ty, d, Opd::Const(ONE), Opd::Reg(v))?,
        UnOp::IsNan if ty == Ty::F32 => e.cmp(BinOp::Ne, ty, d, Opd::Reg(v), Opd::Reg(v))?,
        UnOp::IsInf if ty == Ty::F32 => {
            let t = e.alloc(ty)?;
            e.un(VUn::Abs, ty, t, v)?;
            e.cmp(BinOp::Eq, ty, d, Opd::Reg(t), Opd::Const(INFINITY))?;
            e.free(t);
        }
        UnOp::Bitcast => e.bitcast(d, lane_type(to)?, v, ty)?,
        UnOp::Not if ty == Ty::Mask || matches!(from, DType::I32 | DType::U32) => e.un(VUn::Not, ty, d, v)?,
        UnOp::Neg if wide => e.un(VUn::Neg, ty, d, v)?,
        UnOp::Abs if wide => e.un(VUn::Abs, ty, d, v)?,
        UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round if ty == Ty::I32 => e.copy(ty, d, Opd::Reg(v))?,
        UnOp::Sqrt if from == DType::F32 => e.un(VUn::Sqrt, ty, d, v)?,
        UnOp::Floor if from == DType::F32 => e.un(VUn::Floor, ty, d, v)?,
        UnOp::Ceil if from == DType::F32 => e.un(VUn::Ceil, ty, d, v)?,
        UnOp::Trunc if from == DType::F32 => e.un(VUn::Trunc, ty, d, v)?,
        UnOp::Round if from == DType::F32 => e.un(VUn::Round, ty, d, v)?,
        _ => return Err(Error::Unsupported(format!("{op:?} on vectors of {from}"))),
    }
    temp.into_iter().for_each(|t| e.free(t));
    Ok(())
}

fn binary(e: &mut dyn Emitter, op: BinOp, d: V, a: Opd, b: Opd, dtype: DType) -> Result<(), Error> {
    let ty = lane_type(dtype)?;
    let unsupported = || Err(Error::Unsupported(format!("{op:?} on vectors of {dtype}")));
    let order = matches!(op, BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge | BinOp::Min | BinOp::Max | BinOp::Shr);
    if dtype == DType::F16 || (dtype == DType::U32 && order) {
        return unsupported();
    }
    let narrow = !matches!(dtype, DType::F32 | DType::I32 | DType::U32 | DType::Bool);
    match op {
        _ if op.is_comparison() => e.cmp(op, ty, d, a, b),
        BinOp::Add | BinOp::Sub | BinOp::Mul if ty != Ty::Mask && !narrow => e.bin(op, ty, d, a, b),
        BinOp::Add | BinOp::Sub | BinOp::Mul if ty == Ty::I32 => {
            e.bin(op, ty, d, a, b)?;
            wrap(e, d, dtype)
        }
        BinOp::Div if ty == Ty::F32 => e.bin(op, ty, d, a, b),
        BinOp::Min | BinOp::Max if ty != Ty::Mask => e.bin(op, ty, d, a, b),
        BinOp::And | BinOp::Or | BinOp::Xor if ty != Ty::F32 => e.bin(op, ty, d, a, b),
        BinOp::Shl | BinOp::Shr if ty == Ty::I32 && !narrow && matches!(b, Opd::Const(n) if n < 32) => e.bin(op, ty, d, a, b),
        _ => unsupported(),
    }
}

/// Brings i32 lanes into the range of a type of at most 32 bits, modulo its size.
fn wrap(e: &mut dyn Emitter, d: V, to: DType) -> Result<(), Error> {
    let up = Opd::Const(32 - to.bits() as u32);
    match to {
        DType::U8 => e.bin(BinOp::And, Ty::I32, d, Opd::Reg(d), Opd::Const(0xFF)),
        DType::U16 => e.bin(BinOp::And, Ty::I32, d, Opd::Reg(d), Opd::Const(0xFFFF)),
        DType::I8 | DType::I16 => {
            e.bin(BinOp::Shl, Ty::I32, d, Opd::Reg(d), up)?;
            e.bin(BinOp::Shr, Ty::I32, d, Opd::Reg(d), up)
        }
        _ => Ok(()),
    }
}

/// Conversions as `ScalarOp::Cast` says. `fits`: the value is in the range of an integer type already.
fn cast(e: &mut dyn Emitter, d: V, a: Opd, (from, to): (DType, DType), fits: bool) -> Result<(), Error> {
    use DType::*;
    let (from_ty, to_ty) = (lane_type(from)?, lane_type(to)?);
    let (v, temp) = in_register(e, from_ty, a)?;
    let r = Opd::Reg(v);
    match (from_ty, to_ty) {
        (Ty::F32, Ty::F32) => e.copy(Ty::F32, d, r)?,
        (Ty::F32, Ty::I32) if to == I32 => e.un(VUn::ToInt, Ty::F32, d, v)?,
        (Ty::F32, Ty::I32) if to != U32 => {
            let (lo, hi) = to.int_range().expect("internal: targets: an integer type has a range");
            let t = e.alloc(Ty::F32)?;
            e.bin(BinOp::Max, Ty::F32, t, r, Opd::Const((lo as f32).to_bits()))?;
            e.bin(BinOp::Min, Ty::F32, t, Opd::Reg(t), Opd::Const((hi as f32).to_bits()))?;
            e.un(VUn::ToInt, Ty::F32, d, t)?;
            e.free(t);
        }
        (Ty::F32, Ty::Mask) => e.cmp(BinOp::Ne, Ty::F32, d, r, Opd::Const(0))?,
        (Ty::I32, Ty::F32) if from != U32 && to == F32 => e.un(VUn::ToFloat, Ty::I32, d, v)?,
        (Ty::I32, Ty::I32) => match to {
            _ if fits => e.copy(Ty::I32, d, r)?,
            _ => {
                e.copy(Ty::I32, d, r)?;
                wrap(e, d, to)?;
            }
        },
        (Ty::I32, Ty::Mask) => e.cmp(BinOp::Ne, Ty::I32, d, r, Opd::Const(0))?,
        (Ty::Mask, Ty::F32) if to == F32 => e.select(Ty::F32, d, v, Opd::Const(ONE), Opd::Const(0))?,
        (Ty::Mask, Ty::I32) => e.bin(BinOp::And, Ty::I32, d, r, Opd::Const(1))?,
        (Ty::Mask, Ty::Mask) => e.copy(Ty::Mask, d, r)?,
        _ => return Err(Error::Unsupported(format!("conversion of vectors from {from} to {to}"))),
    }
    temp.into_iter().for_each(|t| e.free(t));
    Ok(())
}

/// Loads the value of a program operand: neighbours or one element for all lanes.
pub(crate) fn load_operand(
    e: &mut dyn Emitter,
    dtype: DType,
    at: Mem,
    neighbours: bool,
    lanes: crate::emitter::Lanes,
) -> Result<Val, Error> {
    if !e.memory(dtype) {
        return Err(Error::Unsupported(format!("vectors of {dtype}")));
    }
    let v = e.alloc(lane_type(dtype)?)?;
    if neighbours {
        e.load(v, dtype, at, lanes)?
    } else {
        e.splat(v, dtype, at)?
    }
    Ok(Val::Own(v))
}
