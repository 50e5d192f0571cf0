//! Scalar operations: one value of one element type, with the meaning that `onnxc_ir::scalar` gives it.
//!
//! Nothing here may end in a library call: rounding on x86-64 without SSE4.1, fused multiply-add without FMA and
//! remainders of floats are written out. Storage floats (f16, bf16, 8-bit) are integers here; arithmetic on them goes through f32.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::FunctionBuilder;
use onnxc_ir::DType;
use onnxc_ir::rare_arm::{self, RareArm};
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp, ScalarProgram, UnOp};

use crate::error::{Error, Result};
use crate::{float, integer};

/// What the instruction set offers without a library call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caps {
    /// floor, ceil, trunc, nearest.
    pub round: bool,
    /// Fused multiply-add.
    pub fma: bool,
}

impl Caps {
    /// Reads the flags of an instruction set.
    pub fn of(isa: &dyn TargetIsa) -> Caps {
        let has = |name: &str| isa.isa_flags().iter().any(|f| f.name == name && f.as_bool() == Some(true));
        let x86 = isa.triple().architecture == target_lexicon::Architecture::X86_64;
        Caps { round: !x86 || has("has_sse41"), fma: !x86 || has("has_fma") }
    }
}

/// The Cranelift type that a value of an element type has in registers.
pub(crate) fn clif_type(dtype: DType) -> Result<Type> {
    Ok(match dtype {
        DType::F32 => types::F32,
        DType::F64 => types::F64,
        DType::I8 | DType::U8 | DType::Bool | DType::I4 | DType::U4 | DType::I2 | DType::U2 => types::I8,
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => types::I16,
        DType::I32 | DType::U32 => types::I32,
        DType::I64 | DType::U64 => types::I64,
        t if float::is_small(t) => types::I8,
        t => return Err(Error::unsupported(format!("element type {t} in generated code"))),
    })
}

/// True for floats that exist only in memory and in casts.
pub(crate) fn is_storage(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16) || float::is_small(dtype)
}

/// A constant; `bits` as in `ScalarOp::Const`.
pub(crate) fn constant(b: &mut FunctionBuilder, dtype: DType, bits: u64) -> Result<Value> {
    Ok(match dtype {
        DType::F32 => b.ins().f32const(f64::from_bits(bits) as f32),
        DType::F64 => b.ins().f64const(f64::from_bits(bits)),
        t if float::is_small(t) => {
            let code = onnxc_ir::small_float::encode(t, f64::from_bits(bits), false);
            int_const(b, types::I8, i64::from(code.expect("internal: a small float")))
        }
        t if is_storage(t) => {
            let x = b.ins().f64const(f64::from_bits(bits));
            float::from_f64(b, t, x)?
        }
        t => int_const(b, clif_type(t)?, bits as i64),
    })
}

/// An integer constant of a Cranelift type, truncated to its width.
pub(crate) fn int_const(b: &mut FunctionBuilder, ty: Type, value: i64) -> Value {
    let mask = if ty.bits() == 64 { u64::MAX } else { (1u64 << ty.bits()) - 1 };
    b.ins().iconst(ty, (value as u64 & mask) as i64)
}

/// One operand.
pub(crate) fn un(b: &mut FunctionBuilder, caps: Caps, op: UnOp, dtype: DType, a: Value) -> Result<Value> {
    if is_storage(dtype) {
        let wide = float::to_f32(b, dtype, a)?;
        let r = un(b, caps, op, DType::F32, wide)?;
        return if matches!(op, UnOp::IsNan | UnOp::IsInf) { Ok(r) } else { float::from_f32(b, dtype, r) };
    }
    if dtype.is_float() { float_un(b, caps, op, dtype, a) } else { integer::un(b, op, dtype, a) }
}

fn float_un(b: &mut FunctionBuilder, caps: Caps, op: UnOp, dtype: DType, a: Value) -> Result<Value> {
    let flag = MemFlagsData::new();
    Ok(match op {
        UnOp::Neg => b.ins().fneg(a),
        UnOp::Abs => b.ins().fabs(a),
        UnOp::Sqrt => b.ins().sqrt(a),
        UnOp::Recip | UnOp::RecipNear => {
            let one = constant(b, dtype, 1f64.to_bits())?;
            b.ins().fdiv(one, a)
        }
        UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round if caps.round => match op {
            UnOp::Floor => b.ins().floor(a),
            UnOp::Ceil => b.ins().ceil(a),
            UnOp::Trunc => b.ins().trunc(a),
            _ => b.ins().nearest(a),
        },
        UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round => float::round_in_software(b, op, dtype, a)?,
        UnOp::Sign => {
            let (zero, one) = (constant(b, dtype, 0)?, constant(b, dtype, 1f64.to_bits())?);
            let signed = b.ins().fcopysign(one, a);
            let nonzero = b.ins().fcmp(FloatCC::OrderedNotEqual, a, zero);
            // Zero and NaN are their own answers; -0.0 becomes 0.0 like everywhere else.
            let nan = b.ins().fcmp(FloatCC::Unordered, a, a);
            let rest = b.ins().select(nan, a, zero);
            b.ins().select(nonzero, signed, rest)
        }
        UnOp::IsNan => b.ins().fcmp(FloatCC::Unordered, a, a),
        UnOp::IsInf => {
            let abs = b.ins().fabs(a);
            let inf = constant(b, dtype, f64::INFINITY.to_bits())?;
            b.ins().fcmp(FloatCC::Equal, abs, inf)
        }
        UnOp::Bitcast => b.ins().bitcast(if dtype == DType::F32 { types::I32 } else { types::I64 }, flag, a),
        _ => return function(b, caps, ScalarOp::Un(op, 0), dtype, &[a]),
    })
}

/// A mathematical function, written out in the operations of this file.
fn function(b: &mut FunctionBuilder, caps: Caps, op: ScalarOp, dtype: DType, args: &[Value]) -> Result<Value> {
    let mut program = ScalarProgram::default();
    let nodes: Vec<u16> = (0..args.len()).map(|n| program.arg(n as u8, dtype)).collect();
    let result = program.push(op.map_operands(|o| nodes[o as usize]), dtype);
    let expanded = onnxc_ir::math::expand(&program.finish(result));
    let same = |n: &ScalarNode| {
        std::mem::discriminant(&n.op) == std::mem::discriminant(&op) && n.op.map_operands(|_| 0) == op.map_operands(|_| 0)
    };
    if expanded.nodes.iter().any(same) {
        return Err(Error::unsupported(format!("{op:?} of {dtype}")));
    }
    let rare = rare_arm::rare_arms(&expanded, &rare_arm::uses(&expanded, &[expanded.result()]));
    let mut eval = Eval { program: &expanded, rare, args, values: vec![None; expanded.nodes.len()] };
    let outside: Vec<NodeIx> = (0..=expanded.result()).filter(|n| !eval.rare.iter().any(|arm| arm.contains(*n))).collect();
    eval.run(b, caps, &outside)?;
    Ok(eval.get(expanded.result()).1)
}

/// Evaluation of a program in basic operations; its rare arms stand behind branches.
struct Eval<'a> {
    program: &'a ScalarProgram,
    rare: Vec<RareArm>,
    args: &'a [Value],
    values: Vec<Option<Value>>,
}

impl Eval<'_> {
    fn get(&self, n: NodeIx) -> (DType, Value) {
        (self.program.dtype(n), self.values[n as usize].expect("internal: codegen: operands come first"))
    }

    fn run(&mut self, b: &mut FunctionBuilder, caps: Caps, nodes: &[NodeIx]) -> Result<()> {
        for &n in nodes {
            let node = self.program.nodes[n as usize];
            let get = |n| self.get(n);
            let value = match node.op {
                ScalarOp::Arg(n) => self.args[n as usize],
                ScalarOp::Const(bits) => constant(b, node.dtype, bits)?,
                ScalarOp::Un(op, x) => un(b, caps, op, get(x).0, get(x).1)?,
                ScalarOp::Bin(op, x, y) => bin(b, caps, op, get(x).0, get(x).1, get(y).1)?,
                ScalarOp::Fma(x, y, z) => fma(b, caps, node.dtype, get(x).1, get(y).1, get(z).1)?,
                ScalarOp::Select(c, x, y) => match self.rare.iter().position(|arm| arm.select == n) {
                    Some(arm) => self.branch(b, caps, arm, (c, x, y))?,
                    None => b.ins().select(get(c).1, get(x).1, get(y).1),
                },
                ScalarOp::Cast(x) => cast(b, get(x).0, node.dtype, get(x).1)?,
            };
            self.values[n as usize] = Some(value);
        }
        Ok(())
    }

    /// A selection whose first arm is computed only if it is taken.
    fn branch(
        &mut self,
        b: &mut FunctionBuilder,
        caps: Caps,
        arm: usize,
        (cond, rare, usual): (NodeIx, NodeIx, NodeIx),
    ) -> Result<Value> {
        let arm = self.rare[arm].nodes.clone();
        let ((_, cond), (_, usual)) = (self.get(cond), self.get(usual));
        let (taken, done) = (b.create_block(), b.create_block());
        let result = b.append_block_param(done, b.func.dfg.value_type(usual));
        b.ins().brif(cond, taken, &[], done, &[usual.into()]);
        b.switch_to_block(taken);
        b.seal_block(taken);
        // An arm inside this one has its own branch.
        let inner = |n: &NodeIx| self.rare.iter().any(|r| r.nodes.len() < arm.len() && r.contains(*n));
        let own: Vec<NodeIx> = arm.iter().copied().filter(|n| !inner(n)).collect();
        self.run(b, caps, &own)?;
        let value = self.get(rare).1;
        b.ins().jump(done, &[value.into()]);
        b.switch_to_block(done);
        b.seal_block(done);
        Ok(result)
    }
}

/// Two operands of one type.
pub(crate) fn bin(b: &mut FunctionBuilder, caps: Caps, op: BinOp, dtype: DType, x: Value, y: Value) -> Result<Value> {
    if is_storage(dtype) {
        let (wx, wy) = (float::to_f32(b, dtype, x)?, float::to_f32(b, dtype, y)?);
        let r = bin(b, caps, op, DType::F32, wx, wy)?;
        return if op.is_comparison() { Ok(r) } else { float::from_f32(b, dtype, r) };
    }
    if !dtype.is_float() {
        return integer::bin(b, op, dtype, x, y);
    }
    Ok(match op {
        BinOp::Add => b.ins().fadd(x, y),
        BinOp::Sub => b.ins().fsub(x, y),
        BinOp::Mul => b.ins().fmul(x, y),
        BinOp::Div => b.ins().fdiv(x, y),
        BinOp::Min => b.ins().fmin(x, y),
        BinOp::Max => b.ins().fmax(x, y),
        BinOp::Rem => float::rem(b, dtype, x, y),
        BinOp::Mod => {
            // Python's: a non-zero remainder takes the sign of the divisor by adding it once, a zero by its sign bit.
            let r = float::rem(b, dtype, x, y);
            let zero = constant(b, dtype, 0)?;
            let (rn, yn) = (b.ins().fcmp(FloatCC::LessThan, r, zero), b.ins().fcmp(FloatCC::LessThan, y, zero));
            let differ = b.ins().bxor(rn, yn);
            let nonzero = b.ins().fcmp(FloatCC::OrderedNotEqual, r, zero);
            let fix = b.ins().band(differ, nonzero);
            let moved = b.ins().fadd(r, y);
            let none = b.ins().fcmp(FloatCC::Equal, r, zero);
            let signed = b.ins().fcopysign(zero, y);
            let kept = b.ins().select(none, signed, r);
            b.ins().select(fix, moved, kept)
        }
        BinOp::Eq => b.ins().fcmp(FloatCC::Equal, x, y),
        BinOp::Ne => b.ins().fcmp(FloatCC::NotEqual, x, y),
        BinOp::Lt => b.ins().fcmp(FloatCC::LessThan, x, y),
        BinOp::Le => b.ins().fcmp(FloatCC::LessThanOrEqual, x, y),
        BinOp::Gt => b.ins().fcmp(FloatCC::GreaterThan, x, y),
        BinOp::Ge => b.ins().fcmp(FloatCC::GreaterThanOrEqual, x, y),
        BinOp::Pow => return function(b, caps, ScalarOp::Bin(op, 0, 1), dtype, &[x, y]),
        BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr => {
            return Err(Error::unsupported(format!("{op:?} of {dtype}")));
        }
    })
}

/// `a*b + c`.
pub(crate) fn fma(b: &mut FunctionBuilder, caps: Caps, dtype: DType, x: Value, y: Value, z: Value) -> Result<Value> {
    if caps.fma && matches!(dtype, DType::F32 | DType::F64) {
        return Ok(b.ins().fma(x, y, z));
    }
    let product = bin(b, caps, BinOp::Mul, dtype, x, y)?;
    bin(b, caps, BinOp::Add, dtype, product, z)
}

/// Conversion: float to int truncates and saturates (NaN gives 0; a type below a byte takes the low bits of an i32), int to int wraps, to bool is
/// `!= 0`.
pub(crate) fn cast(b: &mut FunctionBuilder, from: DType, to: DType, a: Value) -> Result<Value> {
    if from == to {
        return Ok(a);
    }
    if is_storage(from) {
        let wide = float::to_f32(b, from, a)?;
        return cast(b, DType::F32, to, wide);
    }
    if is_storage(to) {
        return match from {
            DType::F32 => float::from_f32(b, to, a),
            _ => {
                // Through f64: exact for integers of up to 32 bits, and rounding to odd on the way down keeps one rounding.
                let wide = cast(b, from, DType::F64, a)?;
                float::from_f64(b, to, wide)
            }
        };
    }
    let (ty, _) = (clif_type(to)?, clif_type(from)?);
    Ok(match (from.is_float(), to.is_float()) {
        (true, true) if to == DType::F64 => b.ins().fpromote(ty, a),
        (true, true) => b.ins().fdemote(ty, a),
        (false, true) => integer::to_float(b, from, ty, a),
        (_, false) if to == DType::Bool => {
            if from.is_float() {
                let zero = constant(b, from, 0)?;
                b.ins().fcmp(FloatCC::NotEqual, a, zero)
            } else {
                b.ins().icmp_imm_u(IntCC::NotEqual, a, 0)
            }
        }
        (true, false) => integer::from_float(b, to, a),
        (false, false) => {
            let r = integer::resize(b, from, ty, a);
            integer::low_bits(b, to, r)
        }
    })
}
