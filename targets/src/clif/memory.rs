//! Loads and stores of the emitter that makes Cranelift IR.

use cranelift_codegen::ir::{InstBuilder, Value, types};
use onnxc_ir::DType;

use super::{Clif, flags, flags_le};
use crate::emitter::{Bytes, Lanes, Mem, Ty, V};
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

    /// Packs up to four vectors to one of bytes, by way of words that saturate, and stores what is side by side in memory together.
    pub(super) fn emit_store_bytes(&mut self, v: &[V], at: &[(Mem, Lanes)], bytes: &Bytes) {
        let values: Vec<Value> = v.iter().map(|v| self.get(*v, Ty::I32)).collect();
        let mut words: Vec<Value> = values.chunks(2).map(|pair| self.b.ins().snarrow(pair[0], pair[pair.len() - 1])).collect();
        if bytes.moved != 0 {
            let by = self.vector_constant(types::I16X8, &(bytes.moved as i16).to_le_bytes().repeat(8));
            words.iter_mut().for_each(|w| *w = self.b.ins().sadd_sat(*w, by));
        }
        let (low, high) = (words[0], words[words.len() - 1]);
        let packed = if bytes.dtype == DType::I8 { self.b.ins().snarrow(low, high) } else { self.b.ins().unarrow(low, high) };
        let mut first = 0;
        while first < at.len() {
            let next_to = |n: usize| {
                let (before, this) = (at[first + n - 1], at[first + n]);
                let whole = matches!(before.1, Lanes::All);
                whole && before.0.base == this.0.base && before.0.disp + 4 == this.0.disp
            };
            let mut n = 1;
            while first + n < at.len() && next_to(n) {
                n += 1;
            }
            let count = 4 * (n as u32 - 1) + self.n_lanes(at[first + n - 1].1);
            self.store_packed(packed, 4 * first as u32, count, at[first].0);
            first += n;
        }
    }

    /// `count` bytes of a vector from byte `first` on, which begins a group of four.
    fn store_packed(&mut self, packed: Value, first: u32, count: u32, at: Mem) {
        let (mut done, end) = (0, count);
        while done < end {
            let (from, left) = (first + done, end - done);
            let (base, disp) = self.at(Mem { disp: at.disp + i64::from(done), ..at });
            // The widest lane that begins there and is no longer than what is left.
            let widths = [(16, types::I8X16), (8, types::I64X2), (4, types::I32X4), (2, types::I16X8), (1, types::I8X16)];
            let fits = |w: &&(u32, _)| w.0 <= left && from.is_multiple_of(w.0);
            let (width, ty) = *widths.iter().find(fits).expect("internal: targets: a byte fits");
            if width == 16 {
                self.b.ins().store(flags(), packed, base, disp);
            } else {
                let lanes = if ty == types::I8X16 { packed } else { self.b.ins().bitcast(ty, flags_le(), packed) };
                let lane = self.b.ins().extractlane(lanes, (from / width) as u8);
                self.b.ins().store(flags(), lane, base, disp);
            }
            done += width;
        }
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
