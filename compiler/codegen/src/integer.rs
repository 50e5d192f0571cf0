//! Integer and bool scalar operations: wrapping arithmetic, division that never traps, conversions that saturate.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_frontend::FunctionBuilder;
use onnxc_ir::DType;
use onnxc_ir::scalar::{BinOp, UnOp};

use crate::error::{Error, Result};
use crate::scalar::{clif_type, int_const};

/// One operand.
pub(crate) fn un(b: &mut FunctionBuilder, op: UnOp, dtype: DType, a: Value) -> Result<Value> {
    let ty = b.func.dfg.value_type(a);
    Ok(match op {
        UnOp::Neg => b.ins().ineg(a),
        UnOp::Abs if dtype.is_signed_int() => {
            let negative = b.ins().icmp_imm_s(IntCC::SignedLessThan, a, 0);
            let minus = b.ins().ineg(a);
            b.ins().select(negative, minus, a)
        }
        UnOp::Sign if dtype.is_signed_int() => {
            let (plus, minus) =
                (b.ins().icmp_imm_s(IntCC::SignedGreaterThan, a, 0), b.ins().icmp_imm_s(IntCC::SignedLessThan, a, 0));
            let r = b.ins().isub(plus, minus);
            if ty == types::I8 { r } else { b.ins().sextend(ty, r) }
        }
        UnOp::Sign => {
            let r = b.ins().icmp_imm_u(IntCC::NotEqual, a, 0);
            if ty == types::I8 { r } else { b.ins().uextend(ty, r) }
        }
        UnOp::Not if dtype == DType::Bool => b.ins().bxor_imm_u(a, 1),
        UnOp::Not => b.ins().bnot(a),
        // Whole numbers are their own absolute value (unsigned), floor, ceiling, ...
        UnOp::Abs | UnOp::Floor | UnOp::Ceil | UnOp::Trunc | UnOp::Round => a,
        UnOp::IsNan | UnOp::IsInf => b.ins().iconst(types::I8, 0),
        UnOp::Bitcast if dtype == DType::I32 => b.ins().bitcast(types::F32, MemFlagsData::new(), a),
        UnOp::Bitcast if dtype == DType::I64 => b.ins().bitcast(types::F64, MemFlagsData::new(), a),
        _ => return Err(Error::unsupported(format!("{op:?} of {dtype}"))),
    })
}

/// Two operands of one type.
pub(crate) fn bin(b: &mut FunctionBuilder, op: BinOp, dtype: DType, x: Value, y: Value) -> Result<Value> {
    let signed = dtype.is_signed_int();
    let pick = |s, u| if signed { s } else { u };
    Ok(match op {
        BinOp::Add => b.ins().iadd(x, y),
        BinOp::Sub => b.ins().isub(x, y),
        BinOp::Mul => b.ins().imul(x, y),
        BinOp::Div | BinOp::Rem | BinOp::Mod => divide(b, op, signed, x, y),
        BinOp::Pow => power(b, dtype, x, y),
        BinOp::Min | BinOp::Max => {
            let less = pick(IntCC::SignedLessThan, IntCC::UnsignedLessThan);
            let c = b.ins().icmp(less, x, y);
            if op == BinOp::Min { b.ins().select(c, x, y) } else { b.ins().select(c, y, x) }
        }
        BinOp::And => b.ins().band(x, y),
        BinOp::Or => b.ins().bor(x, y),
        BinOp::Xor => b.ins().bxor(x, y),
        BinOp::Shl => b.ins().ishl(x, y),
        BinOp::Shr if signed => b.ins().sshr(x, y),
        BinOp::Shr => b.ins().ushr(x, y),
        BinOp::Eq => b.ins().icmp(IntCC::Equal, x, y),
        BinOp::Ne => b.ins().icmp(IntCC::NotEqual, x, y),
        BinOp::Lt => b.ins().icmp(pick(IntCC::SignedLessThan, IntCC::UnsignedLessThan), x, y),
        BinOp::Le => b.ins().icmp(pick(IntCC::SignedLessThanOrEqual, IntCC::UnsignedLessThanOrEqual), x, y),
        BinOp::Gt => b.ins().icmp(pick(IntCC::SignedGreaterThan, IntCC::UnsignedGreaterThan), x, y),
        BinOp::Ge => b.ins().icmp(pick(IntCC::SignedGreaterThanOrEqual, IntCC::UnsignedGreaterThanOrEqual), x, y),
    })
}

/// The value of an integer constant instruction, sign-extended.
fn constant_of(b: &FunctionBuilder, v: Value) -> Option<i64> {
    let inst = b.func.dfg.value_def(v).inst()?;
    match b.func.dfg.insts[inst] {
        cranelift_codegen::ir::InstructionData::UnaryImm { imm, .. } => {
            let shift = 64 - b.func.dfg.value_type(v).bits();
            Some((imm.bits() << shift) >> shift)
        }
        _ => None,
    }
}

/// Division, remainder, modulus in at least 32 bits (narrow divisions differ between instruction sets). By zero: 0; smallest by -1 wraps.
fn divide(b: &mut FunctionBuilder, op: BinOp, signed: bool, x: Value, y: Value) -> Value {
    let ty = b.func.dfg.value_type(x);
    let known = constant_of(b, y).filter(|c| *c > 0);
    let wide = if ty.bits() < 32 { types::I32 } else { ty };
    let extend = |b: &mut FunctionBuilder, v: Value| match (ty == wide, signed) {
        (true, _) => v,
        (false, true) => b.ins().sextend(wide, v),
        (false, false) => b.ins().uextend(wide, v),
    };
    let x = extend(b, x);
    let (y, zero) = if let Some(c) = known {
        (int_const(b, wide, c), None)
    } else {
        let y = extend(b, y);
        let zero = b.ins().icmp_imm_u(IntCC::Equal, y, 0);
        let one = int_const(b, wide, 1);
        (b.ins().select(zero, one, y), Some(zero))
    };
    let r = match (op, signed) {
        (BinOp::Div, true) => signed_quotient(b, x, y, known.is_some()),
        (BinOp::Div, false) => b.ins().udiv(x, y),
        (_, false) => b.ins().urem(x, y),
        (_, true) => {
            let q = signed_quotient(b, x, y, known.is_some());
            let back = b.ins().imul(q, y);
            let r = b.ins().isub(x, back);
            if op == BinOp::Mod { floor_remainder(b, r, y) } else { r }
        }
    };
    let r = match zero {
        Some(zero) => {
            let none = int_const(b, wide, 0);
            b.ins().select(zero, none, r)
        }
        None => r,
    };
    if ty == wide { r } else { b.ins().ireduce(ty, r) }
}

/// `x / y` for y != 0; the divisor -1, which could overflow, becomes a negation.
fn signed_quotient(b: &mut FunctionBuilder, x: Value, y: Value, positive: bool) -> Value {
    if positive {
        return b.ins().sdiv(x, y);
    }
    let ty = b.func.dfg.value_type(x);
    let minus = b.ins().icmp_imm_s(IntCC::Equal, y, -1);
    let one = int_const(b, ty, 1);
    let safe = b.ins().select(minus, one, y);
    let q = b.ins().sdiv(x, safe);
    let negated = b.ins().ineg(x);
    b.ins().select(minus, negated, q)
}

/// Gives a remainder the sign of the divisor.
fn floor_remainder(b: &mut FunctionBuilder, r: Value, y: Value) -> Value {
    let signs = b.ins().bxor(r, y);
    let differ = b.ins().icmp_imm_s(IntCC::SignedLessThan, signs, 0);
    let nonzero = b.ins().icmp_imm_s(IntCC::NotEqual, r, 0);
    let fix = b.ins().band(differ, nonzero);
    let moved = b.ins().iadd(r, y);
    b.ins().select(fix, moved, r)
}

/// `x^y` by squaring, wrapping. A negative exponent gives what truncation of the exact value gives: 0, but 1 or -1 for bases 1 and -1.
fn power(b: &mut FunctionBuilder, dtype: DType, x: Value, y: Value) -> Value {
    let ty = b.func.dfg.value_type(x);
    let one = int_const(b, ty, 1);
    let (head, body, done) = (b.create_block(), b.create_block(), b.create_block());
    let params: Vec<Value> = (0..3).map(|_| b.append_block_param(head, ty)).collect();
    b.append_block_param(done, ty);
    let exponent = if dtype.is_signed_int() {
        // For base -1 only the parity of the exponent counts, so dropping the sign is right for both special bases.
        let negative = b.ins().icmp_imm_s(IntCC::SignedLessThan, y, 0);
        let minus = b.ins().ineg(y);
        b.ins().select(negative, minus, y)
    } else {
        y
    };
    b.ins().jump(head, &[one.into(), x.into(), exponent.into()]);
    b.switch_to_block(head);
    let (result, base, e) = (params[0], params[1], params[2]);
    b.ins().brif(e, body, &[], done, &[result.into()]);
    b.switch_to_block(body);
    let odd = b.ins().band_imm_u(e, 1);
    let multiplied = b.ins().imul(result, base);
    let next = b.ins().select(odd, multiplied, result);
    let squared = b.ins().imul(base, base);
    let half = b.ins().ushr_imm_u(e, 1);
    b.ins().jump(head, &[next.into(), squared.into(), half.into()]);
    b.seal_block(body);
    b.seal_block(head);
    b.switch_to_block(done);
    b.seal_block(done);
    let r = b.block_params(done)[0];
    if !dtype.is_signed_int() {
        return r;
    }
    let zero = int_const(b, ty, 0);
    let negative = b.ins().icmp_imm_s(IntCC::SignedLessThan, y, 0);
    let is_one = b.ins().icmp_imm_s(IntCC::Equal, x, 1);
    let is_minus = b.ins().icmp_imm_s(IntCC::Equal, x, -1);
    let unit = b.ins().bor(is_one, is_minus);
    let inverse = b.ins().select(unit, r, zero);
    b.ins().select(negative, inverse, r)
}

/// Integer or bool to f32 or f64, rounded to nearest even.
pub(crate) fn to_float(b: &mut FunctionBuilder, from: DType, ty: Type, a: Value) -> Value {
    let width = b.func.dfg.value_type(a).bits();
    match (from.is_signed_int(), width) {
        (true, 32 | 64) => b.ins().fcvt_from_sint(ty, a),
        (true, _) => {
            let wide = b.ins().sextend(types::I32, a);
            b.ins().fcvt_from_sint(ty, wide)
        }
        (false, 64) => b.ins().fcvt_from_uint(ty, a),
        // A narrower unsigned value fits into i64, whose conversion is one instruction everywhere.
        (false, _) => {
            let wide = b.ins().uextend(types::I64, a);
            b.ins().fcvt_from_sint(ty, wide)
        }
    }
}

/// f32 or f64 to an integer: truncates, saturates, NaN gives 0.
pub(crate) fn from_float(b: &mut FunctionBuilder, to: DType, a: Value) -> Value {
    match to {
        DType::I64 => b.ins().fcvt_to_sint_sat(types::I64, a),
        DType::I32 => b.ins().fcvt_to_sint_sat(types::I32, a),
        DType::U64 => b.ins().fcvt_to_uint_sat(types::I64, a),
        DType::U32 => b.ins().fcvt_to_uint_sat(types::I32, a),
        _ if to.bits() < 8 => {
            let wide = b.ins().fcvt_to_sint_sat(types::I32, a);
            let byte = b.ins().ireduce(types::I8, wide);
            low_bits(b, to, byte)
        }
        _ => {
            let (lo, hi) = to.int_range().map_or((0, 1), |(lo, hi)| (lo as i64, hi as i64));
            let wide = b.ins().fcvt_to_sint_sat(types::I32, a);
            let (lo, hi) = (int_const(b, types::I32, lo), int_const(b, types::I32, hi));
            let below = b.ins().icmp(IntCC::SignedLessThan, wide, lo);
            let wide = b.ins().select(below, lo, wide);
            let above = b.ins().icmp(IntCC::SignedGreaterThan, wide, hi);
            let wide = b.ins().select(above, hi, wide);
            let ty = clif_type(to).expect("internal: checked by the caller");
            b.ins().ireduce(ty, wide)
        }
    }
}

/// A byte as an element of a type below a byte: only its low bits stay. Other types stay as they are.
pub(crate) fn low_bits(b: &mut FunctionBuilder, to: DType, a: Value) -> Value {
    let spare = 8 - i64::try_from(to.bits()).map_or(8, |bits| bits.min(8));
    match spare {
        0 => a,
        _ if to.is_signed_int() => {
            let high = b.ins().ishl_imm_u(a, spare);
            b.ins().sshr_imm_u(high, spare)
        }
        _ => b.ins().band_imm_u(a, 0xff >> spare),
    }
}

/// Integer to integer, wrapping.
pub(crate) fn resize(b: &mut FunctionBuilder, from: DType, ty: Type, a: Value) -> Value {
    let width = b.func.dfg.value_type(a).bits();
    match ty.bits().cmp(&width) {
        std::cmp::Ordering::Equal => a,
        std::cmp::Ordering::Less => b.ins().ireduce(ty, a),
        std::cmp::Ordering::Greater if from.is_signed_int() => b.ins().sextend(ty, a),
        std::cmp::Ordering::Greater => b.ins().uextend(ty, a),
    }
}
