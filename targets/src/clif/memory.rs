//! Loads and stores of the emitter that makes Cranelift IR.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use onnxc_ir::DType;

use super::{Clif, flags, flags_le};
use crate::emitter::{Lanes, Mem, Ty, V};
use crate::error::Error;

impl Clif<'_> {
    /// One element as i32 or f32.
    fn load_one(&mut self, dtype: DType, base: Value, disp: i32) -> Value {
        let f = flags();
        match dtype {
            DType::F32 => self.b.ins().load(types::F32, f, base, disp),
            DType::I32 | DType::U32 => self.b.ins().load(types::I32, f, base, disp),
            DType::U8 | DType::Bool => self.b.ins().uload8(types::I32, f, base, disp),
            DType::I8 => self.b.ins().sload8(types::I32, f, base, disp),
            DType::U16 => self.b.ins().uload16(types::I32, f, base, disp),
            _ => self.b.ins().sload16(types::I32, f, base, disp),
        }
    }

    pub(super) fn emit_load(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        let (base, disp) = self.at(at);
        let ty = if dtype == DType::F32 { Ty::F32 } else { Ty::I32 };
        let n = self.n_lanes(lanes);
        let vec_ty = self.ty(ty);
        let mut value = if !self.vector {
            self.load_one(dtype, base, disp)
        } else if n == 4 && dtype.bytes() == 4 {
            self.b.ins().load(vec_ty, flags(), base, disp)
        } else if n == 4 {
            let word = if dtype.bytes() == 1 { types::I32 } else { types::I64 };
            let packed = self.b.ins().load(word, flags(), base, disp);
            let word_vec = if dtype.bytes() == 1 { types::I32X4 } else { types::I64X2 };
            let v = self.b.ins().scalar_to_vector(word_vec, packed);
            let signed = matches!(dtype, DType::I8 | DType::I16);
            let mut v = self.b.ins().bitcast(if dtype.bytes() == 1 { types::I8X16 } else { types::I16X8 }, flags_le(), v);
            for _ in 0..(if dtype.bytes() == 1 { 2 } else { 1 }) {
                v = if signed { self.b.ins().swiden_low(v) } else { self.b.ins().uwiden_low(v) };
            }
            v
        } else {
            let mut v = self.constant(ty, 0);
            for i in 0..n {
                let x = self.load_one(dtype, base, disp + (i as i32) * dtype.bytes() as i32);
                v = self.b.ins().insertlane(v, x, i as u8);
            }
            v
        };
        let mut ty = ty;
        if dtype == DType::Bool {
            value = self.nonzero(value);
            ty = Ty::Mask;
        }
        self.set(d, value, ty);
        Ok(())
    }

    pub(super) fn emit_splat(&mut self, d: V, dtype: DType, at: Mem) -> Result<(), Error> {
        let (base, disp) = self.at(at);
        let mut ty = if dtype == DType::F32 { Ty::F32 } else { Ty::I32 };
        let vec_ty = self.ty(ty);
        let mut value = self.load_one(dtype, base, disp);
        if self.vector {
            value = self.b.ins().splat(vec_ty, value);
        }
        if dtype == DType::Bool {
            value = self.nonzero(value);
            ty = Ty::Mask;
        }
        self.set(d, value, ty);
        Ok(())
    }

    pub(super) fn emit_store(&mut self, v: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        let (base, disp) = self.at(at);
        let ty = if dtype == DType::F32 { Ty::F32 } else { Ty::I32 };
        let mut value = self.get(v, ty);
        if dtype == DType::Bool {
            let one = self.constant(Ty::I32, 1);
            value = self.b.ins().band(value, one);
        }
        let n = self.n_lanes(lanes);
        if n == 4 && dtype.bytes() == 4 {
            self.b.ins().store(flags(), value, base, disp);
            return Ok(());
        }
        self.store_lanes(value, dtype, at, dtype.bytes() as i64, n);
        Ok(())
    }

    /// Writes `n` lanes one by one, `stride` bytes apart.
    fn store_lanes(&mut self, value: Value, dtype: DType, at: Mem, stride: i64, n: u32) {
        for i in 0..n {
            let x = if self.vector { self.b.ins().extractlane(value, i as u8) } else { value };
            let (base, disp) = self.at(Mem { disp: at.disp + i64::from(i) * stride, ..at });
            match dtype.bytes() {
                1 => self.b.ins().istore8(flags(), x, base, disp),
                2 => self.b.ins().istore16(flags(), x, base, disp),
                _ => self.b.ins().store(flags(), x, base, disp),
            };
        }
    }

    pub(super) fn emit_gather(&mut self, d: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        let ty = if dtype == DType::F32 { Ty::F32 } else { Ty::I32 };
        let mut value = self.constant(ty, 0);
        for i in 0..self.n_lanes(lanes) {
            let (base, disp) = self.at(Mem { disp: at.disp + i64::from(i) * stride, ..at });
            let x = self.load_one(dtype, base, disp);
            value = if self.vector { self.b.ins().insertlane(value, x, i as u8) } else { x };
        }
        if dtype == DType::Bool {
            let mask = self.nonzero(value);
            self.set(d, mask, Ty::Mask);
        } else {
            self.set(d, value, ty);
        }
        Ok(())
    }

    pub(super) fn emit_scatter(&mut self, v: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        let ty = if dtype == DType::F32 { Ty::F32 } else { Ty::I32 };
        let mut value = self.get(v, ty);
        if dtype == DType::Bool {
            let one = self.constant(Ty::I32, 1);
            value = self.b.ins().band(value, one);
        }
        let n = self.n_lanes(lanes);
        self.store_lanes(value, dtype, at, stride, n);
        Ok(())
    }
}
