//! Arithmetic of the assembled emitter.

use iced_x86::code_asm::*;
use onnxc_ir::scalar::BinOp;

use super::{Asm, op_imm, op2, op3, x, y, z};
use crate::emitter::{Emitter, Lanes, Opd, Ty, V, VUn};
use crate::error::Error;

/// Ordered "not a NaN" and "a NaN" predicates of `vcmpps`.
const UNORDERED: i32 = 3;
const ORDERED: i32 = 7;
const GREATER_EQUAL: i32 = 13;
/// Of `vrangeps`: the lesser magnitude, with the sign of the first operand.
const LESSER: i32 = 2;

impl Asm {
    pub(super) fn emit_copy(&mut self, d: V, s: Opd) -> Result<(), Error> {
        self.writes(d);
        match s {
            Opd::Reg(v) if v == d => {}
            Opd::Reg(v) => op2!(self, vmovaps, d, v),
            Opd::Const(0) if self.zmm => self.a.vpxord(z(d), z(d), z(d))?,
            Opd::Const(0) => self.a.vxorps(y(d), y(d), y(d))?,
            Opd::Const(bits) => {
                let l = self.constant(bits);
                if self.zmm { self.a.vbroadcastss(z(d), dword_ptr(l))? } else { self.a.vmovups(y(d), ymmword_ptr(l))? }
            }
        }
        Ok(())
    }

    pub(super) fn emit_fma(&mut self, d: V, a: Opd, b: Opd, c: Opd) -> Result<(), Error> {
        self.writes(d);
        let (a, b) = if matches!(a, Opd::Const(_)) { (b, a) } else { (a, b) };
        let Opd::Reg(a) = a else {
            // Both factors are constant: one of them goes to a register first.
            let t = self.alloc(Ty::F32)?;
            self.copy(Ty::F32, t, a)?;
            self.emit_fma(d, Opd::Reg(t), b, c)?;
            self.free(t);
            return Ok(());
        };
        if c == Opd::Reg(d) {
            op3!(self, vfmadd231ps, d, a, b);
        } else if a == d && (matches!(b, Opd::Reg(_))) {
            let Opd::Reg(b) = b else { unreachable!("internal: targets: matched above") };
            op3!(self, vfmadd213ps, d, b, c);
        } else if b == Opd::Reg(d) {
            op3!(self, vfmadd213ps, d, a, c);
        } else if a == d {
            // d = d * const + c
            let (c, temp) = match c {
                Opd::Reg(c) => (c, None),
                Opd::Const(_) => {
                    let t = self.alloc(Ty::F32)?;
                    self.copy(Ty::F32, t, c)?;
                    (t, Some(t))
                }
            };
            op3!(self, vfmadd132ps, d, c, b);
            temp.into_iter().for_each(|t| self.free(t));
        } else {
            self.copy(Ty::F32, d, c)?;
            op3!(self, vfmadd231ps, d, a, b);
        }
        Ok(())
    }

    pub(super) fn emit_bin(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        self.writes(d);
        let commutes = matches!(op, BinOp::Add | BinOp::Mul | BinOp::Min | BinOp::Max | BinOp::And | BinOp::Or | BinOp::Xor);
        let (a, b) = if commutes && matches!(a, Opd::Const(_)) { (b, a) } else { (a, b) };
        if ty == Ty::F32 && matches!(op, BinOp::Min | BinOp::Max) {
            return self.float_min_max(op, d, a, b);
        }
        let (a, temp) = self.in_register(a, d, &[b])?;
        match (op, ty) {
            (BinOp::Add, Ty::F32) => op3!(self, vaddps, d, a, b),
            (BinOp::Sub, Ty::F32) => op3!(self, vsubps, d, a, b),
            (BinOp::Mul, Ty::F32) => op3!(self, vmulps, d, a, b),
            (BinOp::Div, Ty::F32) => op3!(self, vdivps, d, a, b),
            (BinOp::Add, _) => op3!(self, vpaddd, d, a, b),
            (BinOp::Sub, _) => op3!(self, vpsubd, d, a, b),
            (BinOp::Mul, _) => op3!(self, vpmulld, d, a, b),
            (BinOp::Min, _) => op3!(self, vpminsd, d, a, b),
            (BinOp::Max, _) => op3!(self, vpmaxsd, d, a, b),
            (BinOp::And, _) => op3!(self, vpandd / vpand, d, a, b),
            (BinOp::Or, _) => op3!(self, vpord / vpor, d, a, b),
            (BinOp::Xor, _) => op3!(self, vpxord / vpxor, d, a, b),
            (BinOp::Shl, _) if matches!(b, Opd::Const(_)) => {
                let Opd::Const(n) = b else { unreachable!("internal: targets: matched above") };
                op_imm!(self, vpslld, d, a, (n & 31) as i32);
            }
            (BinOp::Shr, _) if matches!(b, Opd::Const(_)) => {
                let Opd::Const(n) = b else { unreachable!("internal: targets: matched above") };
                op_imm!(self, vpsrad, d, a, (n & 31) as i32);
            }
            _ => return Err(Error::Unsupported(format!("{op:?} on vectors of {ty:?}"))),
        }
        temp.into_iter().for_each(|t| self.free(t));
        Ok(())
    }

    /// `minps` and `maxps` give the second operand when one is NaN. So the operand that may be NaN goes second; when both may, the case of the
    /// first is patched in.
    fn float_min_max(&mut self, op: BinOp, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        let emit = |s: &mut Self, d: V, first: V, second: V| -> Result<(), Error> {
            if op == BinOp::Min {
                op3!(s, vminps, d, first, Opd::Reg(second))
            } else {
                op3!(s, vmaxps, d, first, Opd::Reg(second))
            };
            Ok(())
        };
        if let (Opd::Reg(a), Opd::Const(bits)) = (a, b)
            && !f32::from_bits(bits).is_nan()
        {
            let (c, temp) = self.in_register(b, d, &[Opd::Reg(a)])?;
            emit(self, d, c, a)?;
            temp.into_iter().for_each(|t| self.free(t));
            return Ok(());
        }
        let t = self.alloc(Ty::F32)?;
        let (a, ta) = self.in_register(a, d, &[b])?;
        let (b, tb) = self.in_register(b, d, &[Opd::Reg(a)])?;
        emit(self, t, a, b)?;
        if self.zmm {
            self.k1_holds = None;
            self.a.vcmpps(k1, z(a), z(a), UNORDERED)?;
            self.a.vmovaps(z(t).k1(), z(a))?;
            op2!(self, vmovaps, d, t);
        } else {
            let m = self.alloc(Ty::Mask)?;
            self.a.vcmpps(y(m), y(a), y(a), UNORDERED)?;
            self.a.vblendvps(y(d), y(t), y(a), y(m))?;
            self.free(m);
        }
        [Some(t), ta, tb].into_iter().flatten().for_each(|t| self.free(t));
        Ok(())
    }

    pub(super) fn emit_lesser(&mut self, d: V, a: V, b: Opd) -> Result<(), Error> {
        self.writes(d);
        match b {
            Opd::Reg(b) => self.a.vrangeps(z(d), z(a), z(b), LESSER)?,
            Opd::Const(bits) => {
                let l = self.constant(bits);
                self.a.vrangeps(z(d), z(a), dword_bcst(l), LESSER)?;
            }
        }
        Ok(())
    }

    pub(super) fn emit_cmp(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        self.writes(d);
        let (op, a, b) = match (a, op) {
            (Opd::Const(_), BinOp::Lt) => (BinOp::Gt, b, a),
            (Opd::Const(_), BinOp::Le) => (BinOp::Ge, b, a),
            (Opd::Const(_), BinOp::Gt) => (BinOp::Lt, b, a),
            (Opd::Const(_), BinOp::Ge) => (BinOp::Le, b, a),
            (Opd::Const(_), _) => (op, b, a),
            _ => (op, a, b),
        };
        let (a, temp) = self.in_register(a, d, &[b])?;
        let float = |op| match op {
            BinOp::Eq => 0,
            BinOp::Ne => 4,
            BinOp::Lt => 1,
            BinOp::Le => 2,
            BinOp::Gt => 14,
            _ => GREATER_EQUAL,
        };
        let int = |op| match op {
            BinOp::Eq => 0,
            BinOp::Ne => 4,
            BinOp::Lt => 1,
            BinOp::Le => 2,
            BinOp::Gt => 6,
            _ => 5,
        };
        match (self.zmm, ty, b) {
            (true, Ty::F32, Opd::Reg(b)) => self.a.vcmpps(k1, z(a), z(b), float(op))?,
            (true, Ty::F32, Opd::Const(bits)) => {
                let l = self.constant(bits);
                self.a.vcmpps(k1, z(a), dword_bcst(l), float(op))?;
            }
            (true, _, Opd::Reg(b)) => self.a.vpcmpd(k1, z(a), z(b), int(op))?,
            (true, _, Opd::Const(bits)) => {
                let l = self.constant(bits);
                self.a.vpcmpd(k1, z(a), dword_bcst(l), int(op))?;
            }
            (false, Ty::F32, Opd::Reg(b)) => self.a.vcmpps(y(d), y(a), y(b), float(op))?,
            (false, Ty::F32, Opd::Const(bits)) => {
                let l = self.constant(bits);
                self.a.vcmpps(y(d), y(a), ymmword_ptr(l), float(op))?;
            }
            (false, ..) => self.int_cmp_avx2(op, d, a, b)?,
        }
        if self.zmm {
            self.a.vpmovm2d(z(d), k1)?;
            self.k1_holds = Some(d);
        }
        temp.into_iter().for_each(|t| self.free(t));
        Ok(())
    }

    fn int_cmp_avx2(&mut self, op: BinOp, d: V, a: V, b: Opd) -> Result<(), Error> {
        let (b, temp) = self.in_register(b, d, &[Opd::Reg(a)])?;
        match op {
            BinOp::Eq | BinOp::Ne => self.a.vpcmpeqd(y(d), y(a), y(b))?,
            BinOp::Gt | BinOp::Le => self.a.vpcmpgtd(y(d), y(a), y(b))?,
            _ => self.a.vpcmpgtd(y(d), y(b), y(a))?,
        }
        if matches!(op, BinOp::Ne | BinOp::Le | BinOp::Ge) {
            op3!(self, vpxord / vpxor, d, d, Opd::Const(u32::MAX));
        }
        temp.into_iter().for_each(|t| self.free(t));
        Ok(())
    }

    pub(super) fn emit_un(&mut self, op: VUn, ty: Ty, d: V, a: V) -> Result<(), Error> {
        self.writes(d);
        match (op, ty) {
            (VUn::Neg, Ty::F32) => op3!(self, vpxord / vpxor, d, a, Opd::Const(0x8000_0000)),
            (VUn::Neg, _) => {
                let t = self.alloc(ty)?;
                self.copy(ty, t, Opd::Const(0))?;
                op3!(self, vpsubd, d, t, Opd::Reg(a));
                self.free(t);
            }
            (VUn::Abs, Ty::F32) => op3!(self, vpandd / vpand, d, a, Opd::Const(0x7FFF_FFFF)),
            (VUn::Abs, _) => op2!(self, vpabsd, d, a),
            (VUn::Sqrt, _) => op2!(self, vsqrtps, d, a),
            (VUn::RecipNear, _) => self.reciprocal_of(d, a)?,
            (VUn::Round | VUn::Floor | VUn::Ceil | VUn::Trunc, _) => {
                // The mode, with the precision exception suppressed.
                let mode = 8 + match op {
                    VUn::Round => 0,
                    VUn::Floor => 1,
                    VUn::Ceil => 2,
                    _ => 3,
                };
                if self.zmm { self.a.vrndscaleps(z(d), z(a), mode)? } else { self.a.vroundps(y(d), y(a), mode)? }
            }
            (VUn::Not, _) => op3!(self, vpxord / vpxor, d, a, Opd::Const(u32::MAX)),
            (VUn::ToInt, _) => self.int_of(d, a)?,
            (VUn::ToNearest, _) => self.nearest_int_of(d, a)?,
            (VUn::NumberToNearest, _) => op2!(self, vcvtps2dq, d, a),
            (VUn::ToFloat, _) => op2!(self, vcvtdq2ps, d, a),
        }
        Ok(())
    }

    /// An estimate of 14 bits and a step of Newton's method: `r + r * (1 - a * r)`.
    fn reciprocal_of(&mut self, d: V, a: V) -> Result<(), Error> {
        let t = self.alloc(Ty::F32)?;
        let r = if d == a { self.alloc(Ty::F32)? } else { d };
        self.a.vrcp14ps(z(r), z(a))?;
        self.copy(Ty::F32, t, Opd::Const(1f32.to_bits()))?;
        op3!(self, vfnmadd231ps, t, r, Opd::Reg(a));
        op3!(self, vfmadd213ps, r, t, Opd::Reg(r));
        if r != d {
            self.copy(Ty::F32, d, Opd::Reg(r))?;
            self.free(r);
        }
        self.free(t);
        Ok(())
    }

    /// `cvttps2dq` gives 0x80000000 for everything that does not fit: right for large negative values; large positive ones and NaN are patched.
    fn int_of(&mut self, d: V, a: V) -> Result<(), Error> {
        let t = self.alloc(Ty::I32)?;
        let limit = self.constant(2_147_483_648f32.to_bits());
        if self.zmm {
            self.k1_holds = None;
            let most = self.constant(i32::MAX as u32);
            self.a.vcvttps2dq(z(t), z(a))?;
            self.a.vcmpps(k1, z(a), dword_bcst(limit), GREATER_EQUAL)?;
            self.a.vpbroadcastd(z(t).k1(), dword_ptr(most))?;
            self.a.vcmpps(k1, z(a), z(a), ORDERED)?;
            self.a.vmovdqa32(z(d).k1().z(), z(t))?;
        } else {
            let m = self.alloc(Ty::Mask)?;
            self.a.vcvttps2dq(y(t), y(a))?;
            self.a.vcmpps(y(m), y(a), ymmword_ptr(limit), GREATER_EQUAL)?;
            self.a.vpxor(y(t), y(t), y(m))?;
            self.a.vcmpps(y(m), y(a), y(a), ORDERED)?;
            self.a.vpand(y(d), y(t), y(m))?;
            self.free(m);
        }
        self.free(t);
        Ok(())
    }

    /// `cvtps2dq` rounds to nearest even; only NaN is patched.
    fn nearest_int_of(&mut self, d: V, a: V) -> Result<(), Error> {
        if self.zmm {
            self.k1_holds = None;
            self.a.vcmpps(k1, z(a), z(a), ORDERED)?;
            self.a.vcvtps2dq(z(d).k1().z(), z(a))?;
            return Ok(());
        }
        let m = self.alloc(Ty::Mask)?;
        self.a.vcmpps(y(m), y(a), y(a), ORDERED)?;
        self.a.vcvtps2dq(y(d), y(a))?;
        self.a.vpand(y(d), y(d), y(m))?;
        self.free(m);
        Ok(())
    }

    pub(super) fn emit_select(&mut self, d: V, mask: V, a: Opd, b: Opd) -> Result<(), Error> {
        let held = self.k1_holds == Some(mask);
        if b == Opd::Const(0) && !held {
            self.writes(d);
            op3!(self, vpandd / vpand, d, mask, a);
            return Ok(());
        }
        if self.zmm {
            if !held {
                self.a.vpmovd2m(k1, z(mask))?;
                self.k1_holds = Some(mask);
            }
            match (a, b) {
                (_, Opd::Reg(b)) => {
                    self.writes(d);
                    op_masked(self, d, b, a)
                }
                (Opd::Reg(a), Opd::Const(_)) => {
                    self.k1_holds = None;
                    self.a.knotw(k1, k1)?;
                    op_masked(self, d, a, b)
                }
                (Opd::Const(_), Opd::Const(_)) => {
                    // `mask` may be `d`; its copy in k1 is what counts.
                    self.copy(Ty::I32, d, b)?;
                    self.k1_holds = None;
                    op_masked(self, d, d, a)
                }
            }
        } else {
            self.writes(d);
            let (b, temp) = self.in_register(b, d, &[a, Opd::Reg(mask)])?;
            match a {
                Opd::Reg(a) => self.a.vblendvps(y(d), y(b), y(a), y(mask))?,
                Opd::Const(bits) => {
                    let l = self.constant(bits);
                    self.a.vblendvps(y(d), y(b), ymmword_ptr(l), y(mask))?;
                }
            }
            temp.into_iter().for_each(|t| self.free(t));
            Ok(())
        }
    }

    pub(super) fn emit_fill(&mut self, d: V, lanes: Lanes, bits: u32) -> Result<(), Error> {
        self.writes(d);
        if lanes == Lanes::All {
            return Ok(());
        }
        if self.zmm {
            let k = self.lane_mask(lanes)?;
            self.k1_holds = None;
            self.a.knotw(k1, k)?;
            let l = self.constant(bits);
            self.a.vpbroadcastd(z(d).k1(), dword_ptr(l))?;
            return Ok(());
        }
        let (mask, temp) = self.lane_mask_avx2(lanes)?;
        let t = self.alloc(Ty::I32)?;
        self.copy(Ty::I32, t, Opd::Const(bits))?;
        self.a.vblendvps(y(d), y(t), y(d), y(mask))?;
        self.free(t);
        temp.into_iter().for_each(|t| self.free(t));
        Ok(())
    }

    /// Narrows 8 lanes of 32 bits to bytes (or words) in the low half of the xmm part of `t`. Values are in range already.
    pub(super) fn narrow_avx2(&mut self, t: V, v: V, bytes: u64, signed: bool) -> Result<(), Error> {
        let u = self.alloc(Ty::I32)?;
        self.a.vextracti128(x(u), y(v), 1)?;
        match (bytes, signed) {
            (_, true) => self.a.vpackssdw(x(t), x(v), x(u))?,
            (_, false) => self.a.vpackusdw(x(t), x(v), x(u))?,
        }
        if bytes == 1 {
            if signed { self.a.vpacksswb(x(t), x(t), x(t))? } else { self.a.vpackuswb(x(t), x(t), x(t))? }
        }
        self.free(u);
        Ok(())
    }
}

/// `d = k1 ? taken : other`.
fn op_masked(s: &mut Asm, d: V, other: V, taken: Opd) -> Result<(), Error> {
    match taken {
        Opd::Reg(taken) => s.a.vblendmps(z(d).k1(), z(other), z(taken))?,
        Opd::Const(bits) => {
            let l = s.constant(bits);
            s.a.vblendmps(z(d).k1(), z(other), dword_bcst(l))?;
        }
    }
    Ok(())
}
